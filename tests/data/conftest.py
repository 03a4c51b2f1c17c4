"""A tiny tokenizer and model shape on disk, and runs that use them."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig
from lvf.data import part, sources

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests fork after using a tokenizer

TEXT = (
    "a cat and seven dogs buy 12 apples for 3 coins each , then they sell 5 of them again . "
    "Question : how many are left ? Answer : the answer is 42 . ### Response Instruction "
)
WORDS = TEXT.split()
VOCAB_SIZE = 512
MakeRun = Callable[..., RunConfig]


def sentence(seed: int, num_words: int) -> str:
    """Some words that depend on the seed only."""
    return " ".join(
        WORDS[(seed * 31 + place * place * 7) % len(WORDS)] for place in range(num_words)
    )


def pair(seed: int) -> dict[str, str]:
    """A distinct question and answer of varying lengths."""
    return {
        "query": f"{seed} {sentence(seed, 3 + seed % 11)}",
        "response": sentence(seed + 5, 1 + seed % 7),
    }


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shape of a small Llama, with a byte-level BPE tokenizer that puts <s> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 100,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((sentence(seed, 30) for seed in range(50)), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    folder = tmp_path_factory.mktemp("model")
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Any:
    """The tiny tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture
def make_run(model_folder: Path, tmp_path: Path) -> MakeRun:
    """Make a run on given rows; all its paths lie in this test's folder."""

    def make(rows: Iterable[dict[str, Any]] | None = None, **training: Any) -> RunConfig:
        cfg = compose("domain=math", "regime=ift", f"model.path={model_folder}")
        rows = map(pair, range(200)) if rows is None else rows
        cfg.data.train = SourceConfig(path=str(write_jsonl(tmp_path / "train.jsonl", rows)))
        held = [pair(seed) for seed in range(1000, 1010)]
        cfg.data.validation = SourceConfig(
            path=str(write_jsonl(tmp_path / "validation.jsonl", held))
        )
        cfg.data.heldout = SourceConfig(path=str(write_jsonl(tmp_path / "heldout.jsonl", held)))
        cfg.evals.tasks = cfg.evals.forgetting = []  # no evaluation set to compare with
        cfg.paths.shards = str(tmp_path / "shards")
        cfg.training.seq_len = 64
        cfg.training.global_batch_size = 4
        for name, value in training.items():
            setattr(cfg.training, name, value)
        return cfg

    return make


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few documents are a part, so that a small corpus has many."""
    monkeypatch.setattr(sources, "PART_ROWS", 20)
    monkeypatch.setattr(part, "ENCODE_AT_ONCE", 7)


def read_rows(train: Path) -> list[dict[str, Any]]:
    """All rows of an MDS folder, read shard by shard without StreamingDataset."""
    from streaming.base.format import reader_from_json

    index = json.loads((train / "index.json").read_text())
    shards = [reader_from_json(str(train), "", shard) for shard in index["shards"]]
    return [shard[place] for shard in shards for place in range(shard.samples)]
