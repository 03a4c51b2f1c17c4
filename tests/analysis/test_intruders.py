"""Intruder dimensions of matrices large enough for the iterative solver, against dense SVDs."""

import numpy as np
import pytest
import torch

from lvf.analysis.changes import Change, pieces
from lvf.analysis.intruders import decompose, largest_cosines

TOP = 10


def cosines_by_svd(base: torch.Tensor, tuned: torch.Tensor) -> np.ndarray:
    before = np.linalg.svd(base.double().numpy(), full_matrices=False)[0]
    after = np.linalg.svd(tuned.numpy(), full_matrices=False)[0]
    return np.abs(before.T @ after[:, :TOP]).max(axis=0)


def ours(change: Change) -> np.ndarray:
    tuned = decompose(change.tuned_pieces(), TOP)
    return largest_cosines(change, decompose(pieces(change.base)), tuned).numpy()


@pytest.mark.parametrize("shape", [(520, 640), (640, 520)], ids=["wide", "tall"])
def test_cosines_of_large_matrices_are_those_of_dense_svds(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decay = torch.logspace(0, -2, 520)
    base = (torch.randn(shape) * (decay if shape[0] > shape[1] else decay[:, None])).bfloat16()
    b, a = torch.randn(shape[0], 4).double(), torch.randn(4, shape[1]).double() * 0.05
    expected = cosines_by_svd(base, base.double() + b @ a)
    assert (expected < 0.5).sum() > 0 and (expected > 0.7).sum() > 0  # both kinds are there
    np.testing.assert_allclose(ours(Change(base, factors=(b, a))), expected, rtol=1e-6)
    tuned = (base.float() + 1e-3 * torch.randn(shape)).bfloat16()
    expected = cosines_by_svd(base, tuned.double())
    np.testing.assert_allclose(ours(Change(base, tuned=tuned)), expected, rtol=1e-6)


def test_a_direction_that_the_base_lacks_is_an_intruder_and_its_null_space_is_no_vector() -> None:
    torch.manual_seed(0)
    base = torch.zeros(12, 30)
    base[:8] = torch.randn(8, 30)  # nothing is written to the last four outputs
    b, a = torch.zeros(12, 1).double(), torch.randn(1, 30).double()
    b[10] = 100
    found = ours(Change(base, factors=(b, a)))
    assert found[0] < 0.05  # a vector of the null space would give 1
    assert (found[1:9] > 0.5).all()
