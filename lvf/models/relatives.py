"""Adapters of PEFT other than LoRA: what each is called there, holds, and computes for a token."""

from __future__ import annotations

from dataclasses import dataclass

from lvf.config.schema import MethodConfig


@dataclass(frozen=True)
class Adapter:
    """A kind of adapters in PEFT's words."""

    config: str
    """Class of its configuration."""
    rank: str | None
    dropout: str | None
    """That class's names of `method.rank` and `method.dropout`; None where it has no such thing."""


ADAPTERS = {
    "lora": Adapter("LoraConfig", "r", "lora_dropout"),
    "oft": Adapter("OFTConfig", None, "module_dropout"),
    "vera": Adapter("VeraConfig", "r", "vera_dropout"),
    "miss": Adapter("MissConfig", "r", "miss_dropout"),
    "shira": Adapter("ShiraConfig", "r", None),
    "ia3": Adapter("IA3Config", None, None),
}
"""By `method.adapter`."""


def num_parameters(method: MethodConfig, name: str, d_out: int, d_in: int) -> int:
    """What is trained for one linear map of this name.

    LoRA and SHiRA train rank * (d_in + d_out) numbers, SHiRA single ones of the matrix itself;
    OFT a rotation of each block of inputs; VeRA a scale for each of the rank and of the outputs;
    MiSS rank numbers for each output; (IA)³ a scale for each output, or for each input of
    `feedforward_modules`.
    """
    rank = method.rank or 0
    if method.adapter == "oft":
        return d_in * (oft_block(method) - 1) // 2
    if method.adapter == "vera":
        return rank + d_out
    if method.adapter == "miss":
        return rank * d_out
    if method.adapter == "ia3":
        by_input = (method.peft or {}).get("feedforward_modules", ())
        return d_in if name.rsplit(".", 1)[-1] in by_input else d_out
    return rank * (d_in + d_out)


def train_flops(method: MethodConfig, name: str, d_out: int, d_in: int) -> int:
    """Matrix-product FLOPs of one training token that the adapter adds to a map's own 4 d_in d_out.

    A trained matrix of n numbers takes 6 n, a frozen one 4 n (VeRA's A and B), and a base matrix
    whose own gradient is needed 2 n more (SHiRA).
    """
    if method.adapter == "oft":
        return 6 * d_in * oft_block(method)
    if method.adapter == "vera":
        return 4 * (method.rank or 0) * (d_in + d_out)
    if method.adapter == "shira":
        return 2 * d_in * d_out
    if method.adapter == "ia3":
        return 0
    return 6 * num_parameters(method, name, d_out, d_in)


def oft_block(method: MethodConfig) -> int:
    """Inputs that OFT rotates together."""
    return int((method.peft or {})["oft_block_size"])
