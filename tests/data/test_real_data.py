"""Real data and the Llama 2 tokenizer, counted by sentencepiece as an independent truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvf.config.compose import compose
from lvf.config.data_schema import SourceConfig
from lvf.data.prompts import encode_examples, example_text
from lvf.data.shards import prepare
from lvf.data.sources import read_documents
from lvf.models.load import load_tokenizer
from tests.real_models import llama2_tokenizer

from .conftest import read_rows


@pytest.fixture(scope="session")
def llama2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the Llama 2 tokenizer and the shape of a model that has its vocabulary."""
    from transformers import LlamaConfig

    folder = llama2_tokenizer(shared_data, tmp_path_factory.mktemp("llama2"))
    LlamaConfig(max_position_embeddings=4096).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentencepiece_model(shared_data: Path) -> Any:
    """The reference implementation of the same tokenizer."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(str(shared_data / "tokenizer" / "llama2" / "tokenizer.model"))


def math_texts(shared_data: Path) -> list[tuple[str, str]]:
    """GSM8K's training split as the paper's math_ift data would be templated."""
    data = compose("scale=paper", "domain=math", "regime=ift").data
    source = SourceConfig(path=str(shared_data / "train" / "math_ift.jsonl"))
    return [example_text(row, data) for row in read_documents(source, ["query", "response"])]


@pytest.mark.slow
def test_gsm8k_in_rows_of_1024_has_the_tokens_that_sentencepiece_counts(
    shared_data: Path, llama2: Path, sentencepiece_model: Any, tmp_path: Path
) -> None:
    cfg = compose("scale=paper", "domain=math", "regime=ift", f"model.path={llama2}")
    train = shared_data / "train" / "math_ift.jsonl"
    cfg.data.train = cfg.data.validation = cfg.data.heldout = SourceConfig(path=str(train))
    cfg.paths.shards, cfg.training.global_batch_size = str(tmp_path), 8
    cfg.evals.tasks, cfg.evals.forgetting, cfg.training.packing_ratio = [], [], None
    prepared = prepare(cfg)
    texts = [prompt + response for prompt, response in math_texts(shared_data)]
    lengths = np.array([len(ids) + 2 for ids in sentencepiece_model.encode(texts)])
    assert len(texts) == 7473
    # The development data's README, measured apart from this code.
    assert (round(lengths.mean()), np.median(lengths), lengths.max()) == (232, 218, 606)
    assert prepared.num_tokens == lengths.sum()
    for percent, length in prepared.stats["length_percentiles"].items():
        assert length == np.percentile(lengths, int(percent), method="inverted_cdf")
    assert prepared.num_rows <= 1.05 * lengths.sum() / 1024
    rows = read_rows(prepared.train)
    assert sum(np.count_nonzero(row["input_ids"] == 2) for row in rows) == 7473


@pytest.mark.slow
@pytest.mark.parametrize("name", ["code_ift", "math_cpt", "code_cpt"])
def test_the_other_training_files_have_the_tokens_that_sentencepiece_counts(
    shared_data: Path, llama2: Path, sentencepiece_model: Any, tmp_path: Path, name: str
) -> None:
    cfg = compose(
        "scale=paper", f"domain={name[:4]}", f"regime={name[-3:]}", f"model.path={llama2}"
    )
    train = shared_data / "train" / f"{name}.jsonl"
    cfg.data.train = SourceConfig(path=str(train))
    cfg.data.validation = cfg.data.heldout = SourceConfig(path=str(write_one(tmp_path, train)))
    if name == "code_cpt":
        cfg.data.text_column = "text"
    cfg.paths.shards, cfg.training.global_batch_size = str(tmp_path), 8
    cfg.evals.tasks = cfg.evals.forgetting = []
    prepared = prepare(cfg)
    lines = [json.loads(line) for line in train.read_text().split("\n") if line]
    texts = ["".join(example_text(line, cfg.data)) for line in lines]
    lengths = np.array([len(ids) + 2 for ids in sentencepiece_model.encode(texts)])
    assert prepared.stats["tokens_before_cuts"] == lengths.sum()
    within = np.minimum(lengths, 4096).sum() if name == "code_ift" else lengths.sum()
    assert prepared.num_tokens == within
    assert prepared.stats["truncated_tokens"] == lengths.sum() - within
    counted = sum(int((row["segment_ids"] > 0).sum()) for row in read_rows(prepared.train))
    assert counted == within


def write_one(folder: Path, source: Path) -> Path:
    """The first document of a file, to be held out."""
    target = folder / "held.jsonl"
    target.write_text(source.read_text().partition("\n")[0] + "\n")
    return target


@pytest.mark.slow
def test_the_loss_on_gsm8k_is_on_the_response_and_nothing_else(
    shared_data: Path, llama2: Path, sentencepiece_model: Any
) -> None:
    tokenizer = load_tokenizer(compose(f"model.path={llama2}").model)
    pairs = math_texts(shared_data)[:1000]
    for (prompt, response), (ids, in_loss) in zip(
        pairs, encode_examples(tokenizer, pairs, 2), strict=True
    ):
        assert ids.tolist() == [1, *sentencepiece_model.encode(prompt + response), 2]
        assert not in_loss[: in_loss.argmax()].any() and in_loss[in_loss.argmax() :].all()
        predicted = sentencepiece_model.decode(ids[in_loss][:-1].tolist())
        assert predicted.strip() == response.strip()


def test_wikitext_is_usable_as_source_text(shared_data: Path) -> None:
    source = SourceConfig(path=str(shared_data / "text" / "wikitext2_valid.txt"))
    texts = [row["text"] for row in read_documents(source, ["text"])]
    whole = (shared_data / "text" / "wikitext2_valid.txt").read_text()
    assert "".join("".join(texts).split()) == "".join(whole.split())


@pytest.mark.parametrize("name", ["math_ift", "code_ift", "math_cpt", "code_cpt"])
def test_the_training_files_are_readable_whole(shared_data: Path, name: str) -> None:
    path = shared_data / "train" / f"{name}.jsonl"
    cfg = compose("scale=paper", f"domain={name[:4]}", f"regime={name[-3:]}")
    data = cfg.data
    columns = [data.prompt_column, data.response_column] if name.endswith("ift") else ["text"]
    documents = list(read_documents(SourceConfig(path=str(path)), [one for one in columns if one]))
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert documents == [{column: line[column] for column in columns} for line in lines]
