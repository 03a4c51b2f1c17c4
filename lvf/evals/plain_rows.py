"""Rows that a model reads as a whole again for each token: slow, and right for any causal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lvf.evals.slots import SlotCache
from lvf.models.probe import sharp_base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

PROBED_BEGINNING = [8, 4, 11, 5, 10, 6]
PROBED_PROMPTS = ([*PROBED_BEGINNING, 9, 4], [*PROBED_BEGINNING, 12, 7, 9, 13, 4, 8, 5])
PROBED_STEPS = 12
TOLERANCE = 1e-3
"""Relative difference of logits."""


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt, and what the model predicts behind it."""

    ids: list[int]
    logits: torch.Tensor
    """[vocab]."""


class PlainRows:
    """Rows of text with the interface of `SlotCache`."""

    def __init__(
        self,
        model: PreTrainedModel,
        num_rows: int,
        capacity_tokens: int,
        _beginning: Sequence[int] = (),
    ) -> None:
        self.model, self.capacity_tokens = model, capacity_tokens
        self.rows: list[list[int]] = [[0] for _ in range(num_rows)]

    def read(self, prompts: Sequence[list[int]], _shared: Sequence[bool]) -> list[ReadPrompt]:
        """Read some prompts in one pass."""
        return [
            ReadPrompt(ids, logits)
            for ids, logits in zip(prompts, self._logits(prompts), strict=True)
        ]

    def place(self, prompt: ReadPrompt, rows: list[int]) -> None:
        """Begin these rows with a prompt."""
        for row in rows:
            self.rows[row] = list(prompt.ids)

    def keep(self, rows: list[int]) -> None:
        """Give up all other rows."""
        self.rows = [self.rows[row] for row in rows]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token [num_rows] to each row; return the logits of the next, [num_rows, vocab]."""
        for ids, token in zip(self.rows, tokens.tolist(), strict=True):
            if len(ids) < self.capacity_tokens:
                ids.append(token)
        return self._logits(self.rows)

    @torch.no_grad()
    def _logits(self, rows: Sequence[list[int]]) -> torch.Tensor:
        longest = max(len(ids) for ids in rows)
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in rows])
        attended = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows])
        device = self.model.device
        logits: torch.Tensor = self.model(
            input_ids=padded.to(device), attention_mask=attended.to(device), use_cache=False
        ).logits
        ends = torch.tensor([len(ids) - 1 for ids in rows], device=device)
        return logits[torch.arange(len(rows), device=device), ends]


@torch.no_grad()
def slots_are_right(model: PreTrainedModel) -> bool:
    """Whether `SlotCache` gives a few layers of a model's configuration the logits of whole texts.

    It does where attention goes through transformers' interface; not for recurrent layers, say.
    """
    own_code = type(model).__module__.split(".")[0] != "transformers"  # it runs already
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(model.device):
        torch.manual_seed(0)
        try:
            small = sharp_base(model.config, trust_remote_code=own_code).eval()
            capacity = len(PROBED_PROMPTS[1]) + PROBED_STEPS + 1
            plain = PlainRows(small, 3, capacity)
            slots = SlotCache(small, 3, capacity, PROBED_BEGINNING)
            shared, own = slots.read(PROBED_PROMPTS, [True, False])
            both = plain.read(PROBED_PROMPTS, [])
            plain.place(both[0], [0, 2])
            plain.place(both[1], [1])
            slots.place(shared, [0, 2])
            slots.place(own, [1])
            wanted = torch.stack([both[place].logits for place in (0, 1, 0)])
            got = torch.stack([shared.logits, own.logits, shared.logits])
            for step in range(PROBED_STEPS):
                largest = float(wanted.abs().max())
                if not torch.allclose(got, wanted, rtol=0, atol=TOLERANCE * largest):
                    return False
                tokens = wanted.argmax(-1) if step % 2 else wanted.topk(2).indices[:, 1]
                wanted, got = plain.step(tokens), slots.step(tokens)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - code of any architecture
            return False
    return True
