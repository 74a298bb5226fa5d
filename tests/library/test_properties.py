"""Property tests: broken modules move no other, updates stay finite, and alphas do not depend on scale or order."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

# Each shape compiles anew, so shapes are few and values many.
SHAPE = (12, 18)
NAMES = ("a", "b", "c", "d", "e")
FITS = {"median": oad.median(), "goodness_of_fit": oad.goodness_of_fit(), "fix_finger": oad.fix_finger()}
ASSIGNMENTS = {"linear": oad.linear(), "sqrt": oad.sqrt(), "log2": oad.log2(), "sigmoid": oad.sigmoid()}

seeds = st.integers(0, 2**32 - 1)
few_examples = hypothesis.settings(max_examples=15)


def matrix(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Gaussian columns of heavy-tailed length, so that alphas spread."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (1 + rng.pareto(rng.uniform(1, 4), shape[1]))).astype(np.float32)


def broken_matrix(kind: str) -> np.ndarray:
    """A module with no alpha."""
    healthy = matrix(99)
    if kind in ("nan", "inf", "-inf"):
        healthy[3, 4] = float(kind)
        return healthy
    return {
        "zero": np.zeros(SHAPE),
        "constant": np.full(SHAPE, 0.7),
        "scaled identity": 3.0 * np.eye(*SHAPE),
        "orthogonal": np.linalg.qr(healthy.T.astype(np.float64))[0].T,
        "rank one": np.outer(healthy[:, 0], healthy[0]),
        "rank five": healthy[:, :5] @ healthy[:5],
    }[kind].astype(np.float32)


BROKEN = ("nan", "inf", "-inf", "zero", "constant", "scaled identity", "orthogonal", "rank one", "rank five")


@functools.cache
def refresh_every_step(assign: str, modules: tuple[str, ...]) -> tuple[Any, Any]:
    choice = {name: name in modules for name in NAMES}
    transform = oad.alphadecay(0.1, refresh_every=1, assign=ASSIGNMENTS[assign], modules=choice)
    return transform.init, jax.jit(transform.update)


def refreshed(params: dict[str, np.ndarray], assign: str, modules: tuple[str, ...] = NAMES, state: Any = None) -> Any:
    init, update = refresh_every_step(assign, modules)
    gradients = jax.tree.map(np.ones_like, params)
    return update(gradients, init(params) if state is None else state, params)


@pytest.mark.parametrize("assign", ASSIGNMENTS)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_module_moves_no_other(kind: str, assign: str) -> None:
    params = {name: matrix(seed) for seed, name in enumerate(NAMES)} | {"c": broken_matrix(kind)}
    others = tuple(name for name in NAMES if name != "c")
    updates, state = refreshed(params, assign)
    _, without = refreshed(params, assign, others)
    kept = np.delete(np.asarray(state.ratios), NAMES.index("c"))
    np.testing.assert_allclose(kept, without.ratios, rtol=1e-6)
    assert len(set(kept.tolist())) == len(others)
    assert state.ratios[NAMES.index("c")] == 1
    assert int(state.rejected) == 1
    for name in others:
        assert np.isfinite(updates[name]).all()
    assert np.isfinite(updates["c"]).all() == np.isfinite(params["c"]).all()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_module_keeps_its_last_good_ratio(kind: str) -> None:
    params = {name: matrix(seed) for seed, name in enumerate(NAMES)}
    _, good = refreshed(params, "linear")
    _, state = refreshed(params | {"c": broken_matrix(kind)}, "linear", state=good)
    # All of them: the broken module still counts with its last good score, and so moves no other.
    np.testing.assert_allclose(state.ratios, good.ratios, rtol=1e-6)
    assert state.ratios[NAMES.index("c")] != 1
    np.testing.assert_allclose(state.scores, good.scores, rtol=1e-6)
    assert int(state.rejected) == 1


def test_all_broken_is_uniform_decay() -> None:
    params = {name: np.zeros(SHAPE, np.float32) for name in NAMES}
    updates, state = refreshed(params, "linear")
    np.testing.assert_array_equal(state.ratios, 1)
    assert int(state.rejected) == len(NAMES)
    assert all(np.isfinite(update).all() for update in updates.values())


@few_examples
@hypothesis.given(
    st.lists(npst.arrays(np.float32, SHAPE, elements=st.floats(-1e6, 1e6, width=32)), min_size=5, max_size=5)
)
def test_updates_of_finite_weights_are_finite(leaves: list[np.ndarray]) -> None:
    params = dict(zip(NAMES, leaves, strict=True))
    updates, state = refreshed(params, "linear")
    assert all(np.isfinite(update).all() for update in updates.values())
    # Only a module that was refused at this first refresh has no score.
    np.testing.assert_array_equal(np.isnan(state.scores), state.age == 1)
    assert not np.isinf(state.scores).any()
    assert ((state.ratios >= 2 / 3 - 1e-6) & (state.ratios <= 3 + 1e-6)).all()


@few_examples
@hypothesis.given(seeds, st.integers(-60, 50))
@pytest.mark.parametrize("fit", FITS)
def test_alpha_knows_no_scale(fit: str, seed: int, exponent: int) -> None:
    alphas = jax.jit(FITS[fit])
    weights = matrix(seed)
    # A power of two changes no digit, and scales every eigenvalue by exactly its square. fix-finger's bins are
    # placed by logarithms, whose round-off can push an eigenvalue over an edge.
    tolerance = 1e-6 if fit == "median" else 1e-3
    alpha, scaled = alphas(oad.eigenvalues(weights)), alphas(oad.eigenvalues(weights * np.float32(2.0) ** exponent))
    if fit != "fix_finger":
        np.testing.assert_allclose(scaled, alpha, rtol=tolerance)
    else:
        assert np.isfinite(scaled) == np.isfinite(alpha)


@few_examples
@hypothesis.given(seeds)
def test_alpha_of_the_transpose_is_the_same(seed: int) -> None:
    weights = matrix(seed)
    alpha = oad.median()
    np.testing.assert_allclose(alpha(oad.eigenvalues(weights.T)), alpha(oad.eigenvalues(weights)), rtol=1e-5)


@few_examples
@hypothesis.given(st.permutations(range(5)), seeds, st.sampled_from(sorted(ASSIGNMENTS)))
def test_order_of_modules_does_not_matter(order: list[int], seed: int, assign: str) -> None:
    scores = jnp.asarray(np.random.default_rng(seed).uniform(1.1, 6.0, 5), jnp.float32)
    ratios = np.asarray(ASSIGNMENTS[assign](scores))
    np.testing.assert_allclose(ASSIGNMENTS[assign](scores[jnp.array(order)]), ratios[np.array(order)], rtol=1e-5)


@few_examples
@hypothesis.given(
    npst.arrays(np.float32, 7, elements=st.floats(-100, 100, width=32, allow_subnormal=False)),
    st.floats(0, 2),
    st.floats(0, 5),
)
def test_linear_stays_in_its_range_and_keeps_the_order(scores: np.ndarray, lo: float, width: float) -> None:
    assign: Any = oad.linear(lo, lo + width)
    ratios = np.asarray(assign(jnp.asarray(scores)), np.float64)
    within = ~np.asarray(assign.fenced(jnp.asarray(scores)))
    spread = np.ptp(scores[within])
    hypothesis.assume(spread == 0 or spread >= np.finfo(np.float32).tiny)  # XLA takes smaller ones for 0
    if spread == 0:
        np.testing.assert_array_equal(ratios[within], 1)
        return
    assert ratios.min() == pytest.approx(lo, rel=1e-5, abs=1e-6)
    assert ratios.max() == pytest.approx(lo + width, rel=1e-5, abs=1e-6)
    by_score = ratios[np.argsort(scores, kind="stable")]
    assert (np.diff(by_score) >= -1e-5 * (lo + width)).all()


@few_examples
@hypothesis.given(seeds, st.floats(0, 1), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_decay_against_float64(seed: int, rate: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    param = jnp.asarray(rng.normal(size=(2, 6, 8)), dtype)
    gradient = jnp.asarray(rng.normal(size=(2, 6, 8)), dtype)
    ratios = jnp.asarray(rng.uniform(0.5, 3, 2), jnp.float32)
    transform = oad.alphadecay(
        rate,
        metric=lambda weights, gradients: ratios,
        assign=lambda scores: scores,
        modules=optax.contrib.MuonDimensionNumbers(1, 2),
    )
    update, _ = transform.update(gradient, transform.init(param), param)
    assert update.dtype == gradient.dtype
    wide = [np.asarray(x, np.float64) for x in (gradient, param, ratios.reshape(2, 1, 1))]
    expected = wide[0] + rate * wide[2] * wide[1]
    epsilon = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(update, np.float64), expected, rtol=2 * epsilon, atol=1e-6)
