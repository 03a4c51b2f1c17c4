"""Spectra and ranks against dense SVD in float64 and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lvf.analysis.changes import pieces
from lvf.analysis.eigen import eigenvalues, eigenvectors, gram
from lvf.analysis.spectra import (
    effective_rank,
    effective_rank_error,
    factor_singular_values,
    measures,
    rank_for_variance,
    singular_values,
    stable_rank,
)

EPS = torch.finfo(torch.float64).eps


def with_spectrum(sigma: Tensor, rows: int, columns: int) -> Tensor:
    """A random matrix [rows, columns] in float64 with these singular values."""
    left = torch.linalg.qr(torch.randn(rows, len(sigma), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(sigma), dtype=torch.float64)).Q
    return left @ torch.diag(sigma) @ right.T


def bf16_step(rows: int, columns: int, step: float) -> Tensor:
    """What a small step leaves of weights that are stored in bf16: differences of roundings."""
    before = (torch.randn(rows, columns) * 0.02).bfloat16()
    after = (before.float() + step * torch.randn(rows, columns)).bfloat16()
    return after.double() - before.double()


def logspace(smallest: float, count: int) -> Tensor:
    return torch.logspace(0, math.log10(smallest), count, dtype=torch.float64)


CASES = {
    "Gaussian, wide": lambda: torch.randn(60, 170, dtype=torch.float64),
    "Gaussian, tall": lambda: torch.randn(700, 90, dtype=torch.float64),
    "Gaussian, square": lambda: torch.randn(300, 300, dtype=torch.float64),
    "more than one block and piece": lambda: torch.randn(600, 2100, dtype=torch.float64),
    "values down to 1e-12": lambda: with_spectrum(logspace(1e-12, 80), 80, 200),
    "values down to 1e-5": lambda: with_spectrum(logspace(1e-5, 80), 80, 200),
    "half of the values at 1e-9": lambda: with_spectrum(
        torch.cat([torch.ones(60), torch.full((60,), 1e-9)]).double(), 120, 150
    ),
    "rank 4 of 200, formed in float64": lambda: with_spectrum(logspace(0.1, 4), 200, 220),
    "rank 4 of 200, stored in float32": lambda: with_spectrum(logspace(0.1, 4), 200, 220).float(),
    "one value": lambda: with_spectrum(torch.ones(1, dtype=torch.float64), 50, 40),
    "bf16, steps of a rounding": lambda: bf16_step(100, 260, 1e-4),
    "bf16, steps far below a rounding": lambda: bf16_step(100, 260, 2e-6),
    "Gaussian, large": lambda: torch.randn(900, 1000, dtype=torch.float64),
    "values down to 1e-12, large": lambda: with_spectrum(logspace(1e-12, 700), 700, 800),
    "tiny": lambda: torch.randn(50, 60, dtype=torch.float64) * 1e-30,
}


@pytest.mark.parametrize("case", CASES)
def test_every_reported_quantity_equals_that_of_a_dense_float64_svd(case: str) -> None:
    torch.manual_seed(0)
    matrix = CASES[case]()
    dense = torch.linalg.svdvals(matrix.double())
    ours = singular_values(lambda: pieces(matrix), max(matrix.shape))
    assert len(ours) == len(dense)
    expected = measures(dense)
    assert measures(ours) == pytest.approx(expected, rel=1e-6)
    assert measures(ours)["rank90"] == expected["rank90"]
    large = dense > 1e-4 * dense[0]
    np.testing.assert_allclose(ours[large], dense[large], rtol=1e-6)
    np.testing.assert_allclose(ours, dense, atol=2e-7 * float(dense[0]), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_error_bound_holds(case: str) -> None:
    torch.manual_seed(0)
    matrix = CASES[case]().double()
    raw = eigenvalues(gram(pieces(matrix))).clamp(min=0).sqrt()
    true = effective_rank(torch.linalg.svdvals(matrix))
    error = abs(effective_rank(raw) / true - 1)
    assert error <= effective_rank_error(raw, max(matrix.shape)) + 100 * EPS


def test_a_gram_matrix_alone_would_be_wrong_where_the_dense_svd_is_taken() -> None:
    torch.manual_seed(0)
    matrix = CASES["rank 4 of 200, formed in float64"]()
    raw = eigenvalues(gram(pieces(matrix))).clamp(min=0).sqrt()
    true = effective_rank(torch.linalg.svdvals(matrix))
    assert abs(effective_rank(raw) / true - 1) > 1e-6


def test_an_ordinary_update_needs_no_dense_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    square, bf16 = CASES["Gaussian, square"](), CASES["bf16, steps of a rounding"]()
    monkeypatch.delattr(torch.linalg, "svdvals")
    for matrix in (square, bf16):
        singular_values(lambda matrix=matrix: pieces(matrix), max(matrix.shape))


def test_an_unchanged_matrix_has_rank_and_norm_zero() -> None:
    zeros = torch.zeros(6, 9)
    assert set(measures(singular_values(lambda: pieces(zeros), 9)).values()) == {0}


def test_the_gram_matrix_is_the_product_with_the_transpose_on_the_shorter_side() -> None:
    torch.manual_seed(0)
    for shape in ((520, 4100), (4100, 520)):
        matrix = torch.randn(shape)
        wide = matrix.double() if shape[0] < shape[1] else matrix.double().T
        torch.testing.assert_close(gram(pieces(matrix)).tril(), (wide @ wide.T).tril())


def test_eigenvalues_and_leading_vectors_of_large_matrices_are_lapacks() -> None:
    torch.manual_seed(0)
    for rows in (100, 513, 1100):  # below and above the size at which the way changes
        matrix = gram(pieces(torch.randn(rows, 900)))  # of rank 900
        true_values, true_vectors = torch.linalg.eigh(matrix)  # reads the lower triangle only
        tolerance = 1e-14 * float(true_values[-1]) * rows**0.5
        values, vectors = eigenvectors(matrix.clone(), 5)
        np.testing.assert_allclose(values, true_values.flip(0), rtol=0, atol=tolerance)
        np.testing.assert_allclose(eigenvalues(matrix), values, rtol=0, atol=tolerance)
        cosines = (vectors * true_vectors.flip(1)[:, :5]).sum(0).abs()
        np.testing.assert_allclose(cosines, 1, rtol=1e-10)


def test_eigenvalues_of_diagonal_matrices_are_exact() -> None:
    diagonal = torch.arange(700.0, 0, -1, dtype=torch.float64)
    np.testing.assert_allclose(eigenvalues(torch.diag(diagonal)), diagonal, rtol=1e-14)
    assert not eigenvalues(torch.zeros(600, 600, dtype=torch.float64)).any()


@pytest.mark.parametrize(("out", "rank", "inp"), [(50, 4, 70), (70, 4, 50), (20, 30, 25)])
def test_factors_have_the_singular_values_of_their_product(out: int, rank: int, inp: int) -> None:
    torch.manual_seed(0)
    b, a = torch.randn(out, rank), torch.randn(rank, inp)
    ours = factor_singular_values(b, a)
    dense = torch.linalg.svdvals(b.double() @ a.double())[:rank]
    np.testing.assert_allclose(ours, dense[: len(ours)], rtol=1e-12)
    assert len(ours) == min(out, rank, inp)


def test_factors_of_wide_range_keep_their_small_values() -> None:
    torch.manual_seed(0)
    sigma = logspace(1e-10, 8)
    b = torch.linalg.qr(torch.randn(90, 8, dtype=torch.float64)).Q * sigma
    a = torch.linalg.qr(torch.randn(60, 8, dtype=torch.float64)).Q.T
    np.testing.assert_allclose(factor_singular_values(b, a), sigma, rtol=1e-5, atol=1e-16)


def test_ranks_of_equal_values_count_them() -> None:
    sigma = torch.cat([torch.full((10,), 3.0), torch.zeros(5)]).double()
    assert effective_rank(sigma) == pytest.approx(10)
    assert stable_rank(sigma) == pytest.approx(10)
    assert rank_for_variance(sigma, 0.9) == 9


def test_ranks_of_two_values_follow_their_formulas() -> None:
    sigma = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert effective_rank(sigma) == pytest.approx(4 / 27**0.25)  # exp of the entropy of 3/4, 1/4
    assert stable_rank(sigma) == pytest.approx(10 / 9)
    assert rank_for_variance(sigma, 0.9) == 1  # 9 of 10, exactly the share
    assert rank_for_variance(sigma, 0.91) == 2
