"""Stochastic Lanczos quadrature against float64 NumPy: its rules, its quantiles, and the alphas that come of them."""
# SPDX-License-Identifier: Apache-2.0

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import optax_alphadecay as oad
from benchmarks.stochastic import count_operations
from optax_alphadecay.spectra.lanczos import _rule, _tridiagonalise, quadrature, stochastic

TRAINED = pathlib.Path(__file__).parents[1] / "data/trajectory/adamw_alphadecay_0.6666_3_final_weights.npz"
DEFAULT = stochastic()
compiled = jax.jit(quadrature, static_argnames=("probes", "steps", "seed"))
estimate = functools.partial(compiled, probes=DEFAULT.probes, steps=DEFAULT.steps)


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def exact(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[::-1] ** 2


def with_spectrum(eigenvalues: np.ndarray) -> np.ndarray:
    """A matrix with these eigenvalues; singular vectors do not matter to probes without a preferred direction."""
    return np.diag(np.sqrt(eigenvalues / eigenvalues[-1])).astype(np.float32)


def stretched(eigenvalues: np.ndarray, n: int) -> np.ndarray:
    return np.exp(np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(eigenvalues)), np.log(eigenvalues)))


def hill(eigenvalues: np.ndarray) -> float:
    """Alpha of the median fit, in float64."""
    tail = eigenvalues[len(eigenvalues) // 2 :]
    return 1 + len(tail) / np.log(tail / tail[0]).sum()


def test_rules_integrate_moments() -> None:
    steps, matrix, start = 4, gaussian(24, 40) / 8, gaussian(3, 24, seed=1)
    diagonals, off_diagonals, pivots = jax.jit(_tridiagonalise, static_argnums=2)(matrix, start, steps)
    gauss, gauss_weights = _rule(diagonals, off_diagonals[:, :-1])
    last = off_diagonals[:, -1] ** 2 / pivots
    radau, radau_weights = _rule(jnp.column_stack([diagonals, last]), off_diagonals)
    np.testing.assert_allclose(radau[:, 0], 0, atol=1e-6)
    assert (radau[:, :-1] < gauss).all() and (gauss < radau[:, 1:]).all()

    gram = matrix.astype(np.float64) @ matrix.T
    unit = start.astype(np.float64) / np.linalg.norm(start, axis=1, keepdims=True)
    for power in range(2 * steps + 1):
        moments = np.einsum("pi,ij,pj->p", unit, np.linalg.matrix_power(gram, power), unit)
        np.testing.assert_allclose((radau_weights * radau**power).sum(axis=1), moments, rtol=1e-5)
        if power < 2 * steps:
            np.testing.assert_allclose((gauss_weights * gauss**power).sum(axis=1), moments, rtol=1e-5)


@pytest.mark.parametrize("matrix", [np.eye(64), np.linalg.qr(gaussian(64, 64))[0], np.full((1, 5), 0.5)])
def test_equal_eigenvalues(matrix: np.ndarray) -> None:
    values = estimate(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(values, exact(matrix), rtol=1e-5)
    assert np.isnan(oad.median()(values))


def test_distinct_eigenvalues_fewer_than_steps() -> None:
    values = np.asarray(estimate(jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))))
    np.testing.assert_allclose(values, [1, 4, 9, 16, 25], rtol=1e-5)
    values = np.asarray(estimate(jnp.diag(jnp.repeat(jnp.array([1.0, 3.0]), 32))))
    np.testing.assert_allclose(np.minimum(abs(values - 1), abs(values / 9 - 1)), 0, atol=1e-5)
    assert abs(np.sum(values < 5) - 32) <= 5


def test_low_rank() -> None:
    matrix = gaussian(64, 10) @ gaussian(10, 64, seed=1) / 16
    found, expected = np.asarray(estimate(jnp.asarray(matrix))), exact(matrix)
    assert (found[:48] < 1e-5 * expected[-1]).all()
    # A rule's weight of an eigenvalue is random, so that one may come twice or not at all, but none comes from between.
    nearest = np.abs(found[-7:, None] / expected[-10:] - 1).min(axis=1)
    np.testing.assert_array_less(nearest, 1e-5)
    np.testing.assert_allclose(found[-1], expected[-1], rtol=1e-5)


