"""Gram matrices and their eigenvalues, of matrices with thousands of rows, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 512
"""Rows up to which all eigenvectors take no longer than the first few."""


def gram(pieces: Iterable[Tensor]) -> Tensor:
    """X X^T [short, short].

    Args:
        pieces: columns of X, each [short, width] in float64 and valid until the next.
    """
    total: Tensor | None = None
    for piece in pieces:
        total = piece @ piece.T if total is None else total.addmm_(piece, piece.T)
    assert total is not None
    return total


def eigenvalues(symmetric: Tensor) -> Tensor:
    """All eigenvalues [n], falling, of a symmetric matrix [n, n]."""
    return torch.linalg.eigvalsh(symmetric).flip(0)


def eigenvectors(symmetric: Tensor, top: int | None = None) -> tuple[Tensor, Tensor]:
    """All eigenvalues [n], falling, and the vectors [n, top] of the first `top` (or of all)."""
    if _at_once(symmetric, top):
        values, vectors = torch.linalg.eigh(symmetric)
        return values.flip(0), vectors.flip(1)[:, :top]
    assert top is not None
    return eigenvalues(symmetric), leading_vectors(symmetric, top)


def leading_vectors(symmetric: Tensor, top: int) -> Tensor:
    """Eigenvectors [n, top] of the `top` largest eigenvalues, falling, of a matrix not all zero."""
    if _at_once(symmetric, top):
        return torch.linalg.eigh(symmetric)[1].flip(1)[:, :top]
    from scipy.sparse.linalg import eigsh

    start = np.ones(len(symmetric))  # else eigsh starts from random numbers
    _, vectors = eigsh(symmetric.numpy(), k=top, which="LA", v0=start)
    return torch.from_numpy(vectors).flip(1)


def _at_once(symmetric: Tensor, top: int | None) -> bool:
    """Whether all vectors together take no longer than the first `top`."""
    few = top is not None and top < len(symmetric) // 8
    return symmetric.is_cuda or len(symmetric) <= SMALL or not few
