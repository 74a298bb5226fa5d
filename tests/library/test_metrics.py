"""Metrics against NumPy and SciPy in float64."""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import optax_alphadecay as oad
from optax_alphadecay.measurement import _size_class, _smaller_side_first, measure

RNG = np.random.default_rng(4)
WEIGHTS, GRADIENTS = (RNG.normal(size=(3, 12, 20)).astype(np.float32) for _ in range(2))
VALUES = np.linalg.svd(WEIGHTS.astype(np.float64), compute_uv=False)[:, ::-1] ** 2
ALPHAS = 1 + 6 / np.log(VALUES[:, 6:] / VALUES[:, 6:7]).sum(axis=1)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (oad.pl_alpha_hill(), ALPHAS),
        (oad.alpha_hat(), np.log(1 + np.exp(ALPHAS * np.log10(VALUES[:, -1])))),
        (oad.spectral_norm(), VALUES[:, -1]),
        (oad.stable_rank(), VALUES.sum(axis=1) / VALUES[:, -1]),
        (oad.spectral_entropy(), scipy.stats.entropy(VALUES, axis=1) / np.log(12)),
        (oad.frobenius_norm(), np.linalg.norm(WEIGHTS.astype(np.float64), axis=(1, 2)) ** 2),
        (oad.grad_norm(), np.linalg.norm(GRADIENTS.astype(np.float64), axis=(1, 2))),
    ],
    ids=["pl_alpha_hill", "alpha_hat", "spectral_norm", "stable_rank", "spectral_entropy", "frobenius", "grad_norm"],
)
def test_scores(metric: oad.Metric, expected: np.ndarray) -> None:
    scores = metric(jnp.asarray(WEIGHTS), jnp.asarray(GRADIENTS))
    assert scores.shape == (3,) and scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_measure_puts_stacks_of_all_sizes_in_order() -> None:
    shapes = [(2, 9, 12), (1, 6, 6), (3, 12, 9)]
    stacks = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes]
    metrics: list[oad.Metric] = [oad.pl_alpha_hill(), oad.pl_alpha_hill(oad.goodness_of_fit()), oad.grad_norm()]
    for metric in metrics:
        apart = [metric(stack, stack) for stack in stacks]
        np.testing.assert_allclose(measure(metric, stacks, stacks), jnp.concatenate(apart), rtol=1e-5)


def test_rounding_is_that_of_each_dtype_where_modules_of_several_are_measured_at_once() -> None:
    rounded = jax.nn.initializers.orthogonal()(jax.random.key(1), (1, 16, 16)).astype("bfloat16")
    other = jax.random.normal(jax.random.key(2), (2, 16, 20))
    stacks = [rounded.astype("float32"), rounded, other, rounded.astype("float32")]
    scores = np.asarray(measure(oad.pl_alpha_hill(), stacks, stacks))
    np.testing.assert_array_equal(np.isnan(scores), [False, True, False, False, False])
    np.testing.assert_array_equal(scores[0], scores[4])
    np.testing.assert_allclose(scores[2:4], oad.pl_alpha_hill()(other, other), rtol=1e-5)


def test_separate_matrices_are_not_cut_apart_again() -> None:
    """A compiler takes some 10 ms for each slice: in a model of 2,100 matrices they took most of its time."""

    def slices(count: int) -> int:
        stacks = [jax.ShapeDtypeStruct((1, 8, 12), jnp.float32)] * count
        metric: Any = oad.pl_alpha_hill(solver="tridiagonal")
        return int(jax.jit(metric.of_stacks).lower(stacks).as_text().count("stablehlo.slice"))

    assert slices(40) == slices(20)


def test_fits_and_solvers_are_passed_on() -> None:
    def smallest(values: jax.Array) -> jax.Array:
        return values[..., 0]

    scores = oad.pl_alpha_hill(smallest, solver="svd")(jnp.asarray(WEIGHTS), jnp.asarray(GRADIENTS))
    np.testing.assert_allclose(scores, VALUES[:, 0], rtol=1e-5)


