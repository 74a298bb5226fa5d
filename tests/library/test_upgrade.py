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
    # It does not know which modules it is of, so that the next update measures them.
    _, state = jax.jit(OPTIMIZER.update)(PARAMS, state, PARAMS)
    np.testing.assert_array_equal(state[1].scores, [72, 288])
    assert state[1].count == 2


def test_states_of_development_versions_are_converted() -> None:
    """They had five fields."""
    _, state = OPTIMIZER.update(PARAMS, OPTIMIZER.init(PARAMS), PARAMS)
    newest, oldest = oad.earlier_states(state)
    assert [len(template[1]) for template in (newest, oldest)] == [5, 4]
    for old in (newest, (state[0], oad.AlphaDecayState(*state[1][:5]), *state[2:])):
        upgraded = oad.upgrade_state(old)
        assert upgraded[1].fingerprint == 0
        known = upgraded[1]._replace(fingerprint=state[1].fingerprint)
        jax.tree.map(np.testing.assert_array_equal, known, state[1])
    assert oad.earlier_states(optax.adam(1e-3).init(PARAMS)) == ()


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
    with pytest.raises(ValueError, match=r"saved by version 0\.1 does.*upgrade_state\(state\)"):
        optimizer.update(PARAMS, state, PARAMS)
    _, state = optimizer.update(PARAMS, oad.upgrade_state(state), PARAMS)
    assert optax.tree.get(state, "count") == 2


@pytest.mark.parametrize("learning_rate", [1e-2, optax.linear_schedule(1e-2, 1e-3, 10)])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_states_of_optax_are_carried_over(name: str, learning_rate: Any) -> None:
    """With all ratios 1, going on with ours is going on with theirs."""
    params: Any = {"a": jnp.linspace(-1, 1, 72).reshape(8, 9), "b": jnp.ones((8, 9))}
    options: dict[str, Any] = {"metric": oad.frobenius_norm(), "modules": True, "assign": jnp.ones_like}
    decay = {"weight_decay": 0.1} if name == "adamw" else {}
    theirs = getattr(optax, name)(learning_rate, **decay)
    ours = getattr(oad, name)(learning_rate, weight_decay=decay.get("weight_decay", 0.0), **options)
    state = theirs.init(params)
    for step in range(3):
        updates, state = theirs.update(
            jax.tree.map(lambda leaf, step=step: jnp.sin(leaf + step), params), state, params
        )
        params = optax.apply_updates(params, updates)
    with pytest.raises(ValueError, match=r"optax_alphadecay\.from_optax\(old, new\)"):
        ours.update(params, state, params)
    carried = oad.from_optax(state, ours.init(params))
    wanted, _ = theirs.update(params, state, params)
    found, carried = ours.update(params, carried, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    counts = [leaf for path, leaf in jax.tree.leaves_with_path(carried) if "count" in jax.tree_util.keystr(path)]
    assert counts and all(count == 4 for count in counts)
    assert jnp.isfinite(optax.tree.get(carried, "scores")).all(), "the first update measured"


def counts_of(state: Any) -> list[int]:
    return [
        int(leaf) for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith("count")
    ]


def adam_state_after(updates: int, params: Any) -> Any:
    adam, *rest = optax.adamw(1e-3).init(params)
    return adam._replace(count=jnp.int32(updates)), *rest


def test_moments_take_the_dtypes_of_the_new_optimizer() -> None:
    params = {"w": jnp.full((50, 50), 0.3)}
    old = optax.adamw(1e-3, mu_dtype=jnp.bfloat16)
    _, before = old.update(params, old.init(params), params)
    optimizer = oad.adamw(1e-3)
    carried = oad.from_optax(before, optimizer.init(params))
    _, after = optimizer.update(params, carried, params)
    assert jax.tree.map(jnp.result_type, carried) == jax.tree.map(jnp.result_type, after)
    np.testing.assert_array_equal(optax.tree.get(carried, "mu")["w"], optax.tree.get(before, "mu")["w"])


def test_hyperparameters_may_be_injected_into_what_is_carried_over() -> None:
    """A schedule that is injected has a count of its own."""
    params = {"w": jnp.ones((50, 50))}
    learning_rate = optax.linear_schedule(1e-2, 1e-3, 10)
    optimizer = optax.inject_hyperparams(oad.adamw)(learning_rate)
    carried = oad.from_optax(adam_state_after(7, params), optimizer.init(params))
    assert counts_of(carried) == [7] * 4
    _, after = optimizer.update(params, carried, params)
    np.testing.assert_allclose(after.hyperparams["learning_rate"], learning_rate(7), rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        oad.adamc(optax.linear_schedule(1e-2, 1e-3, 10), decay=None),
        optax.chain(oad.adadecay(optax.linear_schedule(1e-2, 1e-3, 10)), optax.adam(1e-3)),
        optax.chain(oad.awd(optax.linear_schedule(1e-2, 1e-3, 10)), optax.adam(1e-3)),
        optax.chain(oad.awd(0.1), optax.adam(1e-3)),
    ],
    ids=["adamc", "adadecay", "awd with a schedule", "awd"],
)
def test_schedules_of_every_decay_go_on(optimizer: Any) -> None:
    params = {"count": jnp.ones((50, 50))}  # a parameter of the name of a field
    new = optimizer.init(params)
    carried = oad.from_optax(adam_state_after(7, params), new)
    structures: list[Any] = [jax.tree.structure(carried), jax.tree.structure(new)]
    assert structures[0] == structures[1]
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, new)
    assert {
        count for count in counts_of(jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else jnp.int32(7), carried))
    } == {7}


def test_states_without_the_same_moments_are_not_carried_over() -> None:
    state, adam = OPTIMIZER.init(PARAMS), optax.adam(1e-3)
    with pytest.raises(ValueError, match="old must hold the moments of Adam once, and holds them 0 times"):
        oad.from_optax(optax.sgd(0.1).init(PARAMS), state)
    twice = optax.chain(adam, adam).init(PARAMS)
    with pytest.raises(ValueError, match="new must hold the moments of Adam once, and holds them 2 times"):
        oad.from_optax(adam.init(PARAMS), twice)
    with pytest.raises(ValueError, match="differ in structure or shapes"):
        oad.from_optax(adam.init({"a": jnp.ones(3)}), state)
    with pytest.raises(ValueError, match="pass the state of optax's optimizer first"):
        oad.from_optax(state, adam.init(PARAMS))
