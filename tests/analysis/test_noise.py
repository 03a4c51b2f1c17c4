"""The random-matrix demonstration against closed forms."""

import numpy as np
import pytest

from lvf.analysis.noise import noise_spectra, spectral_distances


def test_the_spectrum_of_noise_fills_the_quarter_circle() -> None:
    spectra = noise_spectra(size=400, scale=0.1)
    largest, mean = spectra["A"].iloc[0], spectra["A"].mean()
    assert largest == pytest.approx(2 * 400**0.5, rel=0.03)  # Marchenko and Pastur, 1967
    assert mean == pytest.approx(8 / (3 * np.pi) * 400**0.5, rel=0.03)
    assert spectra["cB"].mean() == pytest.approx(0.1 * mean, rel=0.03)


def test_a_tenth_of_noise_widens_the_spectrum_by_half_a_percent() -> None:
    spectra = noise_spectra(size=400, scale=0.1)
    ratio = spectra["A + cB"].mean() / spectra["A"].mean()
    assert ratio == pytest.approx(1.01**0.5, abs=0.002)  # the sum is noise of variance 1 + c^2


def test_small_changes_move_the_spectrum_in_proportion_and_no_more_than_their_norm() -> None:
    distances = spectral_distances(scales=[1e-6, 1e-5, 1e-4], size=200)
    slopes = np.diff(np.log10(distances.distance)) / np.diff(np.log10(distances.c))
    assert slopes == pytest.approx([1, 1], abs=0.01)
    norm = 2 * 200**0.5  # Weyl: no singular value moves by more than the norm of the change
    assert (distances.distance < distances.c * norm).all()
