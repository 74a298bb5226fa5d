"""Bisection against LAPACK in float64: every eigenvalue to its own relative accuracy."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from optax_alphadecay.spectra.tridiagonal import _eigenvalues_below, bisect


def lapack(diagonals: np.ndarray, off_diagonals: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            scipy.linalg.eigh_tridiagonal(diagonal.astype(np.float64), off.astype(np.float64), eigvals_only=True)
            for diagonal, off in zip(diagonals, off_diagonals, strict=True)
        ]
    )


def bidiagonal_products(seed: int, k: int, n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """``B.T @ B`` of random bidiagonal ``B``: semi-definite, with eigenvalues over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    main = np.exp(rng.uniform(-spread, 0, (k, n)))
    side = 0.3 * main[:, 1:] * rng.uniform(-1, 1, (k, n - 1))
    squares = np.pad(side, ((0, 0), (1, 0)))[:, :n] ** 2
    return (main**2 + squares).astype(np.float32), (main[:, :-1] * side).astype(np.float32)


def test_random_spectra() -> None:
    diagonals, off_diagonals = bidiagonal_products(0, 5, 61, spread=2.0)
    expected = lapack(diagonals, off_diagonals)
    found = np.asarray(jax.jit(bisect)(diagonals, off_diagonals), np.float64)
    largest = expected[:, -1:]
    # What the input itself determines: round-off of the largest entry; above that, relative accuracy.
    np.testing.assert_array_less(np.abs(found - expected), 2e-6 * expected + 2e-7 * largest)
    upper = slice(30, None)
    np.testing.assert_allclose(found[:, upper], expected[:, upper], rtol=2e-6)
    assert (np.diff(found, axis=1) >= 0).all()


def test_more_accurate_on_small_eigenvalues_than_jax() -> None:
    diagonals = np.geomspace(1e-5, 1, 60, dtype=np.float32)[None]
    off_diagonals = np.full((1, 59), 1e-9, np.float32)
    expected = lapack(diagonals, off_diagonals)[0]
    ours = np.abs(np.asarray(bisect(jnp.asarray(diagonals), jnp.asarray(off_diagonals)))[0] / expected - 1).max()
    jaxs = np.abs(
        np.asarray(jax.scipy.linalg.eigh_tridiagonal(diagonals[0], off_diagonals[0], eigvals_only=True)) / expected - 1
    ).max()
    assert ours < 1e-6 < 1e-3 < jaxs


def test_diagonal_matrices_ties_and_zeros() -> None:
    for diagonal in ([1.0, 4.0, 4.0, 9.0], [0.0, 0.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0]):
        found = bisect(jnp.array([diagonal]), jnp.zeros((1, 3)))[0]
        np.testing.assert_allclose(found, sorted(diagonal), rtol=1e-6, atol=2.0**-26 * max(diagonal))


def test_degenerate_input() -> None:
    np.testing.assert_array_equal(bisect(jnp.zeros((1, 4)), jnp.zeros((1, 3))), 0)
    np.testing.assert_allclose(bisect(jnp.array([[3.0]]), jnp.zeros((1, 0))), [[3.0]], rtol=1e-6)
    for broken in (jnp.nan, jnp.inf):
        found = bisect(jnp.array([[1.0, 2.0, 3.0], [1.0, broken, 3.0]]), jnp.ones((2, 2)) * 0.1)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_golub_kahan_of_a_known_matrix() -> None:
    """The second difference matrix has eigenvalues 2 - 2 cos(pi j / (n + 1))."""
    n = 50
    found = bisect(jnp.full((1, n), 2.0), jnp.full((1, n - 1), -1.0))[0]
    expected = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=5e-7)


def test_powers_of_two_pass_through() -> None:
    """Nothing in the search depends on the unit, couplings of exactly zero included."""
    diagonals, off_diagonals = bidiagonal_products(1, 2, 12, spread=2.0)
    off_diagonals[0, 5] = 0
    found = bisect(jnp.asarray(diagonals), jnp.asarray(off_diagonals))
    scale = np.float32(2.0**60)
    scaled = bisect(jnp.asarray(diagonals * scale), jnp.asarray(off_diagonals * scale))
    np.testing.assert_array_equal(scaled, found * scale)


def test_eigenvalues_of_a_diagonal_to_the_last_bits() -> None:
    diagonal = np.sort(np.random.default_rng(2).uniform(0.01, 1, 300).astype(np.float32))
    found = bisect(jnp.asarray(diagonal)[None], jnp.zeros((1, 299)))[0]
    np.testing.assert_allclose(found, diagonal, rtol=2.4e-7)


def test_counts_of_a_matrix_of_two_by_two() -> None:
    """Its eigenvalues are 1 and 3."""
    points = jnp.array([[0.0, 0.9, 1.1, 2.9, 3.1, 5.0]])
    counts = _eigenvalues_below(jnp.array([[2.0, 2.0]]), jnp.array([[0.0, 1.0]]), points)
    np.testing.assert_array_equal(counts, [[0, 0, 1, 1, 2, 2]])