def test_spectral_makes_metrics_of_functions_of_eigenvalues() -> None:
    metric = oad.spectral(lambda values: jnp.log(values[:, -1] / values[:, 0]))
    expected = np.log(VALUES[:, -1] / VALUES[:, 0])
    np.testing.assert_allclose(metric(jnp.asarray(WEIGHTS), jnp.asarray(GRADIENTS)), expected, rtol=1e-4)
    stacks = [jnp.asarray(WEIGHTS[:2]), jnp.asarray(WEIGHTS[2:].swapaxes(1, 2))]
    np.testing.assert_allclose(measure(metric, stacks, stacks), expected, rtol=1e-4)


def test_spectral_scores_modules_with_equally_many_eigenvalues_at_once() -> None:
    shapes = []

    def score(values: jax.Array) -> jax.Array:
        shapes.append(values.shape)
        return values[:, -1]

    stacks = [jnp.ones(shape) for shape in ((2, 4, 6), (1, 3, 3), (1, 9, 4))]
    measure(oad.spectral(score), stacks, stacks)
    assert shapes == [(3, 4), (1, 3)]


def test_fits_must_give_one_alpha_a_module() -> None:
    with pytest.raises(ValueError, match=r"one score a module, shape \(3,\)"):
        measure(oad.pl_alpha_hill(lambda values: values.mean()), [jnp.asarray(WEIGHTS)], [jnp.asarray(GRADIENTS)])


@pytest.mark.parametrize("build", [oad.pl_alpha_hill, oad.alpha_hat])
@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ("median", "got 'median'"),
        (oad.median, r"call it: median\(\)"),
        (oad.fix_finger, r"call it: fix_finger\(\)"),
        (lambda: 2.0, r">\.$"),
    ],
)
def test_what_is_no_fit_is_refused_when_built(build: Callable[..., oad.Metric], fit: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"fit must be a function of eigenvalues.*{said}"):
        build(fit)


def test_a_fit_may_hide_its_arguments() -> None:
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)
    assert callable(oad.pl_alpha_hill(max))  # what it gives is checked when it is called


SPECTRAL: list[Callable[..., oad.Metric]] = [
    functools.partial(oad.spectral, jnp.sum),
    oad.pl_alpha_hill,
    oad.alpha_hat,
    oad.spectral_norm,
    oad.stable_rank,
    oad.spectral_entropy,
]


@pytest.mark.parametrize("build", SPECTRAL)
def test_unknown_solvers_are_refused_when_built(build: Callable[..., oad.Metric]) -> None:
    with pytest.raises(ValueError, match="unknown solver 'qr'"):
        build(solver="qr")


