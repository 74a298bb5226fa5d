"""Spectra, moments and edges against small examples by hand."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from optax_alphadecay.inspection import spectra
from optax_alphadecay.inspection.spectra import beyond_edge, measure, measure_product


def test_the_edge_is_by_hand() -> None:
    """Of 4 x 10: (2 + sqrt 10)^2 and 3.27 times (2 + 3) (1 / 2 + 1 / 3)^(1 / 3), in units of the variance."""
    edge = (2 + math.sqrt(10)) ** 2 + 3.27 * 5 * (5 / 6) ** (1 / 3)
    for m, n in ((4, 10), (10, 4)):
        for stddev in (0.5, 3.0):
            spectrum = stddev**2 * edge * np.array([0.1, 0.999, 1.001, 1.002])
            assert beyond_edge(spectrum, m, n, stddev) == 2


def test_of_a_constant_matrix_only_the_round_off_is_not_beyond() -> None:
    """The noise of float32 is 2^-20 of the largest."""
    spectrum = 64 * np.array([2**-30, 0.99 * 2**-20, 1.01 * 2**-20, 1])
    assert beyond_edge(spectrum, 4, 10, 0.0) == 2


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_moments_by_hand(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "_BLOCK", block)
    matrix = np.array([[0.1, 0.3], [0.2, 0.2], [0.4, 0.0]])
    spectrum = measure(matrix, shuffle=None)
    assert spectrum.mean == pytest.approx(0.2) and spectrum.stddev == pytest.approx(math.sqrt(0.1 / 6))
    assert spectrum.eigenvalues.sum() == pytest.approx(0.34) and spectrum.traps == -1
    assert measure(np.full((2, 3), 5.0), shuffle=None).stddev == pytest.approx(0, abs=1e-7)


def test_columns_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "_COLUMNS", 2)
    monkeypatch.setattr(spectra, "_BLOCK", 9)
    matrix = np.random.default_rng(0).standard_normal((3, 10))
    exact = np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2
    for own in (matrix, matrix.T):
        np.testing.assert_allclose(measure(own, shuffle=None).eigenvalues, exact, rtol=1e-9)


def test_what_is_shuffled_is_the_whole_matrix() -> None:
    """Alternating columns are of rank one; shuffled they are a random matrix, of the same entries."""
    matrix = np.where(np.arange(60 * 80).reshape(60, 80) % 2, 1.0, -1.0)
    before = np.sort(matrix, axis=None)
    spectrum = measure(matrix, shuffle=np.random.default_rng(0))
    assert beyond_edge(spectrum.eigenvalues, 60, 80, spectrum.stddev) == 1  # it has a rank of one
    assert spectrum.traps == 0
    np.testing.assert_array_equal(np.sort(matrix, axis=None), before)
    assert np.linalg.matrix_rank(matrix) == 60


@pytest.mark.parametrize("sides", [(3, 6, 5), (5, 6, 3), (7, 2, 9), (4, 4, 4)])
def test_a_product_has_as_many_eigenvalues_as_its_smallest_side(sides: tuple[int, int, int]) -> None:
    m, rank, n = sides
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((m, rank)), rng.standard_normal((rank, n))
    spectrum = measure_product(left, right, 3.0)
    exact = np.linalg.svd(3 * left @ right, compute_uv=False)[: min(sides)][::-1] ** 2
    np.testing.assert_allclose(spectrum.eigenvalues, exact, rtol=1e-7)
    assert math.isnan(spectrum.mean) and math.isnan(spectrum.stddev) and spectrum.traps == -1
