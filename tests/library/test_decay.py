"""What all decays share: the sum in the dtype of the update, gradients where params are, and checks of arguments."""
# SPDX-License-Identifier: Apache-2.0

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_alphadecay import decay


@pytest.mark.parametrize(
    ("cautious", "expected"),
    [(False, [3.0, -1.0, 0.0, -4.0, 1.0, -2.0, -1.0]), (True, [3.0, 1.0, -2.0, -4.0, 1.0, -2.0, -1.0])],
)
def test_decay_by_hand(cautious: bool, expected: list[float]) -> None:
    """``g + 0.5 * 2 * w``."""
    update = jnp.array([1.0, 1.0, -2.0, -2.0, 0.0, 0.0, -1.0])
    param = jnp.array([2.0, -2.0, 2.0, -2.0, 1.0, -2.0, 0.0])
    np.testing.assert_array_equal(decay.add_decay(update, param, 0.5, 2.0, cautious), expected)
    assert decay.add_decay(None, param, 0.5) is None
    np.testing.assert_array_equal(decay.add_decay(update, param, 0.5), update + 0.5 * param)


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [
        (["bfloat16"], "float32"),
        (["float16", "bfloat16"], "float32"),
        (["bfloat16", "float32"], "float32"),
        (["float32", "float16"], "float32"),
    ],
)
def test_the_sum_is_of_float32_at_least(dtypes: list[str], widest: str) -> None:
    assert decay.wide_dtype(*(jnp.ones(2, dtype) for dtype in dtypes)) == widest
    assert decay.add_decay(jnp.ones(2, dtypes[0]), jnp.ones(2, dtypes[-1]), 0.1).dtype == dtypes[0]  # type: ignore[union-attr]


def test_a_float64_weight_is_decayed_in_float64() -> None:
    with jax.enable_x64(True):
        update, param = jnp.zeros(1, jnp.float64), jnp.full(1, 1 + 1e-12, jnp.float64)
        found = decay.add_decay(update, param, 1.0)
        assert found is not None and found[0] - 1 == pytest.approx(1e-12, rel=1e-3)
        assert decay.wide_dtype(jnp.ones(1, jnp.float32), param) == jnp.float64


PARAMS = {"a": jnp.ones(3), "b": jnp.ones(4)}


@pytest.mark.parametrize("size", [2, 4])
def test_a_leaf_of_another_shape_is_named(size: int) -> None:
    with pytest.raises(ValueError, match=rf"x: 'a' has shape \(3,\) in params and \({size},\) in updates"):
        decay.flatten_like_params("x", PARAMS | {"a": jnp.ones(size)}, PARAMS, {})


def test_gradients_are_the_updates_unless_given_and_masked_where_params_are() -> None:
    updates, gradients = {"a": jnp.zeros(3), "b": None}, {"a": 2 * jnp.ones(3), "b": None}
    leaves = decay.flatten_like_params("x", updates, PARAMS, {})
    assert [leaf is PARAMS[name] for name, leaf in zip("ab", leaves.params, strict=True)] == [True, True]
    assert leaves.gradients is leaves.updates and leaves.updates[1] is None
    leaves = decay.flatten_like_params("x", updates, PARAMS, {"gradients": gradients})
    assert leaves.gradients[0] is gradients["a"] and leaves.gradients[1] is None
    assert leaves.updates[0] is updates["a"]
    masked = {"a": PARAMS["a"], "b": optax.MaskedNode()}
    leaves = decay.flatten_like_params("x", masked, masked, {"gradients": gradients})
    assert [leaf is gradients["a"] for leaf in leaves.gradients] == [True]


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (np.array(0.25), 0.25),
        (jnp.array(2), 2.0),
        (jnp.array([2.0]), None),
        (np.ones((1, 1)), None),
        (abs, None),
    ],
)
def test_numbers_that_are_known(value: Any, known: float | None) -> None:
    assert decay.known_number("x", "rate", value) == known
    jax.jit(lambda traced: decay.check_positive("x", "rate", traced))(-1.0)


@pytest.mark.parametrize("value", [-1e-9, math.inf, -math.inf, math.nan, jnp.array(-1.0)])
def test_rates_that_are_negative_or_not_finite_are_refused(value: Any) -> None:
    for check in (decay.check_nonnegative, decay.check_positive):
        with pytest.raises(ValueError, match=rf"^x: rate must be finite and .* got {re.escape(repr(value))}"):
            check("x", "rate", value)


def test_a_rate_may_be_zero_or_small_and_a_steepness_small() -> None:
    for value in (0, 0.0, 1e-30, 0.5, 1, 1e30, abs, jnp.array([-1.0])):
        decay.check_nonnegative("x", "rate", value)
    for value in (1e-30, 0.5, 1, 1e30, abs):
        decay.check_positive("x", "a", value)
    for value in (0, 0.0, jnp.array(0.0)):
        with pytest.raises(ValueError, match="x: a must be finite and positive, got"):
            decay.check_positive("x", "a", value)


def test_counts_from_one_to_what_an_int32_holds() -> None:
    good: list[Any] = [1, 2, np.int64(7), 2**31 - 1, jnp.array(0), jnp.array([3, 4])]
    bad: list[Any] = [0, -1, 2**31, 2**31 + 1, True, False, 1.0, None, np.float32(2), jnp.array(2.0)]
    for value in good:
        decay.check_count("x", "n", value)
    for value in bad:
        with pytest.raises(ValueError, match=r"x: n must be an integer of at least 1 and below 2\*\*31, got"):
            decay.check_count("x", "n", value)


@pytest.mark.parametrize(
    ("argument", "value", "count", "message"),
    [
        ("metric", lambda weights: weights, 2, r"too many positional .*: metric=oad\.stable_rank\(\)"),
        ("assign", lambda: 1, 1, r"too many positional .*: assign=oad\.linear\(\)"),
        ("metric", 2.0, 2, r"got 2\.0 \(is not callable\).*: metric=oad\.stable_rank\(\)"),
        ("assign", "linear", 1, r"got 'linear' \(is not callable\).*: assign=oad\.linear\(\)"),
    ],
)
def test_what_takes_too_few_arguments_is_no_metric(argument: str, value: Any, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decay.check_function("x", argument, value, "()", count)


@pytest.mark.parametrize("value", [lambda weights, gradients: weights, lambda *arrays: arrays, max, dict])
def test_functions_of_two_arguments_are_metrics(value: Any) -> None:
    """Also those written in C, some of which have no signature."""
    decay.check_function("x", "metric", value, "(weights, gradients)", 2)


def test_only_traced_leaves_are_refused() -> None:
    decay.check_not_traced("x", PARAMS, {"c": 1})
    with pytest.raises(ValueError, match=r"x: called inside jax\.jit"):
        jax.jit(lambda leaf: decay.check_not_traced("x", PARAMS, {"c": leaf}))(1.0)
