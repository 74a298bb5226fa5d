"""States that version 0.1 saved."""
# SPDX-License-Identifier: Apache-2.0

import json
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

PARAMS = {"a": jnp.ones((8, 9)), "b": 2 * jnp.ones((8, 9))}
OPTIMIZER = oad.adamw(1e-3, metric=oad.frobenius_norm(), modules=True, refresh_every=4)
# What flax wrote of the state that version 0.1 had after one update, `b` broken.
SAVED = json.loads('{"count": 1, "scores": [72.0, 0.0], "ratios": [2.5, 1.0], "rejected": 1}')


def restored() -> Any:
    template = oad.state_v1(OPTIMIZER.init(PARAMS))
    saved = flax.serialization.to_state_dict(template)
    saved["1"] = {name: jnp.asarray(value) for name, value in SAVED.items()}
    return flax.serialization.from_state_dict(template, saved)


def test_old_states_are_restored_and_converted() -> None:
    fresh, state = OPTIMIZER.init(PARAMS), oad.upgrade_state(restored())
    assert str(jax.tree.structure(state)) == str(jax.tree.structure(fresh))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)
    np.testing.assert_array_equal(state[1].scores, [72, np.nan])
    np.testing.assert_array_equal(state[1].ratios, [2.5, 1])
    np.testing.assert_array_equal(state[1].age, [0, 0])
    assert (state[1].count, state[1].rejected) == (1, 1)
    _, state = jax.jit(OPTIMIZER.update)(PARAMS, state, PARAMS)
    np.testing.assert_array_equal(state[1].scores, [72, np.nan])


def test_states_of_today_stay_as_they_are() -> None:
    _, state = OPTIMIZER.update(PARAMS, OPTIMIZER.init(PARAMS), PARAMS)
    assert oad.upgrade_state(state) is not None
    jax.tree.map(np.testing.assert_array_equal, oad.upgrade_state(state), state)


def test_shapes_of_states_are_enough_for_a_template() -> None:
    template = oad.state_v1(jax.eval_shape(OPTIMIZER.init, PARAMS))
    assert str(jax.tree.structure(template)) == str(jax.tree.structure(restored()))


def test_a_state_of_four_fields_says_what_to_do() -> None:
    """As pickle restores it."""
    optimizer = oad.alphadecay(0.1, modules=True)
    state = oad.AlphaDecayState(*restored()[1])
    with pytest.raises(ValueError, match=r"saved by version 0\.1.*upgrade_state\(state\)"):
        optimizer.update(PARAMS, state, PARAMS)
    _, state = optimizer.update(PARAMS, oad.upgrade_state(state), PARAMS)
    assert optax.tree.get(state, "count") == 2
