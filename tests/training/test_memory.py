import torch

from lvf.training.memory import PeakMemory

SIZE_BYTES = 256 << 20
SLACK_BYTES = 8 << 20  # the kernel counts pages in batches, and Python moves a little itself


def test_peak_memory_is_what_was_held_at_most_and_not_what_is_held_now() -> None:
    memory = PeakMemory()
    held = torch.ones(SIZE_BYTES // 4)
    del held
    assert abs(memory.bytes() - SIZE_BYTES) < SLACK_BYTES


def test_what_was_held_before_does_not_count() -> None:
    before = torch.ones(SIZE_BYTES // 4)
    memory = PeakMemory()
    after = torch.ones(SIZE_BYTES // 16)
    assert abs(memory.bytes() - SIZE_BYTES // 4) < SLACK_BYTES
    assert before.numel() > after.numel()
