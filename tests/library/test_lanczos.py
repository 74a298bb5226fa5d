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
from optax_alphadecay.spectra.lanczos import _interleave, _rule, _tridiagonalise, quadrature, stochastic

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


def midpoints(weights: np.ndarray) -> np.ndarray:
    """Of each node's part of the distribution function."""
    return np.cumsum(weights) - weights / 2


def quantiles_of_one_probe(gram: np.ndarray, start: np.ndarray, steps: int, largest: float) -> np.ndarray:
    """Logarithms of the quantiles, from dense float64 projections on the Krylov space in place of a recurrence."""
    powers = [np.linalg.matrix_power(gram, power) @ start for power in range(steps + 1)]
    basis, _ = np.linalg.qr(np.column_stack(powers))
    jacobi = basis.T @ gram @ basis
    gauss, vectors = np.linalg.eigh(jacobi[:steps, :steps])
    # The last entry that makes the matrix singular, by its Schur complement.
    side = jacobi[steps, :steps]
    jacobi[steps, steps] = side @ np.linalg.solve(jacobi[:steps, :steps], side)
    radau, radau_vectors = np.linalg.eigh(jacobi)
    nodes = np.concatenate([gauss, radau[1:]])
    below = np.concatenate([midpoints(vectors[0] ** 2), midpoints(radau_vectors[0] ** 2)[1:]])
    order = np.argsort(nodes)
    wanted = (np.arange(len(gram)) + 0.5) / len(gram)
    return np.interp(wanted, np.maximum.accumulate(below[order]), np.log(np.minimum(nodes[order], largest)))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_quantiles_against_dense_projections(scale: float) -> None:
    probes, steps, matrix = 3, 4, gaussian(24, 40) * np.float32(scale)
    start = np.asarray(jax.random.normal(jax.random.key(0), (probes, 24)), np.float64)
    gram = matrix.astype(np.float64) @ matrix.T
    bases = [
        np.linalg.qr(np.column_stack([np.linalg.matrix_power(gram, k) @ x for k in range(steps)]))[0] for x in start
    ]
    largest = max(np.linalg.eigvalsh(basis.T @ gram @ basis)[-1] for basis in bases)
    logs = np.mean([quantiles_of_one_probe(gram, x, steps, largest) for x in start], axis=0)
    expected = np.append(np.exp(logs)[:-1], largest)
    np.testing.assert_allclose(compiled(jnp.asarray(matrix), probes=probes, steps=steps), expected, rtol=2e-4)


@pytest.mark.parametrize("steps", [3, 6])
@pytest.mark.parametrize("eigenvalues", [(0.5, 4.0, 9.0), (0.0, 4.0, 9.0)])
def test_repeated_eigenvalues_come_as_often_as_the_probes_weigh_them(
    eigenvalues: tuple[float, ...], steps: int
) -> None:
    repeats, probes = (7, 5, 12), 3
    start = np.asarray(jax.random.normal(jax.random.key(0), (probes, 24)), np.float64)
    shares = start**2 / (start**2).sum(axis=1, keepdims=True)
    ends = np.cumsum(shares.mean(axis=0))[np.cumsum(repeats) - 1]
    expected = np.array(eigenvalues)[np.searchsorted(ends[:2], (np.arange(24) + 0.5) / 24, side="right")]
    matrix = jnp.diag(jnp.sqrt(jnp.repeat(jnp.array(eigenvalues), np.array(repeats))))
    found = compiled(matrix, probes=probes, steps=steps)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=9.1 * 2.0**-23)
    assert (found > 0).all()


def test_nothing_follows_an_exhausted_space() -> None:
    diagonals, residuals, pivots = _tridiagonalise(jnp.eye(4, 6), jnp.asarray(gaussian(2, 4)), 3)
    np.testing.assert_allclose(diagonals[:, 0], 1, rtol=1e-6)
    np.testing.assert_array_equal(diagonals[:, 1:], 0)
    np.testing.assert_array_equal(residuals, 0)
    np.testing.assert_array_equal(pivots, 0)


def test_seed_zero_is_the_default() -> None:
    matrix = jnp.asarray(gaussian(64, 64))
    np.testing.assert_array_equal(estimate(matrix, seed=0), estimate(matrix))


def test_one_probe_and_one_step_are_enough_to_ask_for() -> None:
    assert stochastic(probes=1, steps=1, seed=0) == stochastic(probes=1, steps=1)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        stochastic(seed=-1)
    # One step from one vector knows the mean of the eigenvalues as the vector weighs them, and no more.
    start = np.asarray(jax.random.normal(jax.random.key(0), (1, 3)), np.float64)[0] ** 2
    found = compiled(jnp.diag(jnp.array([1.0, 2.0, 3.0])), probes=1, steps=1)
    np.testing.assert_allclose(found[-1], start @ [1, 4, 9] / start.sum(), rtol=1e-5)


def test_levels_and_the_steps_between_them_alternate() -> None:
    found = _interleave(jnp.array([[1, 3, 5], [10, 30, 50]]), jnp.array([[2, 4], [20, 40]]))
    np.testing.assert_array_equal(found, [[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]])
