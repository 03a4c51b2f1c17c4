"""Files of transformers 5 and 4 are read rightly by the version that is installed, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.load import load_base, load_export, load_model_config, load_tokenizer
from lvf.models.newer import READS_BOTH
from tests.real_models import LLAMA_TOKENIZER, READS_SENTENCEPIECE

HEAD = 8
THETA = 500_000.0
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
SAVED: dict[str, dict[str, Any]] = {
    "by 5": {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}},
    "by 4": {"rope_theta": THETA, "rope_scaling": None},
    "by 5, scaled": {"rope_parameters": {"rope_theta": THETA, **LLAMA3}},
    "by 4, scaled": {"rope_theta": THETA, "rope_scaling": LLAMA3},
}


def folder_with(tmp_path: Path, rope: dict[str, Any]) -> Path:
    """A small random Llama whose config.json says this about its rotary embeddings."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=32, intermediate_size=48, vocab_size=1280, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for name in ("rope_theta", "rope_scaling", "rope_parameters"):
        config.pop(name, None)
    file.write_text(json.dumps(config | rope))
    return tmp_path


def model_in(folder: Path) -> ModelConfig:
    return ModelConfig(name="saved", path=str(folder))


def frequencies(scaled: bool) -> torch.Tensor:
    """Of rotary embeddings: Su et al. 2021, eq. 15; scaled as Llama 3's reference code does."""
    plain = THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    if not scaled:
        return plain
    waves = LLAMA3["original_max_position_embeddings"] * plain / (2 * torch.pi)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = ((waves - low) / (high - low)).clamp(0, 1)
    return plain * (smooth + (1 - smooth) / LLAMA3["factor"])


@pytest.mark.parametrize("saved", SAVED)
def test_rotary_embeddings_turn_as_the_saved_file_says(saved: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, SAVED[saved])
    model = model_in(folder)
    exported, _ = load_export(folder, ModelConfig(name="base", path="embedded"))
    for loaded in (load_base(model), exported, LlamaForCausalLM(load_model_config(model))):
        turning: Any = loaded.model.rotary_emb
        torch.testing.assert_close(turning.inv_freq, frequencies("scaled" in saved))


def test_files_of_both_versions_give_the_same_logits(tmp_path: Path) -> None:
    ids = torch.arange(60)[None]
    logits = []
    for name in ("by 4", "by 5"):
        folder = folder_with(tmp_path / name, SAVED[name])
        logits.append(load_base(model_in(folder))(ids).logits)
    assert torch.equal(*logits)


@pytest.mark.skipif(READS_BOTH, reason="transformers 5 reads its own files")
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "proportional"}},
        {"rope_parameters": {"rope_theta": THETA, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"full_attention": {"rope_theta": THETA, "rope_type": "default"}}},
        {"text_config": {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}}},
    ],
    ids=["other scaling", "unknown type", "other field", "by kind of layer", "inner model"],
)
def test_positions_that_transformers_4_cannot_compute_are_refused(
    rope: dict[str, Any], tmp_path: Path
) -> None:
    model = model_in(folder_with(tmp_path, rope))
    for load in (load_model_config, load_base):
        with pytest.raises(UserError, match="rope_parameters=.* mean nothing to transformers 4"):
            load(model)


@pytest.mark.parametrize("extra", [[], ["<pad>"]])
def test_a_tokenizer_of_version_5_gives_the_ids_of_its_file(
    extra: list[str], tmp_path: Path
) -> None:
    file = base_dir() / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(file.read_bytes())
    config = {
        "backend": "tokenizers", "bos_token": "<s>", "clean_up_tokenization_spaces": False,
        "eos_token": "</s>", "pad_token": "<pad>", "is_local": True, "model_max_length": 512,
        "extra_special_tokens": extra, "tokenizer_class": "TokenizersBackend",
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(ModelConfig(name="base", path="embedded", tokenizer=str(tmp_path)))
    expected = Tokenizer.from_file(str(file))
    text = "def add_3(x):\n    return x + 3</s>The red  cup costs £3.<pad>"
    assert tokenizer(text)["input_ids"] == expected.encode(text).ids
    assert tokenizer.eos_token_id == expected.token_to_id("</s>")
    skipped = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert skipped == "def add_3(x):\n    return x + 3The red  cup costs £3."


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "options",
    [{}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": True},
     {"normalization_rule_name": "nmt_nfkc_cf"}],
    ids=json.dumps,
)  # fmt: skip
def test_a_sentencepiece_file_gives_the_ids_that_sentencepiece_gives_or_is_refused(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    trained = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False} | options
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x\n a  line with  blanks, and some words more\n" * 20)
    SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type=kind,
        vocab_size=310,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **trained,
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(LLAMA_TOKENIZER))
    reference = SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    try:
        tokenizer = load_tokenizer(ModelConfig(name="own", tokenizer=str(tmp_path)))
    except UserError as error:
        assert "other ids than sentencepiece" in str(error)
        assert (kind, options) != ("bpe", {}) or not READS_SENTENCEPIECE  # Llama 2's kind
        return
    for sample in ("words", " words", "  words", "return  x", "a\n    line\n", "unseen: é€"):
        ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
        assert ids == reference.encode(sample), sample
    assert tokenizer("words")["input_ids"][0] == reference.bos_id()


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "qwen2"])
def test_special_tokens_that_only_the_class_names_are_kept(tmp_path: Path, model_type: str) -> None:
    saved = Tokenizer(models.BPE())
    saved.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    saved.train_from_iterator(["hello world"] * 9, trainer)
    saved.save(str(tmp_path / "tokenizer.json"))
    # openai-community/gpt2 has no more in it than this.
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(ModelConfig(name="own", path=str(tmp_path)))
    assert tokenizer.eos_token_id == saved.token_to_id("<|endoftext|>")
    assert tokenizer.model_max_length == 1024
    assert tokenizer(" hello world")["input_ids"] == saved.encode(" hello world").ids