def test_matrices_of_any_rank_are_scored() -> None:
    """One matrix, a stack, or more axes; of weights alone where these are measured."""
    weights = jax.random.normal(jax.random.key(0), (2, 3, 8, 12))
    for metric in (oad.pl_alpha_hill(), oad.stable_rank(), oad.frobenius_norm()):
        scores = metric(weights, weights)
        assert scores.shape == (2, 3)
        np.testing.assert_allclose(metric(weights[1], weights[1]), scores[1], rtol=1e-5)
        one: Any = metric
        assert one(weights[0, 2]).shape == ()
        np.testing.assert_allclose(one(weights[0, 2]), scores[0, 2], rtol=1e-5)
        with pytest.raises(ValueError, match=r"matrices \[m, n\] or stacks .* got shape \(12,\)"):
            one(weights[0, 0, 0])
    gradient_norm: Any = oad.grad_norm()
    np.testing.assert_allclose(gradient_norm(weights[0, 0], weights[0, 1]), np.linalg.norm(weights[0, 1]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"metric\(weights, gradients\)"):
        gradient_norm(weights)


@pytest.mark.parametrize("metric", [oad.pl_alpha_hill(), oad.alpha_hat()], ids=["pl_alpha_hill", "alpha_hat"])
def test_a_tail_that_is_rounding_is_refused_whatever_is_below_it(metric: Any) -> None:
    """The upper half of the spectrum, which the median fit is made to, is constant in bfloat16; the lower is not."""
    diagonal = jnp.concatenate([jnp.linspace(0.1, 0.5, 32), jnp.ones(32) + jnp.linspace(0, 2e-3, 32)])
    weights = jnp.diag(diagonal)
    upper = np.float64(diagonal[32:]) ** 2
    assert np.ptp(upper) / upper.max() < 2 * float(jnp.finfo(jnp.bfloat16).eps) < np.ptp(np.float64(diagonal) ** 2)
    assert np.isfinite(metric(weights, weights))  # a spectrum like any other in float32
    stored = weights.astype("bfloat16")
    assert np.isnan(metric(stored, stored))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
@pytest.mark.parametrize("metric", [oad.pl_alpha_hill(), oad.alpha_hat()], ids=["pl_alpha_hill", "alpha_hat"])
def test_spectra_without_a_tail_are_refused(metric: Any, shape: tuple[int, int], dtype: str) -> None:
    """Orthogonal matrices, whose singular values differ only by the rounding of what is stored."""
    orthogonal = jax.nn.initializers.orthogonal()(jax.random.key(1), shape).astype(dtype)
    assert np.isnan(metric(orthogonal, orthogonal))
    ordinary = jax.random.normal(jax.random.key(1), shape, dtype)
    assert np.isfinite(metric(ordinary, ordinary))
    if dtype != "float32" and shape == (64, 64):
        # Stored in float32, the same numbers are a spectrum like any other: they have an alpha in the hundreds.
        wide = orthogonal.astype("float32")
        assert np.isfinite(metric(wide, wide)) and oad.median()(oad.eigenvalues(wide)) > 300
    assert np.isfinite(oad.stable_rank()(orthogonal, orthogonal))


def test_entropy_of_a_spectrum_with_zeros_below_round_off() -> None:
    """Ranks of one and of four: eigenvalues that come out negative count as zeros."""
    rng = np.random.default_rng(5)
    low_rank = np.stack([rng.normal(size=(16, rank)) @ rng.normal(size=(rank, 16)) for rank in (1, 4)])
    eigenvalues = np.linalg.svd(low_rank, compute_uv=False)[1, :4] ** 2
    found: Any = oad.spectral_entropy()
    assert (oad.eigenvalues(jnp.asarray(low_rank, jnp.float32)) < 0).any()
    expected = [0, scipy.stats.entropy(eigenvalues) / np.log(16)]
    np.testing.assert_allclose(found(jnp.asarray(low_rank, jnp.float32)), expected, atol=2e-5)


def test_scores_come_back_in_the_order_of_stacks_of_several_sizes_and_lengths() -> None:
    diagonals = [[1, 2, 9], [4, 1], [3, 5, 2], [7, 2], [6, 1, 1]]
    at = [[0], [1], [2, 4], [3]]
    stacks = [jnp.stack([jnp.diag(jnp.array(diagonals[i], jnp.float32)) for i in members]) for members in at]
    scores = measure(oad.spectral_norm(), stacks, stacks)
    np.testing.assert_allclose(scores, [9**2, 4**2, 5**2, 6**2, 7**2], rtol=1e-6)


def test_no_modules_have_no_scores() -> None:
    scores = measure(oad.spectral_norm(), [], [])
    assert scores.shape == (0,) and scores.dtype == jnp.float32


def test_size_classes_bound_the_padding_by_eight() -> None:
    shapes = [(64, 64), (64, 511), (64, 512), (512, 64), (64, 4095), (64, 4096), (1, 1), (3, 23), (3, 24)]
    expected = [(64, 0), (64, 0), (64, 1), (64, 1), (64, 1), (64, 2), (1, 0), (3, 0), (3, 1)]
    assert [_size_class(*shape) for shape in shapes] == expected


def test_the_smaller_side_comes_first() -> None:
    for shape, expected in (((2, 3, 5), (2, 3, 5)), ((2, 5, 3), (2, 3, 5)), ((2, 4, 4), (2, 4, 4))):
        stack = jnp.arange(math.prod(shape)).reshape(shape)
        found = _smaller_side_first(stack)
        assert found.shape == expected
        assert found[1, 1, 2] == (stack[1, 2, 1] if shape[1] > shape[2] else stack[1, 1, 2])
