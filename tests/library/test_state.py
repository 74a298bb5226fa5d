"""What a state keeps, for how long, and of which modules."""
# SPDX-License-Identifier: Apache-2.0

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

PARAMS = {name: jnp.full((2, 3), value) for name, value in {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}.items()}
BROKEN = PARAMS | {"c": jnp.full((2, 3), jnp.nan)}


def test_a_traced_update_may_close_over_the_state() -> None:
    params = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
    optimizer = oad.alphadecay(0.1)
    state = optimizer.init(params)
    updates, new_state = jax.jit(lambda gradients: optimizer.update(gradients, state, params))(params)
    np.testing.assert_allclose(updates["w"], 1.1 * params["w"], rtol=1e-6)
    assert new_state.count == 1
    wrapped = optax.apply_if_finite(optimizer, 3)
    assert wrapped.update(params, wrapped.init(params), params)[1].inner_state.count == 1


def decay(*modules: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """Scores are the largest weights of the modules."""
    choice = {name: name in (modules or PARAMS) for name in PARAMS}
    options = {"metric": lambda weights, gradients: weights.max(axis=(1, 2)), "refresh_every": 100, **options}
    return oad.alphadecay(0.1, modules=choice, **options)


@pytest.mark.parametrize("under_jit", [False, True])
def test_other_modules_of_the_same_number_are_measured_at_once(under_jit: bool) -> None:
    first, second = decay("a", "b", "d"), decay("a", "b", "c")
    _, state = first.update(PARAMS, first.init(PARAMS), PARAMS)
    if under_jit:
        _, state = jax.jit(second.update)(PARAMS, state, BROKEN)
    else:
        with pytest.warns(UserWarning, match="the state is of other modules than these 3, a, b, c"):
            _, state = second.update(PARAMS, state, BROKEN)
    # The score and the ratio that the state held at this place were those of d.
    np.testing.assert_array_equal(state.scores, [1, 2, np.nan])
    np.testing.assert_array_equal(state.ratios, [np.float32(2 / 3), 3, 1])
    np.testing.assert_array_equal(state.age, [0, 0, 1])
    _, again = second.update(PARAMS, state, PARAMS)  # at count 2, when no refresh is due
    np.testing.assert_array_equal(again.scores, state.scores)


def test_other_matrices_of_the_same_leaf_are_other_modules() -> None:
    params = {"w": jnp.ones((2, 3, 4))}
    first, second = (
        oad.alphadecay(0.1, metric=oad.frobenius_norm(), modules={"w": axes})
        for axes in (optax.contrib.MuonDimensionNumbers(0, (1, 2)), optax.contrib.MuonDimensionNumbers((0, 1), 2))
    )
    _, state = first.update(params, first.init(params), params)
    with pytest.warns(UserWarning, match="of other modules"):
        second.update(params, state, params)


def test_a_refresh_can_be_asked_for() -> None:
    optimizer = optax.chain(decay(), optax.sgd(optax.linear_schedule(1.0, 0.0, 10)))
    update = jax.jit(optimizer.update)
    _, state = update(PARAMS, optimizer.init(PARAMS), PARAMS)
    moved = PARAMS | {"a": jnp.full((2, 3), 7.0)}
    _, idle = update(PARAMS, state, moved)
    np.testing.assert_array_equal(idle[0].scores, [1, 2, 3, 4])
    _, asked = update(PARAMS, jax.jit(oad.request_refresh)(state), moved)
    np.testing.assert_array_equal(asked[0].scores, [7, 2, 3, 4])
    jax.tree.map(
        np.testing.assert_array_equal,
        (asked[0].count, asked[0].fingerprint, asked[1]),
        (idle[0].count, idle[0].fingerprint, idle[1]),
    )
    # The last good score of a module that breaks is kept: the modules are still the same.
    _, broken = update(PARAMS, oad.request_refresh(state), BROKEN)
    np.testing.assert_array_equal(broken[0].scores, [1, 2, 3, 4])


@pytest.mark.parametrize(("expire_after", "kept"), [(1, 1), (2, 2), (None, 5)])
def test_a_last_good_score_expires(expire_after: int | None, kept: int) -> None:
    optimizer = decay(refresh_every=1, expire_after=expire_after)
    update = jax.jit(optimizer.update)
    _, state = update(PARAMS, optimizer.init(PARAMS), PARAMS)
    good = np.asarray(state.ratios)
    for refusals in range(1, 6):
        _, state = update(PARAMS, state, BROKEN)
        assert state.age[2] == refusals and state.rejected == refusals
        if refusals <= kept:
            np.testing.assert_array_equal(state.scores, [1, 2, 3, 4])
            np.testing.assert_array_equal(state.ratios, good)
        else:
            np.testing.assert_array_equal(state.scores, [1, 2, np.nan, 4])
            assert state.ratios[2] == 1
    _, state = update(PARAMS, state, PARAMS)
    np.testing.assert_array_equal(state.ratios, good)


def linear_of_positive(scores: jax.Array) -> jax.Array:
    return oad.linear(mean=1.0)(jnp.where(scores > 0, scores, jnp.nan))


@pytest.mark.parametrize("assign", [oad.proportional(), linear_of_positive])
def test_a_score_that_the_assignment_refuses_moves_no_other_module(assign: Any) -> None:
    """Like one that is not finite, it counts with the last good one, so that the mean is kept."""
    optimizer = decay(refresh_every=1, assign=assign)
    _, good = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(np.mean(good.ratios), 1, rtol=1e-6)
    _, state = optimizer.update(PARAMS, good, PARAMS | {"c": jnp.full((2, 3), -3.0)})
    np.testing.assert_array_equal(state.ratios, good.ratios)
    np.testing.assert_array_equal(state.scores, good.scores)
    np.testing.assert_array_equal(state.age, [0, 0, 1, 0])
    assert state.rejected == 1


def test_a_refused_score_without_a_good_one_before_is_left_out() -> None:
    optimizer = decay(assign=oad.proportional())
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS | {"c": jnp.full((2, 3), -3.0)})
    np.testing.assert_allclose(state.ratios, [3 / 7, 6 / 7, 1, 12 / 7], rtol=1e-6)
    np.testing.assert_array_equal(state.scores, [1, 2, np.nan, 4])


