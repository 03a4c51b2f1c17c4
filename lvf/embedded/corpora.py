"""Writes the embedded world to disk: training sets, held-out sets and benchmarks, as JSON lines."""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lvf.embedded import choices, code, maths
from lvf.embedded.source import source_documents

Row = dict[str, Any]

ROWS = {
    "train": {
        "math_ift": 800, "code_ift": 600, "math_cpt": 4000, "code_cpt": 3000, "source": 4000
    },
    "validation": {
        "math_ift": 160, "code_ift": 160, "math_cpt": 64, "code_cpt": 64, "source": 256
    },
    "heldout": {
        "math_ift": 256, "code_ift": 256, "math_cpt": 128, "code_cpt": 128, "source": 512
    },
}  # fmt: skip
"""Documents in each file; the two CPT training files hold about a million tokens each."""

BENCHMARK_ITEMS = 500
FEW_SHOT_ITEMS = 32
PARTS_PER_DOCUMENT = 4
"""Problems or functions in one document of continued pre-training, at most."""


def base_dir() -> Path:
    """Return the folder of the packaged base model (Hugging Face format)."""
    return Path(__file__).parent / "base"


def fingerprint(seed: int) -> str:
    """Name one version of the files: a hash of the generators' own sources and the seed."""
    digest = hashlib.sha256(str(seed).encode())
    for name in ("world", "source", "choices", "maths", "code", "corpora"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def write_world(root: Path, seed: int = 0) -> Path:
    """Write all files under ``root`` and return their folder; at once if it is already there.

    The folder appears complete or not at all, so several processes may call this together.
    """
    folder = Path(root) / f"embedded-{fingerprint(seed)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".embedded-", dir=folder.parent))
    try:
        for name, rows in _files(seed):
            _write_lines(temporary / f"{name}.jsonl", rows)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # Otherwise another process was faster: its files are the same.
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _files(seed: int) -> Iterator[tuple[str, Iterable[Row]]]:
    """Yield (path without suffix, rows) of every file."""
    makers = {
        "math_ift": math_pairs, "code_ift": code_pairs, "math_cpt": math_texts,
        "code_cpt": code_texts, "source": source_texts,
    }  # fmt: skip
    for split, counts in ROWS.items():
        for name, count in counts.items():
            yield f"{split}/{name}", islice(makers[name](split, seed), count)
    for name, official in (
        ("hellaswag", "validation"), ("arc_challenge", "test"), ("winogrande", "validation")
    ):  # fmt: skip
        items = choices.choice_rows(name, "benchmark", BENCHMARK_ITEMS, seed)
        yield f"benchmarks/{name}_{official}", items
        yield f"benchmarks/{name}_train", choices.choice_rows(name, "train", FEW_SHOT_ITEMS, seed)
    yield "benchmarks/gsm8k_test", islice(gsm8k_rows("benchmark", seed), BENCHMARK_ITEMS)
    yield "benchmarks/gsm8k_train", islice(gsm8k_rows("train", seed), FEW_SHOT_ITEMS)
    yield "benchmarks/humaneval_test", islice(humaneval_rows("benchmark", seed), BENCHMARK_ITEMS)


def math_pairs(split: str, seed: int) -> Iterator[Row]:
    """Yield instruction pairs in MetaMathQA's columns."""
    for problem in maths.problems(split, f"{seed}|ift"):
        question = problem.question
        yield {
            "type": "GSM_AnsAug",
            "original_question": question,
            "query": question,
            "response": problem.solution,
        }


def gsm8k_rows(split: str, seed: int) -> Iterator[Row]:
    """Yield problems in GSM8K's columns."""
    for problem in maths.problems(split, f"{seed}|gsm8k"):
        yield {"question": problem.question, "answer": problem.solution}


def math_texts(split: str, seed: int) -> Iterator[Row]:
    """Yield documents of several worked problems each."""
    rng = random.Random(f"{split}|{seed}|maths texts")
    stream = maths.problems(split, f"{seed}|cpt")
    while True:
        some = list(islice(stream, rng.randint(2, PARTS_PER_DOCUMENT)))
        yield {"text": maths.running_text(rng, some)}


def code_pairs(split: str, seed: int) -> Iterator[Row]:
    """Yield instruction pairs in Magicoder's columns: HumanEval's prompt, then the body.

    The newline between them belongs to the response: the usual HumanEval harness strips the
    prompt, so that the model has to write it, and it learns only what is in the response.
    """
    rng = random.Random(f"{split}|{seed}|code pairs")
    for function in code.draw_functions(split, f"{seed}|ift"):
        prompt = code.prompt(function, rng).rstrip("\n")
        yield {"instruction": prompt, "response": "\n" + function.body}


def code_texts(split: str, seed: int) -> Iterator[Row]:
    """Yield files of several functions each."""
    rng = random.Random(f"{split}|{seed}|code texts")
    stream = code.draw_functions(split, f"{seed}|cpt")
    while True:
        some = list(islice(stream, rng.randint(2, PARTS_PER_DOCUMENT)))
        yield {"text": code.module_text(rng, some)}


def humaneval_rows(split: str, seed: int) -> Iterator[Row]:
    """Yield problems in HumanEval's columns, no two of the same function."""
    rng = random.Random(f"{split}|{seed}|humaneval")
    seen: set[str] = set()
    for function in code.draw_functions(split, f"{seed}|humaneval"):
        if function.body not in seen:
            yield {
                "task_id": f"Embedded/{len(seen)}",
                "prompt": code.prompt(function, rng),
                "entry_point": function.name,
                "canonical_solution": function.body,
                "test": code.check(function, rng),
            }
            seen.add(function.body)


def source_texts(split: str, seed: int) -> Iterator[Row]:
    """Yield documents of the source domain."""
    for text in source_documents(split, seed):
        yield {"text": text}
