"""A tiny random model on disk and small benchmark files in the official columns."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.schema import RunConfig

NUM_ITEMS = 24
WORDS = ["red", "blue", "cold", "warm", "tall", "old", "small", "bright", "quiet", "heavy"]
SUBJECTS = [
    *("econometrics", "high_school_geography", "high_school_government_and_politics"),
    *("high_school_macroeconomics", "high_school_microeconomics", "high_school_psychology"),
    *("human_sexuality", "professional_psychology", "public_relations", "security_studies"),
    *("sociology", "us_foreign_policy"),
]
"""MMLU's social sciences."""
THINGS = ["cup", "lamp", "chair", "box", "river", "stone", "tower", "garden", "letter", "wheel"]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small file for every split that the configuration names."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for task, splits in {
        "gsm8k": ("train", "test"),
        "arc_challenge": ("train", "test"),
        "hellaswag": ("train", "validation"),
        "winogrande": ("train", "validation"),
        "humaneval": ("test",),
    }.items():
        for split in splits:
            rng = random.Random(f"{task} {split}")
            rows = [globals()[f"_{task}"](rng, number) for number in range(NUM_ITEMS)]
            write_jsonl(folder / f"{task}_{split}.jsonl", rows)
    for number, subject in enumerate(SUBJECTS):
        (folder / "mmlu" / subject).mkdir(parents=True)
        for split, num_items in {"dev": 3, "test": 4 + number % 3}.items():
            rng = random.Random(f"{subject} {split}")
            rows = [_mmlu(rng) for _ in range(num_items)]
            write_jsonl(folder / "mmlu" / subject / f"{split}.jsonl", rows)
    return folder


def _phrase(rng: random.Random) -> str:
    return f"the {rng.choice(WORDS)} {rng.choice(THINGS)}"


def _gsm8k(rng: random.Random, _number: int) -> dict[str, Any]:
    a, b = rng.randint(1, 50), rng.randint(1, 50)
    question = f"{_phrase(rng)} costs {a} and {_phrase(rng)} costs {b}. What do both cost?"
    return {"question": question, "answer": f"{a} + {b} = {a + b}\n#### {a + b}"}


def _arc_challenge(rng: random.Random, number: int) -> dict[str, Any]:
    choices = {"text": [_phrase(rng) for _ in range(4)], "label": ["A", "B", "C", "D"]}
    question = f"What stands behind {_phrase(rng)}?"
    return {
        "id": str(number),
        "question": question,
        "choices": choices,
        "answerKey": rng.choice("ABCD"),
    }


def _hellaswag(rng: random.Random, number: int) -> dict[str, Any]:
    ctx_a, ctx_b = f"Someone sees {_phrase(rng)}.", "then he"
    return {
        "ind": number,
        "activity_label": rng.choice(THINGS),
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": [f"takes {_phrase(rng)} away." for _ in range(4)],
        "label": str(rng.randrange(4)),
    }


def _winogrande(rng: random.Random, _number: int) -> dict[str, Any]:
    one, two = rng.sample(THINGS, 2)
    sentence = f"The {one} did not fit the {two} because the _ was {rng.choice(WORDS)}."
    return {"sentence": sentence, "option1": one, "option2": two, "answer": rng.choice("12")}


def _mmlu(rng: random.Random) -> dict[str, Any]:
    choices = [_phrase(rng) for _ in range(4)]
    return {
        "question": f"What stands behind {_phrase(rng)}?",
        "choices": choices,
        "answer": rng.randrange(4),
    }


def _humaneval(rng: random.Random, number: int) -> dict[str, Any]:
    step = rng.randint(1, 9)
    name = f"add_{step}"
    return {
        "task_id": f"Tiny/{number}",
        "prompt": f'def {name}(x):\n    """Return x plus {step}."""\n',
        "entry_point": name,
        "canonical_solution": f"    return x + {step}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + step}\n",
    }


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, benchmarks: Path) -> Path:
    """A random Llama of 30,000 parameters with a byte-level tokenizer, as transformers saves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lvf.embedded.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(path.read_text() for path in sorted(benchmarks.glob("*.jsonl")))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,  # outputs that vary from item to item
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_dir: Path) -> Any:
    """The random model, ready to be measured."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Any:
    """Its tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def cfg(benchmarks: Path) -> RunConfig:
    """A run whose benchmarks are the small files."""
    return compose(
        "+experiment=math_ift",
        "method=lora",
        f"evals.benchmarks={benchmarks}",
        "evals.batch_size=8",
        "training.seq_len=32",
    )
