"""Singular values of large matrices from their Gram matrix, and the ranks concluded from them.

A matrix X comes as pieces of columns, each [short, width] in float64 with short <= long, so that it
is never held whole. Its Gram matrix G = X X^T is [short, short]; the singular values of X are the
square roots of the eigenvalues of G. Against a dense SVD this halves the work of the first step
and needs no other pass over X, but it squares the values: rounding moves an eigenvalue by about
eps * sigma_max^2, so a singular value below some 1e-4 sigma_max loses digits, and nothing below
1e-7 sigma_max is seen. `singular_values` bounds what this does to the effective rank, the one
reported quantity in which small values weigh, and takes the dense SVD where it would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from lvf.analysis.eigen import eigenvalues, gram

if TYPE_CHECKING:
    from torch import Tensor

Pieces = Callable[[], Iterable["Tensor"]]
"""Gives the pieces of a matrix, anew at each call; each is valid until the next."""

VARIANCE = 0.9
"""Share of the summed squared singular values that `rank90` explains (paper section 4.6)."""
TOLERANCE = 1e-6
"""Largest relative error of a reported quantity."""


def singular_values(pieces: Pieces, long: int) -> Tensor:
    """Singular values [short] in float64, falling, of a matrix in pieces of columns, `long` in all.

    The measures of `measures` are those of a dense float64 SVD to `TOLERANCE`. The values
    themselves are too where they exceed 1e-4 of the largest; smaller ones may be off by up to 2e-7
    of the largest.
    """
    sigma = eigenvalues(gram(pieces())).clamp_(min=0).sqrt_()
    if effective_rank_error(sigma, long) <= TOLERANCE:
        return sigma
    return torch.linalg.svdvals(torch.cat([piece.clone() for piece in pieces()], dim=1))


def effective_rank_error(sigma: Tensor, long: int) -> float:
    """Bound on the relative error of `effective_rank` where `sigma` came from a Gram matrix.

    Rounding moves each eigenvalue by about delta = eps * sqrt(short + long) * sigma_max^2 at most
    (Wilkinson's rule: the root of the constant in the strict bound), and so sigma by delta / sigma
    or sqrt(delta), the smaller; to first order, exp(H) changes by the sum of
    |log p + H| * d sigma / sum(sigma).
    """
    total = sigma.sum()
    if total == 0:
        return 0.0
    delta = torch.finfo(sigma.dtype).eps * math.sqrt(len(sigma) + long) * sigma[0] ** 2
    error = torch.minimum(delta / sigma, delta.sqrt())
    p = torch.maximum(sigma, error) / total
    entropy = math.log(effective_rank(sigma))
    return float(((p.log() + entropy).abs() * error).sum() / total)


def factor_singular_values(b: Tensor, a: Tensor) -> Tensor:
    """Singular values [min(out, r, in)] of B A without forming it, falling, in float64.

    Args:
        b: [out, r].
        a: [r, in].
    """
    core_b = torch.linalg.qr(b.double(), mode="r").R
    core_a = torch.linalg.qr(a.double().T, mode="r").R
    return torch.linalg.svdvals(core_b @ core_a.T)


def measures(sigma: Tensor) -> dict[str, float]:
    """What is reported of one spectrum: its ranks and norms. All are 0 for a matrix of zeros."""
    return {
        "rank90": rank_for_variance(sigma, VARIANCE),
        "effective_rank": effective_rank(sigma),
        "stable_rank": stable_rank(sigma),
        "frobenius_norm": float(sigma.square().sum().sqrt()),
        "spectral_norm": float(sigma[0]),
    }


def rank_for_variance(sigma: Tensor, share: float) -> int:
    """Smallest k whose k largest sigma^2 sum to at least `share` of all (paper section 4.6)."""
    explained = sigma.square().cumsum(0)
    if explained[-1] == 0:
        return 0
    return int((explained < share * explained[-1]).sum()) + 1


def effective_rank(sigma: Tensor) -> float:
    """exp(H(sigma / sum(sigma))), H the entropy (Roy and Vetterli, EUSIPCO 2007)."""
    total = sigma.sum()
    return float(torch.special.entr(sigma / total).sum().exp()) if total > 0 else 0.0


def stable_rank(sigma: Tensor) -> float:
    """||X||_F^2 / ||X||_2^2 (Rudelson and Vershynin, J. ACM 54, 2007)."""
    return float((sigma / sigma[0]).square().sum()) if sigma[0] > 0 else 0.0
