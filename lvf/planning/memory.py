"""The paper's memory tables S14 to S16, from its formulas (App. H)."""

from __future__ import annotations

LORA_SHARE = 0.01
"""Share of the parameters that LoRA trains in the paper's tables."""
STATE_BYTES = {"Adam": 8, "Lion": 4}
"""Optimiser state in fp32 for each trained parameter: two momenta, or one."""
STATE_OF = {"lion_pytorch.Lion": STATE_BYTES["Lion"], "torch.optim.AdamW": STATE_BYTES["Adam"]}
"""The same by `optimizer._target_`."""
TABLES = {
    "Table S14": (7e9, (1, 8, 16, 32, 64)),
    "Table S15": (70e9, (1, 8, 16, 32, 64)),
    "Table S16": (405e9, (1, 8, 16, 32, 64, 128, 256)),
}
"""Parameters, and numbers of GPUs."""


def device_bytes(trained: float, frozen: float, state_bytes: int) -> float:
    """Memory for what is trained (fp32 weights, gradients, state) and what is frozen (bf16)."""
    return (4 + 4 + state_bytes) * trained + 2 * frozen


def training_bytes(parameters: float, optimizer: str, lora: bool, num_gpus: int) -> float:
    """Memory of each GPU for weights, gradients and optimiser state, sharded evenly (FSDP).

    Everything in fp32 but for LoRA's frozen weights, which are in bf16; activations left out.
    """
    trained, frozen = (LORA_SHARE * parameters, parameters) if lora else (parameters, 0)
    return device_bytes(trained, frozen, STATE_BYTES[optimizer]) / num_gpus


def table_rows(name: str) -> list[tuple[str, list[float]]]:
    """Conditions of a table, each with its GB a GPU (10^9 bytes) for each number of GPUs."""
    parameters, num_gpus = TABLES[name]
    return [
        (
            optimizer + (" + LoRA" if lora else ""),
            [training_bytes(parameters, optimizer, lora, n) / 1e9 for n in num_gpus],
        )
        for optimizer in ("Adam", "Lion")
        for lora in (False, True)
    ]


def main() -> None:
    """Print the three tables."""
    from rich.console import Console
    from rich.table import Table

    for name, (parameters, num_gpus) in TABLES.items():
        title = f"{name}: {parameters / 1e9:g} B parameters, GB a GPU"
        table = Table("", *(f"{n} GPU{'s' * (n > 1)}" for n in num_gpus), title=title)
        for condition, cells in table_rows(name):
            table.add_row(condition, *(f"{cell:.5g}" for cell in cells))
        Console().print(table)
