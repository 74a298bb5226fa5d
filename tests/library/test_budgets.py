"""Assignments that keep a budget: the mean of their ratios over modules, or over weights, is what was asked for."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad

SCORES = np.array([2.1, 3.0, np.nan, 2.4, 5.5], np.float32)
SIZES = (4096, 11008, 77, 4096, 16)
BUDGETS: dict[str, tuple[Any, float]] = {
    "linear": (oad.linear(mean=1.0), 1.0),
    "linear, by weights": (oad.linear(0.5, 2.0, mean=1.5, by="weights"), 1.5),
    "proportional": (oad.proportional(), 1.0),
    "proportional, by weights": (oad.proportional(-2.0, by="weights"), 1.0),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_the_mean_is_the_budget(name: str) -> None:
    assign, budget = BUDGETS[name]
    ratios = np.asarray(assign(jnp.asarray(SCORES), sizes=SIZES), np.float64)
    finite = np.isfinite(SCORES)
    weights = np.array(SIZES) if "weights" in name else np.ones(len(SIZES))
    np.testing.assert_array_equal(np.isfinite(ratios), finite)
    np.testing.assert_allclose(np.average(ratios[finite], weights=weights[finite]), budget, rtol=1e-6)


def test_a_mean_keeps_the_proportions_of_linear() -> None:
    plain, budgeted = (oad.linear(mean=mean)(jnp.asarray(SCORES)) for mean in (None, 1.0))
    finite = np.isfinite(SCORES)
    np.testing.assert_allclose(np.ptp((budgeted / plain)[finite]), 0, atol=1e-6)


def test_a_budget_over_weights_decays_as_much_as_uniform_decay() -> None:
    """Of weights of one size each, the decay of all modules together is that of the base rate."""
    keys = jax.random.split(jax.random.key(0))
    params = {"query": jax.random.t(keys[0], 2.0, (64, 64)), "up": jax.random.normal(keys[1], (64, 160))}
    params = jax.tree.map(jnp.sign, params) | {"norm": jnp.ones(64)}
    decay = oad.alphadecay(
        0.5, assign=oad.linear(mean=1.0, by="weights"), metric=oad.frobenius_norm(), modules=oad.block_matrices()
    )
    updates, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
    assert not np.allclose(np.abs(updates["query"]), 0.5)
    total = sum(float(jnp.abs(update).sum()) for update in jax.tree.leaves(updates))
    np.testing.assert_allclose(total, 0.5 * sum(leaf.size for leaf in jax.tree.leaves(params)), rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0, 40.0])
def test_proportional_against_its_formula(power: float) -> None:
    scores = np.array([2.0, 2.5, 3.5])
    expected = scores**power / np.mean(scores**power)
    np.testing.assert_allclose(oad.proportional(power)(jnp.float32(scores)), expected, rtol=1e-4)


def test_proportional_does_not_stretch_noise() -> None:
    ratios = oad.proportional()(jnp.array([2.00, 2.01, 2.02]))
    np.testing.assert_allclose(ratios, [0.995, 1.0, 1.005], atol=1e-4)


def test_proportional_fences_and_refuses() -> None:
    assign: Any = oad.proportional()
    scores = jnp.array([2.0, 3.0, 4.0, 501.0, -1.0])
    np.testing.assert_array_equal(assign.fenced(scores), [False, False, False, True, False])
    ratios = np.asarray(assign(scores))
    assert np.isnan(ratios[4])
    np.testing.assert_allclose(ratios[:4], np.array([2, 3, 4, 4]) / 3.25, rtol=1e-6)


def test_a_budget_over_weights_needs_a_mean_and_sizes() -> None:
    with pytest.raises(ValueError, match=r"by='weights'.*mean=1\.0"):
        oad.linear(by="weights")
    with pytest.raises(ValueError, match="sizes"):
        oad.linear(mean=1.0, by="weights")(jnp.asarray(SCORES))
