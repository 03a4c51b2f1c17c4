"""Intruder dimensions: leading singular vectors of a tuned matrix that its base does not have.

Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (2410.21228): the left
singular vector y_j of the tuned matrix is an intruder if |cos(y_j, x_i)| < epsilon for all left
singular vectors x_i of the base. They count among the first k = 10 and sweep epsilon; PEFT's
`reduce_intruder_dimension` does the same with epsilon = 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvf.analysis.changes import pieces
from lvf.analysis.eigen import eigenvectors, gram

if TYPE_CHECKING:
    from torch import Tensor

    from lvf.analysis.changes import Change

NUMERICAL_RANK = 1e-6
"""Share of the largest singular value below which a base matrix has no direction of its own."""


@dataclass(frozen=True)
class Decomposition:
    """The shorter side's half of a singular value decomposition."""

    sigma: Tensor
    """Singular values [short], falling."""
    vectors: Tensor
    """Singular vectors [short, k] of the first k values, in columns."""


def decompose(matrix: Iterable[Tensor], top: int | None = None) -> Decomposition:
    """All singular values of a matrix in pieces, and its first `top` vectors (or all)."""
    squares, vectors = eigenvectors(gram(matrix), top)
    return Decomposition(squares.clamp(min=0).sqrt(), vectors)


def largest_cosines(change: Change, base: Decomposition, tuned: Decomposition) -> Tensor:
    """max_i |cos(y_j, x_i)| [k] for the first k left singular vectors y_j of the tuned matrix.

    Left vectors of a matrix with out > in are not held: x = W v / sigma, hence
    x_i^T y_j = v_i^T (W_base^T W_tuned v_j) / (sigma_i sigma_j).
    """
    own = base.sigma > NUMERICAL_RANK * base.sigma[0]
    vectors = base.vectors[:, own]
    if change.wide:
        cosines = vectors.T @ tuned.vectors
    else:
        aligned = zip(pieces(change.base), change.tuned_pieces(), strict=True)
        crossed: Any = sum(b @ (t.T @ tuned.vectors) for b, t in aligned)
        sigma = tuned.sigma[: tuned.vectors.shape[1]]
        cosines = vectors.T @ crossed / (base.sigma[own, None] * sigma)
    return cosines.abs().amax(0)
