"""What the default rule decides of a leaf at each of its bounds, and how many eigenvalues it counts."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers as Numbers

import optax_alphadecay as oad
from tests.library.test_modules import selected


def shape(*sides: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, dtype)


def judged(leaf: Any, rule: Any = None, name: str = "w") -> tuple[str, str, int]:
    (record,) = oad.leaf_records({name: leaf}, rule)
    return record.taken_for, record.reason, record.eigenvalues


MATRIX = "a matrix of at least 50 eigenvalues that no name excludes"


@pytest.mark.parametrize(
    ("leaf", "rule", "expected"),
    [
        (shape(64, 96), None, ("modules", MATRIX, 64)),
        (shape(96, 50), None, ("modules", MATRIX, 50)),
        (shape(49, 96), None, ("base decay", "49 eigenvalues, fewer than min_eigenvalues=50", 49)),
        (shape(96, 1), None, ("base decay", "1 eigenvalue, fewer than min_eigenvalues=50", 1)),
        (shape(0, 96), None, ("base decay", "0 eigenvalues, fewer than min_eigenvalues=50", 0)),
        (shape(64), None, ("base decay", "a vector", 0)),
        (shape(), None, ("base decay", "a vector", 0)),
        (shape(96, 96, dtype=jnp.int32), None, ("base decay", "int32 is no floating dtype", 0)),
        (
            shape(3, 3, 1, 49),
            None,
            ("base decay", "9 eigenvalues, fewer than min_eigenvalues=50 however its axes are read", 9),
        ),
        (shape(5, 10, 50), None, ("error", "nothing says which of its 3 axes are inputs and outputs", 50)),
        (shape(96, 1), oad.block_matrices(axes={"w": True}), ("modules", "axes says True for 'w'", 1)),
        (shape(96, 96), oad.block_matrices(axes={"w": False}), ("base decay", "axes says False for 'w'", 0)),
        (
            shape(80, 96),
            oad.block_matrices(split={"w": (64, 32)}),
            ("modules", MATRIX + "; split into outputs (64, 32)", 64),
        ),
        (
            shape(60, 96),
            oad.block_matrices(split={"w": (46, 50)}),
            ("modules", MATRIX + "; split into outputs (46, 50)", 50),
        ),
        (
            shape(80, 96),
            oad.block_matrices(split={"w": (20, 40, 36)}),
            ("base decay", "20 eigenvalues, fewer than min_eigenvalues=50 in each part", 40),
        ),
        (
            shape(10, 96),
            oad.block_matrices(split={"w": 2}),
            ("base decay", "10 eigenvalues, fewer than min_eigenvalues=50 in each part", 10),
        ),
        (shape(64, 2), oad.block_matrices(stacked={"w": 1}), ("base decay", "a vector in each layer", 0)),
        (shape(64, 2), oad.block_matrices(stacked={"w": -2}), ("base decay", "a vector in each layer", 0)),
        (shape(64), oad.block_matrices(stacked={"w": 1}), ("base decay", "a vector in each layer", 0)),
        (shape(64, 2), oad.block_matrices(stacked={"w": 2}), ("error", "what is said of it does not fit", 0)),
        (shape(64, 2), oad.block_matrices(stacked={"w": 3}), ("error", "what is said of it does not fit", 0)),
        (shape(64, 2), oad.block_matrices(stacked={"w": -4}), ("error", "what is said of it does not fit", 0)),
        (shape(64, 2), oad.block_matrices(stacked={"w": -3}), ("error", "what is said of it does not fit", 0)),
    ],
)
def test_a_leaf_at_each_bound(leaf: Any, rule: Any, expected: tuple[str, str, int]) -> None:
    assert judged(leaf, rule) == expected


def test_a_part_is_a_module_from_the_bound_on() -> None:
    assert selected({"w": shape(60, 96)}, oad.block_matrices(split={"w": (46, 50)})) == ["w[46:96]"]


def test_two_names_of_one_axis_are_one() -> None:
    rule = oad.block_matrices(stacked={"groups": 0, "layers": -2})
    assert judged(shape(2, 64), rule, "groups/layers/gate")[1] == "a vector in each layer"


@pytest.mark.parametrize("numbers", [Numbers(1, 0), Numbers((1,), (0,))])
def test_a_matrix_stored_outputs_first_keeps_its_axes(numbers: Numbers) -> None:
    assert oad.block_matrices(axes={"w": numbers})({"w": shape(64, 96)}) == {"w": numbers}
    assert oad.block_matrices(axes={"w": Numbers(0, 1)})({"w": shape(64, 96)}) == {"w": True}


def test_axes_behind_the_matrix_are_stacked() -> None:
    assert selected({"w": shape(64, 50, 2)}, oad.block_matrices(axes={"w": Numbers(0, 1)})) == ["w/0", "w/1"]


def test_the_first_axis_that_is_named_twice_is_told() -> None:
    rule = oad.block_matrices(stacked={"groups": 1, "layers": 0}, axes={"w": Numbers((0, 1), 2)})
    with pytest.raises(ValueError, match="names axis 1, which by stacked runs over layers"):
        rule({"groups/layers/w": shape(2, 3, 64)})


def test_a_rule_takes_a_bare_array_and_numbers_of_python() -> None:
    assert oad.block_matrices()(shape(64, 64)) is True
    assert oad.block_matrices()({"step": 3, "temperature": 1.0, "w": shape(64, 64)}) == {
        "step": False,
        "temperature": False,
        "w": True,
    }
    with pytest.raises(ValueError, match="called with a scalar"):
        oad.block_matrices()(jnp.int32(3))


def test_the_first_leaf_that_is_wrong_is_told() -> None:
    """And none that is wrong is chosen."""
    decisions = oad.block_matrices(stacked={"b": 2}).decide({"a": shape(64, 4, 16), "b": shape(64, 64)})
    assert [decision.choice for decision in decisions if decision.error] == [False, False]
    with pytest.raises(ValueError, match=r"^alphadecay: 'b' has shape"):
        oad.block_matrices()({"a": shape(64, 64), "b": shape(64, 4, 16), "c": shape(64, 4, 32)})


def test_what_the_user_says_goes_before_a_ready_rule() -> None:
    kernel = {"attn/c_attn/kernel": shape(64, 192)}
    [name] = kernel
    cut = [f"{name}[0:64]", f"{name}[64:128]", f"{name}[128:192]"]
    assert selected(kernel, oad.modules_for("gpt2")) == cut
    assert selected(kernel, oad.modules_for("gpt2", split={"c_attn": 2})) == [f"{name}[0:96]", f"{name}[96:192]"]
    assert selected(kernel, oad.modules_for("gpt2", axes={"c_attn": True})) == [name]
    # A square one has its outputs last.
    square = {name: shape(192, 192)}
    assert oad.modules_for("gpt2")(square)[name].numbers == Numbers(0, 1)


@pytest.mark.parametrize(
    ("models", "numbers"), [(("flax", "experts"), Numbers(0, (1, 2))), (("experts", "flax"), Numbers(1, 2))]
)
def test_the_first_model_that_knows_a_kernel_is_taken(models: tuple[str, ...], numbers: Numbers) -> None:
    assert oad.modules_for(*models)({"moe/query/kernel": shape(64, 64, 64)}) == {"moe/query/kernel": numbers}


def test_what_is_beside_a_leaf_is_looked_at_and_not_what_is_above() -> None:
    """Haiku's bias, though it is a matrix here, and a factor of LoRA have the same name."""
    square = jnp.ones((64, 64))
    params = {"block": {"linear": {"w": square, "b": square}, "lora": {"a": square, "b": square}}}
    assert selected(params, oad.block_matrices()) == ["block/linear/w", "block/lora/a", "block/lora/b"]
