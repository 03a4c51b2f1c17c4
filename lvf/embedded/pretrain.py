"""Pre-trains the packaged base model: ``python -m lvf.embedded.pretrain`` (``make base``).

Deterministic for a given seed, device and number of threads. Took 30 minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.embedded import code, maths
from lvf.embedded.corpora import base_dir
from lvf.embedded.source import source_documents
from lvf.embedded.tokenizer import VOCABULARY, train_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MIX = {"source": 65, "arithmetic": 7, "maths": 8, "code": 8, "words": 7, "copy": 5}
"""Percent of tokens of each kind. ``words`` covers the target domains' vocabulary."""

TOKENIZER_DOCUMENTS = 100
"""Documents of each percent of the mix that the tokenizer is trained on."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    tokens: int = 11_000_000
    row_length: int = 256
    rows_per_step: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 150
    weight_decay: float = 0.05
    seed: int = 0
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 344

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.tokens // (self.row_length * self.rows_per_step)

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, flat to half the run, then linear to 1 percent."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        late = max(0.0, step / self.steps - 0.5) * 2
        return self.learning_rate * warm * (1 - 0.99 * late)


def documents(kind: str, seed: int) -> Iterator[str]:
    """Yield training documents of one kind of the mix without end."""
    if kind == "source":
        yield from source_documents("train", f"base{seed}")
    rng = random.Random(f"{kind}|base{seed}")
    makers: dict[str, tuple[Callable[[random.Random], str], ...]] = {
        "arithmetic": (maths.arithmetic_document,),
        "maths": (maths.easy_document,),
        "code": (code.easy_document,),
        "words": (maths.statement_document, code.phrase_document),
        "copy": (code.copy_document,),
    }
    while True:
        yield rng.choice(makers[kind])(rng)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a small sample of the mix."""

    def sample() -> Iterator[str]:
        for kind, share in MIX.items():
            stream = documents(kind, seed + 1)
            for _ in range(TOKENIZER_DOCUMENTS * share):
                yield next(stream)

    return train_tokenizer(sample())


def packed_rows(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> NDArray[np.int16]:
    """Return shuffled documents as rows, shape (rows, row_length).

    Every row starts with a document's first token, as every evaluation prompt does; documents end
    in the end-of-sequence token, and the last one of a row is cut.
    """
    import numpy as np

    encoded: list[list[int]] = []
    for kind, share in MIX.items():
        stream, wanted = documents(kind, recipe.seed), recipe.tokens * share * 1.12 / 100
        while wanted > 0:
            batch = [next(stream) + "</s>" for _ in range(2000)]
            ids = [e.ids for e in tokenizer.backend_tokenizer.encode_batch_fast(batch)]
            encoded += ids
            wanted -= sum(map(len, ids))
    random.Random(f"shuffle{recipe.seed}").shuffle(encoded)
    rows = np.empty((recipe.steps * recipe.rows_per_step, recipe.row_length), dtype=np.int16)
    stream_of_ids = iter(encoded)
    for row in rows:
        filled: list[int] = []
        while len(filled) < recipe.row_length:
            filled += next(stream_of_ids)
        row[:] = filled[: recipe.row_length]
    return rows


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a freshly initialised model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class GradientMean:
    """Averages gradients over the processes of one machine through shared memory.

    Two single-threaded processes share a busy machine better than two threads that wait for each
    other in every operation: measured 3 to 8 thousand tokens a second against 0.7 to 11.
    """

    def __init__(self, processes: int, elements: int) -> None:
        import torch
        import torch.multiprocessing as mp

        self.processes = processes
        self.flat = torch.zeros(processes, elements).share_memory_()
        self.barrier = mp.get_context("spawn").Barrier(processes)

    def __call__(self, rank: int, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every process's gradients by their mean."""
        import torch

        if self.processes == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch.cat([g.flatten() for g in gradients], out=self.flat[rank])
        self.barrier.wait(timeout=600)
        mean = self.flat.mean(0)
        parts = mean.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        self.barrier.wait(timeout=600)  # Nobody overwrites its part before all have read it.


def train(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    recipe: Recipe,
    rank: int,
    average: GradientMean,
    snapshot: Callable[[int], None],
) -> list[float]:
    """Train ``model`` in place on this process's share of each step's rows.

    Returns this process's mean loss (nats a token) over each 100 steps.
    """
    import torch
    from tqdm import tqdm

    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    losses: list[float] = []
    recent = torch.zeros((), device=model.device)
    bar = tqdm(total=rows.numel(), unit="token", unit_scale=True, mininterval=5, disable=rank > 0)
    for step, step_rows in enumerate(rows.split(recipe.rows_per_step)):
        optimizer.param_groups[0]["lr"] = recipe.rate(step)
        ids = step_rows[rank :: average.processes].long().to(model.device)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        average(rank, parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent += loss.detach()
        bar.update(step_rows.numel())
        if (step + 1) % 100 == 0:
            losses.append(recent.item() / 100)
            recent.zero_()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if (step + 1) % 500 == 0:
            snapshot(step + 1)
    return losses


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    notes: dict[str, Any],
) -> None:
    """Write bf16 weights, tokenizer and ``recipe.json``; ``folder`` is replaced whole."""
    import copy

    import torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    half: Any = copy.deepcopy(model)
    half.to(device="cpu", dtype=torch.bfloat16)
    half.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "recipe.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    temporary.chmod(0o755)
    for path in temporary.iterdir():
        path.chmod(0o644)
    previous = Path(f"{temporary}-previous")
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def worker(
    rank: int,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    rows: torch.Tensor,
    average: GradientMean,
    output: Path,
) -> None:
    """Run one training process; process 0 saves snapshots outside the repository and the result."""
    import torch
    import transformers

    if average.processes > 1:
        torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = new_model(recipe, tokenizer)
    model.to(device)
    begin = time.perf_counter()
    snapshots = Path(tempfile.gettempdir()) / f"lvf_base_{recipe.seed}"

    def notes(step: int) -> dict[str, Any]:
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        return {
            "recipe": asdict(recipe),
            "mix": MIX,
            "parameters": model.num_parameters(),
            "steps": step,
            "tokens": step * recipe.rows_per_step * recipe.row_length,
            "seconds": round(time.perf_counter() - begin),
            "processes": average.processes,
            "device": device,
            "versions": versions,
        }

    def snapshot(step: int) -> None:
        if rank == 0:
            save(model, tokenizer, snapshots, notes(step))

    losses = train(model, rows, recipe, rank, average, snapshot)
    if rank == 0:
        rounded = [round(loss, 4) for loss in losses]
        save(model, tokenizer, output, {**notes(recipe.steps), "losses": rounded})
        print(f"saved {output}")


def main() -> None:
    """Command line: train and save the base model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--output", type=Path, default=base_dir())
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    import torch
    import torch.multiprocessing as mp

    recipe = Recipe(tokens=arguments.tokens, seed=arguments.seed)
    processes = 1 if torch.cuda.is_available() else arguments.processes
    tokenizer = make_tokenizer(recipe.seed)
    rows = torch.from_numpy(packed_rows(tokenizer, recipe)).share_memory_()
    elements = new_model(recipe, tokenizer).num_parameters()
    print(f"{elements:,} parameters, {rows.numel():,} tokens, {recipe.steps} steps", flush=True)
    average = GradientMean(processes, elements)
    shared = (recipe, tokenizer, rows, average, arguments.output)
    mp.spawn(worker, args=shared, nprocs=processes)


if __name__ == "__main__":
    main()