def test_fenced_modules_are_marked_at_refreshes() -> None:
    optimizer = decay(refresh_every=2)
    far = PARAMS | {"b": jnp.full((2, 3), 501.0)}
    _, state = optimizer.update(PARAMS, optimizer.init(far), far)
    np.testing.assert_array_equal(state.fenced, [False, True, False, False])
    np.testing.assert_allclose(state.ratios, [2 / 3, 3, 2 / 3 + 2 / 3 * 7 / 3, 3], rtol=1e-6)
    _, state = optimizer.update(PARAMS, state, PARAMS)
    assert not state.fenced.any()
    plain = decay(assign=oad.linear(fence=None))
    _, state = plain.update(PARAMS, plain.init(far), far)
    assert not state.fenced.any() and state.ratios[3] < 0.7


def test_fingerprints_stay_as_saved_states_have_them() -> None:
    """CRC-32 of the names and shapes, one a line; those of Flax's variables with and without ``value`` are alike."""
    stacked = {"layers": {"w": {"value": jnp.ones((2, 3, 4))}}, "v": {"value": jnp.ones((5, 6))}}
    numbers = {"layers": optax.contrib.MuonDimensionNumbers(1, 2), "v": True}
    state = oad.alphadecay(0.1, modules=numbers).init(stacked)
    lines = b"layers/w/0 (3, 4)\nlayers/w/1 (3, 4)\nv (5, 6)"
    assert state.fingerprint == zlib.crc32(lines) and state.fingerprint.dtype == jnp.uint32
    plain = {"layers": {"w": jnp.ones((2, 3, 4))}, "v": jnp.ones((5, 6))}
    assert oad.alphadecay(0.1, modules=numbers).init(plain).fingerprint == state.fingerprint
    # 0 means that the modules are not known, not that there are none.
    assert oad.alphadecay(0.1, modules={"w": False}).init({"w": jnp.ones(3)}).fingerprint == 1


def test_the_first_state_to_the_letter() -> None:
    state = decay("a", "b").init(PARAMS)
    assert [leaf.dtype.name for leaf in state] == ["int32", "float32", "float32", "int32", "int32", "bool", "uint32"]
    found = [leaf.tolist() for leaf in state[:1] + state[2:6]]
    assert found == [0, [1.0, 1.0], 0, [0, 0], [False, False]] and np.isnan(state.scores).tolist() == [True, True]


def test_only_a_state_that_has_measured_others_is_warned_of() -> None:
    """And of many modules, three are named."""
    first, second = decay("a", "b", "c", "d", cautious=True), decay("a", "b", "c", "d")
    other = {**{name: PARAMS[name] for name in "abc"}, "e": PARAMS["d"]}
    foreign = oad.alphadecay(0.1, modules=True, metric=oad.frobenius_norm()).init(other)
    second.update(PARAMS, foreign, PARAMS)
    second.update(PARAMS, first.init(PARAMS)._replace(count=jnp.int32(1)), PARAMS)
    second.update(PARAMS, oad.request_refresh(foreign)._replace(count=jnp.int32(1)), PARAMS)
    with pytest.warns(UserWarning, match=r"of other modules than these 4, a, b, c and so on; all"):
        second.update(PARAMS, foreign._replace(count=jnp.int32(1)), PARAMS)


@pytest.mark.parametrize("lacking", ["age", "fenced", "fingerprint"])
def test_a_state_that_lacks_one_field_says_what_to_do(lacking: str) -> None:
    optimizer = decay()
    with pytest.raises(ValueError, match=r"lacks fields.*upgrade_state\(state\)"):
        optimizer.update(PARAMS, optimizer.init(PARAMS)._replace(**{lacking: None}), PARAMS)


def test_scores_and_ages_of_other_modules_are_nobodys() -> None:
    """The age, too, begins anew, and what is refused at once has none of their ratios."""
    first, second = decay("a", "b", "d"), decay("a", "b", "c", refresh_every=1)
    _, state = first.update(PARAMS, first.init(PARAMS), PARAMS)
    old = state._replace(age=jnp.array([5, 5, 5], jnp.int32))
    with pytest.warns(UserWarning, match="of other modules"):
        _, state = second.update(PARAMS, old, BROKEN)
    assert state.age.tolist() == [0, 0, 1]
    # Of a state that does not know its modules, they may be its own.
    _, state = second.update(PARAMS, oad.request_refresh(old), BROKEN)
    assert state.age.tolist() == [0, 0, 6] and state.scores.tolist() == [1, 2, 4]


@pytest.mark.parametrize("foreign", [1, 2**32 - 1])
def test_a_state_of_any_other_fingerprint_is_foreign(foreign: int) -> None:
    """Whichever of the two numbers is the larger."""
    optimizer = decay()
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    moved = BROKEN | {"a": jnp.full((2, 3), 7.0)}
    _, state = jax.jit(optimizer.update)(PARAMS, state._replace(fingerprint=jnp.uint32(foreign)), moved)
    np.testing.assert_array_equal(state.scores, [7, 2, np.nan, 4])
    assert state.ratios[2] == 1
