"""In bf16 every way of sharing a model computes in the precision of autocast on one device."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from composer.core import State
from composer.loggers import Logger, LoggerDestination

from tests.training.conftest import add_logger, metrics, trained_on_ranks

PLAIN = ["training.precision=amp_bf16", "duration=0.2", "runtime.device_microbatch_size=1"]
WAYS = {
    "full": ["method=full"],
    "lora": ["method=lora", "method.dropout=0"],
    "lora on a sharded base": ["method=lora", "method.dropout=0", "runtime.fsdp_base=true"],
    "dora on a sharded base": ["method=dora", "method.dropout=0", "runtime.fsdp_base=true"],
}


class TypesSeen(LoggerDestination):
    """Writes the types of what enters and leaves the decoder layers and their attention."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def fit_start(self, state: State, logger: Logger) -> None:
        wrapped: Any = getattr(state.model, "module", state.model)
        seen: dict[str, set[str]] = {"between layers": set(), "of products": set()}

        def between(_module: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen["between layers"] |= {str(inputs[0].dtype), str(first.dtype)}

        def of_products(_module: Any, _inputs: Any, output: Any) -> None:
            seen["of products"].add(str(output.dtype))
            if os.environ.get("RANK", "0") == "0":
                self.file.write_text(json.dumps({name: sorted(v) for name, v in seen.items()}))

        for module in wrapped.modules():
            if type(module).__name__.endswith("DecoderLayer"):  # FSDP2 puts its name before
                module.register_forward_hook(between)
                module.mlp.down_proj.register_forward_hook(of_products)


@pytest.fixture(scope="module")
def first_losses() -> dict[str, float]:
    """Of the ways seen so far: before any step, all are the base's."""
    return {}


@pytest.mark.parametrize(("way", "ranks"), [("full", 1), *((way, 2) for way in WAYS)])
def test_products_are_of_bf16_and_the_residual_stream_of_fp32(
    composed: Any, tmp_path: Path, first_losses: dict[str, float], way: str, ranks: int
) -> None:
    cfg = composed(*WAYS[way], *PLAIN, f"runtime.nproc_per_node={ranks}")
    run = trained_on_ranks(add_logger(cfg, TypesSeen, file=f"{tmp_path}/types"))
    assert json.loads((tmp_path / "types").read_text()) == {
        "between layers": ["torch.float32"],
        "of products": ["torch.bfloat16"],
    }
    first_losses[f"{way} {ranks}"] = metrics(run, "loss/train/total")[0]
    expected = next(iter(first_losses.values()))
    assert first_losses[f"{way} {ranks}"] == pytest.approx(expected, rel=2e-4)
