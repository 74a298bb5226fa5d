"""Edges and alphas of random matrices, against quadrature and simulation."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import optax_alphadecay as oad


def alpha_by_quadrature(q: float) -> float:
    """The definition, integrated over eigenvalues by SciPy."""
    a, b = (1 - np.sqrt(q)) ** 2, (1 + np.sqrt(q)) ** 2

    def density(x: float) -> float:
        return float(np.sqrt(max(b - x, 0) * max(x - a, 0)) / (2 * np.pi * q * x))

    def above(x: float) -> float:
        return float(scipy.integrate.quad(density, x, b, limit=200)[0])

    median = scipy.optimize.brentq(lambda x: above(x) - 0.5, a + 1e-9, b)
    mean = scipy.integrate.quad(lambda x: 2 * np.log(x / median) * density(x), median, b, limit=200)[0]
    return float(1 + 1 / mean)


@pytest.mark.parametrize("shape", [(64, 64), (64, 172), (344, 128), (50, 800)])
def test_alpha_of_a_random_matrix_is_the_integral(shape: tuple[int, int]) -> None:
    np.testing.assert_allclose(oad.random_matrix_alpha(*shape), alpha_by_quadrature(min(shape) / max(shape)), rtol=1e-6)


def test_published_values() -> None:
    shapes = [(512, 512), (128, 344), (512, 1376), (64, 256), (64, 512)]
    expected = [2.1217, 2.9992, 2.9992, 3.4546, 4.4699]
    np.testing.assert_allclose([oad.random_matrix_alpha(*shape) for shape in shapes], expected, atol=6e-5)


def test_gaussian_matrices_have_it_on_average() -> None:
    matrices = np.random.default_rng(0).normal(size=(40, 128, 512)).astype(np.float32)
    alphas = np.asarray(oad.median()(oad.eigenvalues(matrices)))
    error = alphas.std(ddof=1) / np.sqrt(len(alphas))
    # The estimator counts its cutoff among the k eigenvalues, which at N = 128 raises alpha by its 1 / k.
    assert abs(alphas.mean() - oad.random_matrix_alpha(128, 512)) < 4 * error + (alphas.mean() - 1) / 64


def test_edges_hold_the_spectrum_of_a_gaussian_matrix() -> None:
    values = np.linalg.eigvalsh((lambda w: w @ w.T)(0.02 * np.random.default_rng(1).normal(size=(400, 1600))))
    low, high = oad.marchenko_pastur_edges(1600, 400, stddev=0.02)
    np.testing.assert_allclose((values[0], values[-1]), (low, high), atol=0.01 * high)


@pytest.mark.parametrize("function", [oad.random_matrix_alpha, oad.marchenko_pastur_edges])
def test_a_matrix_has_sides(function: object) -> None:
    with pytest.raises(ValueError, match=r"at least one row and one column, got m=0 and n=4"):
        function(0, 4)  # type: ignore[operator]


def test_one_row_is_a_matrix() -> None:
    """Of one row the larger side alone is random, and all of the spectrum is in its one eigenvalue."""
    assert oad.marchenko_pastur_edges(1, 4) == (1.0, 9.0)
    assert oad.marchenko_pastur_edges(9, 1, stddev=2.0) == (16.0, 64.0)
    np.testing.assert_allclose(oad.random_matrix_alpha(1, 8), oad.random_matrix_alpha(64, 512), rtol=1e-12)
