"""What noise does to a spectrum: the paper's demonstration with random matrices (Fig. S8).

A small random change B hardly moves the spectrum of a random matrix A, and yet has full rank: the
spectra of base and tuned weights look alike whatever the rank of their difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

SIZE = 1000
SCALE = 0.1
SCALES = tuple(float(scale) for scale in np.logspace(-6, 0, 13))


def noise_spectra(size: int = SIZE, scale: float = SCALE, seed: int = 0) -> pd.DataFrame:
    """Singular values, falling, of A, A + cB and cB (Fig. S8a), in columns of those names.

    Args:
        size: A and B are [size, size] with independent standard normal entries.
        scale: c.
        seed: of A and B.
    """
    a, b = _gaussian_pair(size, seed)
    spectra = {"A": a, "A + cB": a + scale * b, "cB": scale * b}
    return pd.DataFrame({name: _singular_values(matrix) for name, matrix in spectra.items()})


def spectral_distances(
    scales: Sequence[float] = SCALES, size: int = SIZE, seed: int = 0
) -> pd.DataFrame:
    """Mean absolute difference of the spectra of A and A + cB (Fig. S8b), columns `c`, `distance`.

    The figure shows log10 of both, between the lines c and c^2.
    """
    a, b = _gaussian_pair(size, seed)
    before = _singular_values(a)
    rows = [(c, float(np.abs(_singular_values(a + c * b) - before).mean())) for c in scales]
    return pd.DataFrame(rows, columns=pd.Index(["c", "distance"]))


def _gaussian_pair(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(seed).standard_normal((2, size, size))
    return a, b


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)
