"""All figures of one GPU in one run of ten minutes: training of Llama-2-7B's shape, numerics, more.

    python benchmarks/gpu.py --out FOLDER
    python benchmarks/gpu.py --out FOLDER --tiny    # the same path with a tiny model, on a CPU

No GPU has run it yet; with `--tiny` a CPU has. Weights are random, bf16
arithmetic, full rows of 4096 tokens, Lion on fp32 weights: full finetuning needs about 81 GB beside
its activations, which are 20 GB a row where they are kept and 2 GB where they are computed twice. A
training takes as many rows at once as fit (`lvf.training.microbatch`) unless its name says how
many. What fails or is refused (compiled layers,
on a torch whose gradients were not compared) is named, and the rest goes on; what has no time left
is left out. Records of the
trainings go to FOLDER/records.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from svd import timed, weights

from lvf.analysis.changes import Change
from lvf.analysis.spectra import singular_values
from lvf.bench import benchmark
from lvf.config.compose import compose
from lvf.data.prompts import prompt_ids
from lvf.errors import UserError
from lvf.evals.completion import Request, Sampling
from lvf.evals.generate import generate
from lvf.evals.humaneval import STOP_STRINGS
from lvf.models.load import load_base, load_tokenizer
from lvf.models.packed import NAME, Layout
from lvf.models.token_loss import mean_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TINY = [
    "model.shape.hidden_size=64", "model.shape.intermediate_size=96",
    "model.shape.num_hidden_layers=2", "model.shape.num_attention_heads=4",
    "model.shape.num_key_value_heads=4",
]  # fmt: skip
SMALL = [
    "model.shape.hidden_size=512", "model.shape.intermediate_size=1376",
    "model.shape.num_hidden_layers=4", "model.shape.num_attention_heads=8",
    "model.shape.num_key_value_heads=8",
]  # fmt: skip
COMPILED = "runtime.compile=true"
TWICE = "runtime.activation_checkpointing=true"
TRAININGS = [
    "method=lora method.rank=16",
    "method=full",
    f"method=lora method.rank=16 {COMPILED}",
    f"method=full {COMPILED}",
    "method=lora method.rank=64",
    "method=lora method.rank=256",
    *(
        f"{method} {TWICE} runtime.device_microbatch_size={rows} training.global_batch_size={rows}"
        for rows in (6, 8)
        for method in ("method=full", "method=lora method.rank=16")
    ),
]
"""Settings, the most important first; steps of 8 rows but where they say otherwise."""
MATRICES = {(4096, 4096): 4 * 32, (11008, 4096): 2 * 32, (4096, 11008): 32}
"""Shapes of Llama-2-7B's linear maps, and how many of each it has."""


def main() -> None:
    """Run everything for which there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    for name, work in _plan(given.out, given.tiny).items():
        if time.monotonic() > end:
            print(f"--- {name}: left out, no time", flush=True)
            continue
        print(f"--- {name}", flush=True)
        start = time.monotonic()
        try:
            work()
        except UserError as error:
            print(f"refused: {error}")
        except RuntimeError as error:  # such as torch's OutOfMemoryError
            print(f"failed: {error}")
        print(f"{time.monotonic() - start:.0f} s", flush=True)


def _plan(out: Path, tiny: bool) -> dict[str, Callable[[], object]]:
    plan: dict[str, Callable[[], object]] = {"numerics": lambda: numerics(TINY if tiny else SMALL)}
    for settings in TRAININGS:
        words = ["training.global_batch_size=8", *settings.split()]
        words += [f"paths.runs={out}/runs", f"paths.records={out}/records"]
        if tiny:
            words = [one for one in words if not one.startswith("method.rank=")]
            words += ["scale.lora_rank=8", "training.seq_len=64", *TINY]
        plan[settings] = lambda words=words: benchmark(_composed(*words))
    plan["sampling"] = lambda: sampling(tiny)
    plan["spectra"] = lambda: spectra(tiny)
    return plan


def _composed(*words: str) -> Any:
    return compose(
        "+experiment=throughput", "scale=paper", "model.random_weights=true",
        "runtime.nproc_per_node=1", "bench.data=synthetic", "bench.warmup_steps=2", "bench.steps=5",
        "logger=none", *words,
    )  # fmt: skip


def numerics(shape: list[str]) -> None:
    """Loss and gradients in fp32 on this device beside the CPU's, of two packed rows."""
    cfg = _composed("method=full", *shape)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    ids = torch.randint(32000, (2, 256), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(100), torch.arange(156)]).expand(2, -1)
    batch = {"input_ids": ids, "labels": ids, "position_ids": positions}
    batch["num_tokens"] = torch.tensor([256, 200])
    found = []
    for device in ("cpu", DEVICE):
        model: Any = load_base(cfg.model)
        model.set_attn_implementation(NAME)  # FlashAttention has no fp32
        if found:  # random weights of a GPU are not a CPU's
            model.load_state_dict(found[0][2])
        model.to(device)
        inputs = {name: one.to(device) for name, one in batch.items()}
        loss = mean_loss(model, inputs, Layout.PACKED)
        loss.backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
        state = {name: one.detach().cpu() for name, one in model.state_dict().items()}
        found.append((float(loss), gradients, state))
    torch.backends.cuda.matmul.allow_tf32 = tf32
    (ours, exact) = found[1], found[0]
    error = float((ours[1] - exact[1]).norm() / exact[1].norm())
    print(f"loss {ours[0]:.6f} on {DEVICE}, {exact[0]:.6f} on the CPU; gradient off by {error:.1e}")


def sampling(tiny: bool) -> None:
    """Tokens a second that 7 B random parameters in bf16 write, 256 rows at once.

    The vocabulary is the packaged tokenizer's. Random weights rarely end a sample before its limit.
    """
    tokenizer: Any = load_tokenizer(compose("+experiment=math_ift").model)
    words = [f"model.shape.vocab_size={len(tokenizer)}", *(TINY if tiny else [])]
    module: Any = load_base(_composed("method=full", *words).model)
    model = module.to(device=DEVICE, dtype=torch.bfloat16).eval()
    prompts = {
        str(number): prompt_ids(tokenizer, f"def f{number}(x):\n")
        for number in range(2 if tiny else 16)
    }
    wanted = [(name, sample) for name in prompts for sample in range(2 if tiny else 50)]
    length = 32 if tiny else 256
    how = Sampling(temperature=0.8, top_p=0.95, max_length_tokens=length, stop_strings=STOP_STRINGS)
    request = Request(
        model=model, tokenizer=tokenizer, prompts=prompts, wanted=wanted, sampling=how,
        batch_rows=256,
    )  # fmt: skip
    with torch.inference_mode():
        samples, seconds, _ = timed(lambda: list(generate(request)))
    print(f"{len(samples)} samples of at most {length} tokens in {seconds:.1f} s")


def spectra(tiny: bool) -> None:
    """Seconds for the singular values of a full update, a shape at a time, and of all of 7 B."""
    total = 0.0
    for shape, number in MATRICES.items():
        small = (shape[0] // 16, shape[1] // 16) if tiny else shape
        change = Change(*(one.to(DEVICE) for one in weights(small)))
        work = lambda change=change, small=small: singular_values(  # noqa: E731
            change.update_pieces, max(small)
        )
        work()  # load the libraries
        _, seconds, _ = timed(work)
        print(f"{small[0]} x {small[1]}: {seconds:.2f} s")
        total += seconds * number
    print(f"all {sum(MATRICES.values())} matrices: {total:.0f} s")


if __name__ == "__main__":
    main()