def test_degenerate_input() -> None:
    np.testing.assert_array_equal(estimate(jnp.zeros((64, 64))), 0)
    for bad in (jnp.nan, jnp.inf):
        assert jnp.isnan(estimate(jnp.eye(64).at[3, 4].set(bad))).all()


def test_quantiles_converge() -> None:
    expected = np.exp(1.5 * scipy.stats.norm.ppf((np.arange(256) + 0.5) / 256))
    expected /= expected[-1]
    matrix = jnp.asarray(with_spectrum(expected))
    errors = []
    for probes, steps in ((4, 6), (16, 12), (64, 24)):
        found = np.asarray(compiled(matrix, probes=probes, steps=steps), np.float64)
        assert (np.diff(found) >= 0).all()
        errors.append(np.abs(np.log(found[128:] / expected[128:])).mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02
    np.testing.assert_allclose(found[-1], expected[-1], rtol=1e-5)


def test_alphas_of_trained_spectra() -> None:
    weights = np.load(TRAINED)
    matrices = [weights[name] for name in weights.files if ".layers." in name and weights[name].ndim == 2]
    spectra = [stretched(exact(matrix), 1024) for matrix in matrices]
    # Those have been trained a little; with a spread scaled up they are as heavy-tailed as one trained for long.
    spectra += [np.sort(spectrum**power) for spectrum in spectra[::3] for power in (1.5, 0.7)]
    expected = np.array([hill(spectrum) for spectrum in spectra])
    found = np.array([oad.median()(estimate(jnp.asarray(with_spectrum(spectrum)))) for spectrum in spectra])
    errors = np.abs(found - expected)
    assert errors.mean() <= 0.02 and errors.max() <= 0.06
    assert scipy.stats.spearmanr(found, expected).statistic >= 0.98


def test_same_at_every_call_and_under_transformations() -> None:
    matrices = jnp.stack([jnp.asarray(gaussian(64, 64, seed)) for seed in (0, 1)])
    once = jnp.stack([estimate(matrix) for matrix in matrices])
    np.testing.assert_array_equal(once, jnp.stack([estimate(matrix) for matrix in matrices]))
    np.testing.assert_allclose(jax.lax.map(estimate, matrices), once, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(estimate)(matrices)[:, 32:], once[:, 32:], rtol=1e-3)
    other = estimate(matrices[0], seed=1)
    assert not np.array_equal(other, once[0])


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_scale(scale: float) -> None:
    matrix = jnp.asarray(gaussian(64, 64)) / 4
    np.testing.assert_allclose(estimate(matrix * scale), estimate(matrix) * scale**2, rtol=1e-5)


def test_work_is_below_that_of_the_gram_matrix() -> None:
    work = {}
    for n in (1024, 2048):
        shape = jax.ShapeDtypeStruct((n, n), jnp.float32)
        work[n] = count_operations(jax.make_jaxpr(estimate)(shape).jaxpr)
        products = 4 * n**2 * DEFAULT.probes * DEFAULT.steps
        assert products < work[n] < 1.1 * products
    assert work[2048] <= 2 * 2048**3


@pytest.mark.parametrize("share", [0.3, 0.45, 0.49])
def test_rank_below_half_is_refused_as_by_exact_solvers(share: float) -> None:
    rng = np.random.default_rng(0)
    rank = round(share * 256)
    matrix = jnp.asarray(rng.normal(size=(256, rank)) @ rng.normal(size=(rank, 256)), jnp.float32)
    for solver in ("auto", "stochastic"):
        assert np.isnan(oad.pl_alpha_hill(solver=solver)(matrix[None], matrix[None]))


def test_only_the_median_can_be_fitted() -> None:
    for metric in (oad.pl_alpha_hill, oad.alpha_hat):
        with pytest.raises(ValueError, match=r"only the fit median\(\).*'stochastic'"):
            metric(oad.goodness_of_fit(), solver="stochastic")
