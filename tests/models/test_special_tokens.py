"""What a tokenizer puts around a text is the same in training, sampling, lm-eval, likelihoods."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import ModelConfig
from lvf.data.prompts import encode_examples, prompt_ids
from lvf.data.shards import prepare
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.load import load_tokenizer
from lvf.models.special_tokens import end_ids
from lvf.training.exporter import write_export

ENDS = {"SpecialToken": {"id": "</s>", "type_id": 0}}
BEGINS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SPECIAL = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
           "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}  # fmt: skip


def base_with(folder: Path, template: list[Any], sequence: bool = False) -> Path:
    """The packaged base with another template of special tokens around a text."""
    shutil.copytree(base_dir(), folder)
    file = folder / "tokenizer.json"
    saved = json.loads(file.read_text())
    assert [one["id"] for one in saved["added_tokens"][:2]] == [0, 1]
    second = {"Sequence": {"id": "B", "type_id": 1}}
    processor: dict[str, Any] = {
        "type": "TemplateProcessing", "single": template, "pair": [*template, second],
        "special_tokens": SPECIAL,
    }  # fmt: skip
    if sequence:
        bytes_first = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                       "use_regex": True}  # fmt: skip
        processor = {"type": "Sequence", "processors": [bytes_first, processor]}
    file.write_text(json.dumps(saved | {"post_processor": processor}))
    return folder


def tokenizer_of(path: Path | str) -> Any:
    return load_tokenizer(ModelConfig(name="own", path=str(path)))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("begins", [[], [BEGINS]])
def test_nothing_stands_behind_a_prompt(tmp_path: Path, begins: list[Any], sequence: bool) -> None:
    tokenizer = tokenizer_of(base_with(tmp_path / "own", [*begins, TEXT, ENDS], sequence))
    plain = Tokenizer.from_file(str(base_dir() / "tokenizer.json")).encode("What is 2?").ids
    expected = [0] * len(begins) + plain
    assert tokenizer("What is 2?")["input_ids"] == expected
    assert prompt_ids(tokenizer, "What is 2?") == expected
    lm = HFLM(pretrained=tiny_model(), tokenizer=tokenizer)
    assert lm.tok_encode("What is 2?") == expected
    ((ids, in_loss),) = encode_examples(tokenizer, [("What is 2?", "")], 1)
    assert ids.tolist() == [*expected, 1] and in_loss.tolist() == [False] * len(expected) + [True]


def tiny_model() -> LlamaForCausalLM:
    shape = LlamaConfig(
        vocab_size=1280, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def test_a_prompt_with_its_own_bos_gets_no_second_one(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(base_with(tmp_path / "own", [BEGINS, TEXT]))
    ids = prompt_ids(tokenizer, "<s>What is 2?")
    assert ids == prompt_ids(tokenizer, "What is 2?") and ids.count(0) == 1
    ((trained, _),) = encode_examples(tokenizer, [("<s>What is 2?", "")], 1)
    assert trained.tolist() == [*ids, 1]
    assert HFLM(pretrained=tiny_model(), tokenizer=tokenizer).tok_encode("<s>What is 2?") == ids


def test_every_end_that_the_model_or_tokenizer_names_ends_a_text() -> None:
    model, tokenizer = tiny_model(), tokenizer_of("embedded")
    assert end_ids(model, tokenizer) == {1}
    for named, expected in ((7, {1, 7}), ([7, 8], {1, 7, 8}), (None, {1})):
        model.generation_config.eos_token_id = named
        assert end_ids(model, tokenizer) == expected


@pytest.fixture
def larger_tokenizer(tmp_path: Path) -> Path:
    """The packaged base, its tokenizer with four more tokens than the model has embeddings."""
    folder = tmp_path / "large"
    shutil.copytree(base_dir(), folder)
    tokenizer = AutoTokenizer.from_pretrained(base_dir())
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(4)])
    tokenizer.save_pretrained(folder)
    return folder


def prepared_rows(tmp_path: Path, model: Path, odd: str, held: str = "") -> Any:
    for name, text, number in (("train", odd, 40), ("held", held, 8)):
        rows = [{"query": f"What is {n}?", "response": f"{n}."} for n in range(number)]
        rows.append({"query": "last" + text, "response": "row"})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cfg = compose(
        f"model.path={model}",
        f"data.train.path={tmp_path}/train.jsonl",
        f"++data.validation.path={tmp_path}/held.jsonl",
        f"++data.heldout.path={tmp_path}/held.jsonl",
        "training.global_batch_size=1",
        f"paths.shards={tmp_path}/shards",
    )
    return prepare(cfg)


def test_added_tokens_that_never_occur_do_no_harm(tmp_path: Path, larger_tokenizer: Path) -> None:
    with_more = prepared_rows(tmp_path, larger_tokenizer, "")
    plain = prepared_rows(tmp_path, base_dir(), "")
    assert with_more.num_tokens == plain.num_tokens > 40


@pytest.mark.parametrize("where", ["odd", "held"])
def test_an_id_beyond_the_embeddings_is_named_with_its_place(
    tmp_path: Path, larger_tokenizer: Path, where: str
) -> None:
    place = "train.jsonl:41" if where == "odd" else "validation document 9"
    words = rf"{place}: .*'<extra_2>' the id 1282.* 1280 ids only.*model.tokenizer"
    text = {"odd": "", "held": ""} | {where: "<extra_2>"}
    with pytest.raises(UserError, match=words):
        prepared_rows(tmp_path, larger_tokenizer, **text)
    assert not list((tmp_path / "shards").glob("*/recipe.json"))


def test_settings_of_generation_that_transformers_refuses_do_not_stop_an_export(
    tmp_path: Path,
) -> None:
    model = tiny_model()
    model.generation_config.temperature, model.generation_config.top_p = 0.9, 0.6
    write_export(model, model.state_dict(), tokenizer_of("embedded"), tmp_path / "ba1", {})
    again = LlamaForCausalLM.from_pretrained(tmp_path / "ba1")
    assert np.array_equal(again.lm_head.weight.detach(), model.lm_head.weight.detach())
    assert again.generation_config.eos_token_id == 1 and not again.generation_config.do_sample
