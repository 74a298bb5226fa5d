"""Gradients through an update: scores are constants, rates and weights are not."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad

_KEYS = jax.random.split(jax.random.key(0), 6)
SHAPES = {"query": (64, 64), "up": (64, 96), "scale": (64,)}
PARAMS = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(_KEYS[:3], SHAPES.items(), strict=True)}
GRADIENTS = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(_KEYS[3:], SHAPES.items(), strict=True)}
RATE = 0.3


def loss(rate: Any, params: Any, state: oad.AlphaDecayState) -> tuple[Any, oad.AlphaDecayState]:
    """A sum over squared updates, and the state after the update."""
    updates, state = oad.alphadecay(rate, refresh_every=3).update(GRADIENTS, state, params)
    return sum(jnp.sum(update**2) for update in jax.tree.leaves(updates)) / 2, state


def states() -> dict[str, oad.AlphaDecayState]:
    """A state whose next update refreshes, and one whose next update does not."""
    decay = oad.alphadecay(RATE, refresh_every=3)
    due = decay.init(PARAMS)
    return {"refresh": due, "idle": decay.update(GRADIENTS, due, PARAMS)[1]}


@pytest.mark.parametrize("name", ["refresh", "idle"])
def test_gradients_take_the_ratios_for_constants(name: str) -> None:
    by_rate, by_params = jax.grad(loss, argnums=(0, 1), has_aux=True)(RATE, PARAMS, states()[name])[0]
    _, state = loss(RATE, PARAMS, states()[name])
    ratio_of: dict[str, Any] = {"query": state.ratios[0], "up": state.ratios[1], "scale": 1.0}
    assert len({float(ratio) for ratio in ratio_of.values()}) == 3

    expected_by_rate = 0.0
    for leaf, ratio in ratio_of.items():
        update = np.asarray(GRADIENTS[leaf] + RATE * ratio * PARAMS[leaf], np.float64)
        np.testing.assert_allclose(by_params[leaf], update * RATE * ratio, rtol=1e-4, atol=1e-5)
        expected_by_rate += np.sum(update * ratio * np.asarray(PARAMS[leaf], np.float64))
    np.testing.assert_allclose(by_rate, expected_by_rate, rtol=1e-4)


def test_gradients_of_an_idle_step_are_finite_differences() -> None:
    state = states()["idle"]
    (by_rate, by_params), _ = jax.grad(loss, argnums=(0, 1), has_aux=True)(RATE, PARAMS, state)
    direction = {name: jax.random.normal(key, SHAPES[name]) for name, key in zip(SHAPES, _KEYS, strict=False)}

    def along(step: float, *, rate: bool) -> float:
        moved = jax.tree.map(lambda param, way: param + step * way, PARAMS, direction)
        return float(loss(RATE + step, PARAMS, state)[0] if rate else loss(RATE, moved, state)[0])

    slope = {rate: (along(0.05, rate=rate) - along(-0.05, rate=rate)) / 0.1 for rate in (True, False)}
    np.testing.assert_allclose(by_rate, slope[True], rtol=1e-3)
    inner = sum(jnp.vdot(by_params[name], direction[name]) for name in SHAPES)
    np.testing.assert_allclose(inner, slope[False], rtol=1e-3)


def test_hypergradients_go_through_training_steps() -> None:
    """The loss after two steps, one of them a refresh, by the weight decay of both."""

    def after_training(rate: Any) -> Any:
        decay = oad.alphadecay(rate, refresh_every=3)
        params, state = PARAMS, decay.init(PARAMS)
        for _ in range(2):
            updates, state = decay.update(GRADIENTS, state, params)
            params = jax.tree.map(lambda param, update: param - 0.1 * update, params, updates)
        return sum(jnp.sum(param**2) for param in jax.tree.leaves(params))

    slope = (after_training(RATE + 0.02) - after_training(RATE - 0.02)) / 0.04
    np.testing.assert_allclose(jax.grad(after_training)(RATE), slope, rtol=1e-2)
