"""Gram matrices and their eigenvalues, of matrices with thousands of rows, in float64.

Symmetric matrices are held as block lower triangles: blocks of `BLOCK` rows, right of whose square
on the diagonal nothing is valid. That halves the arithmetic, on which the time depends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 512
BAND = 64
"""Width of the band to which a matrix is reduced before its eigenvalues are taken."""
SMALL = 512
"""Rows up to which LAPACK's own way is as fast."""


def gram(pieces: Iterable[Tensor]) -> Tensor:
    """X X^T as a block lower triangle [short, short].

    Args:
        pieces: columns of X, each [short, width] in float64 and valid until the next.
    """
    total: Tensor | None = None
    for piece in pieces:
        if total is None:
            total = piece.new_zeros(len(piece), len(piece))
        for rows in _row_blocks(0, len(piece)):
            total[rows, : rows.stop].addmm_(piece[rows], piece[: rows.stop].T)
    assert total is not None
    return total


def _row_blocks(first: int, size: int) -> Iterator[slice]:
    """The blocks from row `first` on, the first of them shortened."""
    for start in range(first - first % BLOCK, size, BLOCK):
        yield slice(max(start, first), min(start + BLOCK, size))


def eigenvalues(symmetric: Tensor) -> Tensor:
    """All eigenvalues [n], falling, of a block lower triangle [n, n], which is used up."""
    if symmetric.is_cuda or len(symmetric) <= SMALL:
        return torch.linalg.eigvalsh(symmetric).flip(0)
    from scipy.linalg import eigvals_banded

    values = eigvals_banded(_band(symmetric), lower=True, overwrite_a_band=True)
    return torch.from_numpy(values).flip(0)


def eigenvectors(symmetric: Tensor, top: int | None = None) -> tuple[Tensor, Tensor]:
    """All eigenvalues [n], falling, and the vectors [n, top] of the first `top` of them (or all).

    The block lower triangle `symmetric` is used up.
    """
    if symmetric.is_cuda or len(symmetric) <= SMALL or top is None:
        values, vectors = torch.linalg.eigh(symmetric)
        return values.flip(0), vectors.flip(1)[:, :top]
    from scipy.sparse.linalg import eigsh

    lower = symmetric.tril_()
    full = lower + lower.tril(-1).T
    start = np.ones(len(full))  # else eigsh starts from random numbers
    _, vectors = eigsh(full.numpy(), k=top, which="LA", v0=start)
    return eigenvalues(full), torch.from_numpy(vectors).flip(1)


def _band(matrix: Tensor) -> np.ndarray:
    """Orthogonally similar band matrix, in LAPACK's lower form [BAND + 1, n]; uses up its input.

    First stage of the two-stage reduction of Bischof, Lang and Sun (ACM TOMS 26, 2000): each panel
    of `BAND` columns is made upper triangular below the band by Householder reflections
    Q = I - V T V^T, and what is right of it becomes Q^T A Q. Nearly all of it is products of
    matrices, where LAPACK's reduction to three diagonals reads the whole matrix for every column.
    """
    size = len(matrix)
    for end in range(BAND, size, BAND):
        panel = matrix[end:, end - BAND : end]
        reflections, tau = torch.geqrf(panel)
        panel.copy_(reflections.triu())
        v = reflections[:, : len(tau)].tril_(-1)
        v.diagonal().fill_(1)
        inverse = torch.triu(v.T @ v, 1) + torch.diag(1 / tau.clamp(min=1e-300))  # tau may be 0
        t = torch.linalg.inv(inverse)
        _two_sided(matrix, end, v, t)
    band = np.zeros((BAND + 1, size))
    for offset in range(BAND + 1):
        band[offset, : size - offset] = matrix.diagonal(-offset).numpy()
    return band


def _two_sided(matrix: Tensor, first: int, v: Tensor, t: Tensor) -> None:
    """A becomes Q^T A Q for A = matrix[first:, first:] and Q = I - V T V^T.

    With Y = A V T and Z = Y - V T^T V^T Y / 2, that is A - Z V^T - V Z^T. Thin factors are kept
    as rows, [BAND, n], with which products are several times as fast.
    """
    size = len(matrix)
    vt, y = v.new_zeros(v.shape[1], size), v.new_zeros(v.shape[1], size)
    vt[:, first:] = (v @ t).T
    for rows in _row_blocks(first, size):
        y[:, first : rows.stop].addmm_(vt[:, rows], matrix[rows, first : rows.stop])
        if rows.start > first:
            y[:, rows].addmm_(vt[:, first : rows.start], matrix[rows, first : rows.start].T)
    y = y[:, first:]
    z = y - (y @ v) @ t @ v.T / 2
    left, right = torch.cat((z.T, v), dim=1), torch.cat((v.T, z))
    for rows in _row_blocks(first, size):
        own = slice(rows.start - first, rows.stop - first)
        matrix[rows, first : rows.stop].addmm_(left[own], right[:, : own.stop], alpha=-1)
