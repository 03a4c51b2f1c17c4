"""What a row of the paper's settings keeps, and how many rows fit on a device: predicted, on a CPU.

    python benchmarks/fits.py

Activations are counted in one and in two layers of Llama-2-7B's shape with random weights (3 GB,
two minutes), what is fixed is extrapolated from them, and the choice is that of a training
(`lvf.training.microbatch`). Dropout's masks are counted as the bytes that a GPU has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lvf.config.compose import compose
from lvf.errors import UserError
from lvf.models import fused_lora
from lvf.models.packed import Layout
from lvf.training.build_model import make_model
from lvf.training.microbatch import ActivationBytes, activation_bytes, choose, fixed_bytes

LAYERS = 32
DEVICES = {"1 H100": (1, 85e9), "1 H200": (1, 150e9), "8 H100": (8, 85e9), "32 H100": (32, 85e9)}
"""Ranks, and bytes of each."""
METHODS = ("method=full", *(f"method=lora method.rank={rank}" for rank in (16, 64, 256)))
ONLY_KEPT = ("method=lora method.rank=16 training.fused_lora=false", "method=dora method.rank=16")


def composed(method: str, *words: str) -> Any:
    """Code instruction finetuning of the paper."""
    return compose("+experiment=code_ift", "scale=paper", "model.random_weights=true",
                   *method.split(), *words)  # fmt: skip


def beyond(one: float, two: float) -> float:
    """What grows by the layer, of all of them."""
    return two + (LAYERS - 2) * (two - one)


def counted(method: str) -> tuple[ActivationBytes, list[tuple[Any, float]]]:
    """What a token of the whole model keeps; models of one and of two layers, what each keeps once.

    The latter grows by the layer, as all that is fixed does.
    """
    both = [composed(method, f"model.shape.num_hidden_layers={n}") for n in (1, 2)]
    models = [make_model(cfg) for cfg in both]
    one, two = (activation_bytes(cfg, Layout.PACKED, torch.device("cpu")) for cfg in both)
    kept = replace(two, num_layers=LAYERS, once=beyond(one.once, two.once))
    return kept, list(zip(models, (one.once, two.once), strict=True))


def main() -> None:
    """Print what each method keeps, and what it would do on each kind of devices."""
    fused_lora.draw_dropped = lambda x, p: torch.empty_like(x, dtype=torch.bool).bernoulli_(p)
    for method in (*METHODS, *ONLY_KEPT):
        kept, models = counted(method)
        width = models[0][0].model.config.hidden_size
        rows = [kept.row_bytes(4096, recompute) / 1e9 for recompute in (False, True)]
        print(f"{method}: {kept.layer / width:.1f} bytes a hidden place and layer; a row "
              f"{rows[0]:.1f} GB, recomputed {rows[1]:.1f} GB", flush=True)  # fmt: skip
        for name, (ranks, memory) in DEVICES.items() if method in METHODS else ():
            cfg = composed(method, f"runtime.nproc_per_node={ranks}", "runtime.nodes=1")
            fixed = beyond(*(fixed_bytes(cfg, model, once) for model, once in models))
            try:
                found = str(choose(cfg, kept, fixed, memory))
            except UserError:
                found = "does not fit"
            print(f"  {name}: {fixed / 1e9:.1f} GB beside activations, {found}", flush=True)


if __name__ == "__main__":
    main()
