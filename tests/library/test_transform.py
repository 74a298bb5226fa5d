"""When alphadecay refreshes, what it keeps, and what it adds to the updates."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

SHAPES = {"a": (4, 6), "b": (3, 2, 5), "c": (7,)}
MODULES = {"a": True, "b": optax.contrib.MuonDimensionNumbers(1, 2), "c": False}


def mean_square(weights: jax.Array, gradients: jax.Array) -> jax.Array:
    """A metric that compiles in no time."""
    return jnp.mean(weights**2, axis=(1, 2))


def transform(weight_decay: Any = 0.1, **options: Any) -> optax.GradientTransformationExtraArgs:
    options = {"metric": mean_square, "modules": MODULES, "refresh_every": 4, **options}
    return oad.alphadecay(weight_decay, **options)


def random_tree(seed: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {name: jax.random.normal(key, shape, dtype) for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def test_refreshes_first_and_then_before_every_nth_update() -> None:
    optimizer, state = transform(), transform().init(random_tree(0))
    update = jax.jit(optimizer.update)
    changed = []
    for step in range(12):
        _, new = update(random_tree(99), state, random_tree(step))
        changed.append(bool((new.scores != state.scores).any()))
        state = new
    # Counted from 0: at 0, and where (step + 1) % 4 == 0.
    assert [step for step, it_did in enumerate(changed) if it_did] == [0, 3, 7, 11]
    assert int(state.count) == 12


def test_metric_sees_the_weights_before_the_update() -> None:
    params = random_tree(0)
    _, state = transform().update(random_tree(1), transform().init(params), params)
    expected = [np.mean(np.square(params["a"])), *np.mean(np.square(params["b"]), axis=(1, 2))]
    np.testing.assert_allclose(state.scores, expected, rtol=1e-6)


def test_updates_against_float64() -> None:
    params, gradients = random_tree(0), random_tree(1)
    optimizer = transform(0.3, assign=lambda scores: jnp.array([0.5, 1.0, 2.0, 4.0]))
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    ratios: dict[str, Any] = {"a": 0.5, "b": np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1), "c": 1.0}
    for name in params:
        expected = np.asarray(gradients[name], np.float64) + 0.3 * ratios[name] * np.asarray(params[name], np.float64)
        np.testing.assert_allclose(updates[name], expected, rtol=1e-6)


def test_schedule_moves_between_refreshes() -> None:
    params, zeros = random_tree(0), jax.tree.map(jnp.zeros_like, random_tree(0))
    optimizer = transform(lambda count: 0.1 * (count + 1))
    state = optimizer.init(params)
    for step in range(3):
        updates, state = optimizer.update(zeros, state, params)
        np.testing.assert_allclose(updates["c"], 0.1 * (step + 1) * params["c"], rtol=1e-6)
        np.testing.assert_allclose(updates["a"], 0.1 * (step + 1) * state.ratios[0] * params["a"], rtol=1e-6)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0], ids=["lowest", "between", "highest"])
def test_broken_module_keeps_its_last_good_ratio_and_score(size: float) -> None:
    params = random_tree(0)
    params["a"] = size * params["a"]  # at an end, its last good score is what the others are scaled by
    optimizer = transform(refresh_every=1)
    _, good = optimizer.update(params, optimizer.init(params), params)
    broken = params | {"a": params["a"].at[0, 0].set(jnp.nan)}
    _, state = optimizer.update(params, good, broken)
    assert int(state.rejected) == 1
    assert state.ratios[0] == good.ratios[0] and state.scores[0] == good.scores[0]
    np.testing.assert_array_equal(state.age, [1, 0, 0, 0])
    # It counts with its last good score, and so moves no other.
    np.testing.assert_array_equal(state.ratios, good.ratios)
    _, healed = optimizer.update(params, state, params)
    np.testing.assert_array_equal(healed.ratios, good.ratios)
    np.testing.assert_array_equal(healed.age, 0)


def test_refused_modules_are_counted_at_refreshes_only() -> None:
    params = random_tree(0) | {"a": jnp.full(SHAPES["a"], jnp.nan)}
    optimizer, rejected = transform(), []
    state = optimizer.init(params)
    for _ in range(8):
        _, state = optimizer.update(params, state, params)
        rejected.append(int(state.rejected))
    assert rejected == [1, 1, 1, 2, 2, 2, 2, 3]
    np.testing.assert_array_equal(state.age, [3, 0, 0, 0])


def test_module_that_never_was_good_is_left_out() -> None:
    params = random_tree(0) | {"a": jnp.full(SHAPES["a"], jnp.nan)}
    optimizer = transform()
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert state.ratios[0] == 1 and jnp.isnan(state.scores[0])
    np.testing.assert_allclose(state.ratios[1:], oad.linear()(state.scores[1:]), rtol=1e-6)


def test_a_score_of_zero_is_a_score() -> None:
    params = random_tree(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = transform(
        metric=oad.grad_norm(), refresh_every=1, assign=lambda scores: jnp.nanmin(scores) + 1 + scores
    )
    _, state = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(state.scores, 0)
    _, state = optimizer.update(params | {"a": params["a"].at[0].set(jnp.nan)}, state, params)
    assert state.scores[0] == 0
    np.testing.assert_allclose(state.ratios[1:], 1 + state.scores[1:], rtol=1e-6)


def test_scores_that_are_not_known_yet_stop_no_search_for_nan() -> None:
    """Nor a step that `apply_if_finite` skips."""
    params, broken = random_tree(0), jax.tree.map(lambda leaf: leaf * jnp.nan, random_tree(0))
    with jax.debug_nans(True):
        optimizer = transform()
        _, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        assert jnp.isfinite(state.scores).all()
    optimizer = optax.apply_if_finite(transform(metric=oad.grad_norm()), 3)
    state = optimizer.init(params)
    for gradients in (broken, params):
        updates, state = jax.jit(optimizer.update)(gradients, state, params)
    assert optax.tree.norm(updates) > 0
    assert jnp.isfinite(state.inner_state.scores).all() and state.total_notfinite == 1


def test_updates_outside_of_jit_compile_the_refresh_once() -> None:
    calls = []

    def counting(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        calls.append(weights.shape)
        return mean_square(weights, gradients)

    params, optimizer = random_tree(0), transform(metric=counting)
    state = optimizer.init(params)
    for _ in range(5):
        _, state = optimizer.update(params, state, params)
    assert calls == [(1, 4, 6), (3, 2, 5)]


def test_ratio_that_is_not_finite_is_refused() -> None:
    params = random_tree(0)
    optimizer = transform(assign=lambda scores: jnp.where(jnp.arange(4) == 2, jnp.inf, 2.0))
    _, state = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_array_equal(state.ratios, [2, 2, 1, 2])
    assert int(state.rejected) == 1


def test_gradients_can_be_given_apart_from_the_updates() -> None:
    params, gradients, updates = random_tree(0), random_tree(1), random_tree(2)
    optimizer = transform(metric=oad.grad_norm())
    _, state = optimizer.update(updates, optimizer.init(params), params, gradients=gradients)
    expected = [np.linalg.norm(gradients["a"]), *np.linalg.norm(gradients["b"], axis=(1, 2))]
    np.testing.assert_allclose(state.scores, expected, rtol=1e-6)


def test_gradients_reach_a_masked_transformation() -> None:
    params, gradients = random_tree(0), random_tree(1)
    mask = {"a": True, "b": True, "c": False}
    masked = optax.masked(transform(metric=oad.grad_norm()), mask)
    optimizer = oad.with_gradients(optax.chain(optax.scale_by_adam(), masked))
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    scores = optax.tree.get(state, "scores")
    np.testing.assert_allclose(scores[0], np.linalg.norm(gradients["a"]), rtol=1e-6)


def test_no_modules_is_uniform_decay() -> None:
    params, gradients = random_tree(0), random_tree(1)
    optimizer = transform(modules=jax.tree.map(lambda _: False, SHAPES, is_leaf=lambda x: isinstance(x, tuple)))
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    expected, _ = optax.add_decayed_weights(0.1).update(gradients, optax.EmptyState(), params)
    assert state.scores.shape == (0,)
    for name in params:
        np.testing.assert_array_equal(updates[name], expected[name])


def test_mask_leaves_neither_decay_nor_score() -> None:
    params, gradients = random_tree(0), random_tree(1)
    optimizer = transform(mask={"a": False, "b": True, "c": False})
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    assert state.scores.shape == (3,)
    np.testing.assert_array_equal(updates["a"], gradients["a"])
    np.testing.assert_array_equal(updates["c"], gradients["c"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -0.1}, "-0.1"),
        ({"weight_decay": float("nan")}, "nan"),
        ({"refresh_every": 0}, r"refresh_every .* got 0"),
        ({"refresh_every": 2.5}, "2.5"),
        ({"refresh_every": True}, "True"),
        ({"refresh_every": np.int64(0)}, "0"),
        ({"weight_decay": np.float32(-1)}, "-1"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(**arguments)


def test_missing_params_mismatched_trees_and_foreign_states() -> None:
    params = random_tree(0)
    optimizer = transform()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"update\(gradients, state, params\)"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"'c' has shape \(7,\) in params and \(8,\) in updates"):
        optimizer.update(params | {"c": jnp.ones(8)}, state, params)
    with pytest.raises(ValueError, match="updates do not have the structure of params"):
        optimizer.update({"a": params["a"]}, state, params)
    with pytest.raises(ValueError, match="'a' is a module but has no update"):
        optimizer.update(params | {"a": None}, state, params)
    with pytest.raises(ValueError, match="the state holds 2 modules and params 4: a, b/0, b/1, b/2"):
        optimizer.update(params, state._replace(scores=jnp.zeros(2)), params)


def test_wrongly_shaped_scores_and_ratios() -> None:
    params = random_tree(0)
    for options in ({"metric": lambda weights, gradients: jnp.zeros(9)}, {"assign": lambda scores: scores[:1]}):
        optimizer = transform(**options)
        with pytest.raises(ValueError, match=r"one (score|ratio) a module"):
            optimizer.update(params, optimizer.init(params), params)


def test_accumulation_keeps_what_is_not_finite_as_with_uniform_decay() -> None:
    """`optax.MultiSteps` clears its sum by a product with 0, which keeps NaN and infinities, whatever it wraps."""
    params, last, found = random_tree(0), None, []
    broken = {**params, "a": params["a"].at[1, 2].set(jnp.inf)}
    for inner in (optax.add_decayed_weights(0.1), transform()):
        wrapper = optax.MultiSteps(inner, 1)
        state, update = wrapper.init(params), jax.jit(wrapper.update)
        for gradients in (broken, params):
            last, state = update(gradients, state, params)
        found.append(jax.tree.map(jnp.isfinite, last))
    np.testing.assert_array_equal(found[0]["a"], jnp.ones((4, 6), bool).at[1, 2].set(False))
    jax.tree.map(np.testing.assert_array_equal, *found)
