"""The text of `explain` to the letter, and the leaves that a warning names."""
# SPDX-License-Identifier: Apache-2.0

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad

F32 = jnp.float32


def shape(*sides: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, dtype)


def test_the_table_to_the_letter() -> None:
    params = {"experts": shape(2, 64, 80), "qkv": shape(64, 192), "step": shape(), "up": shape(64, 50)}
    rule = oad.block_matrices(axes={"experts": MuonDimensionNumbers(1, 2)}, split={"qkv": (64, 64, 64)})
    named = "axes says MuonDimensionNumbers(reduction_axis=1, output_axis=2) for 'experts'"
    fits = "a matrix of at least 50 eigenvalues that no name excludes"
    assert oad.explain(params, rule).splitlines() == [
        "leaf     shape        dtype    taken for          why",
        f"experts  2 x 64 x 80  float32  2 modules 64 x 80  {named}",
        f"qkv      64 x 192     float32  3 modules 64 x 64  {fits}; split into outputs (64, 64, 64)",
        "step     scalar       float32  base decay         a vector",
        f"up       64 x 50      float32  module 64 x 50     {fits}",
        "6 modules in 3 of 4 leaves.",
    ]


def test_parts_of_several_shapes_are_told_once_each() -> None:
    text = oad.explain({"w": shape(64, 224)}, oad.block_matrices(split={"w": (64, 96, 64)}))
    assert "  3 modules 64 x 64, 64 x 96  " in text


@pytest.mark.parametrize(("leaf", "count"), [(shape(8, 8), "0 modules in 0"), (shape(64, 64), "1 module in 1")])
def test_modules_are_counted(leaf: Any, count: str) -> None:
    assert oad.explain({"w": leaf}).splitlines()[-1] == f"{count} of 1 leaves."


def test_an_error_is_told_once_for_all_layers_and_in_leaf_order() -> None:
    layers = {str(layer): {"q": shape(64, 4, 16), "v": shape(64, 2, 32)} for layer in range(3)}
    lines = oad.explain({"h": layers}).splitlines()
    told = [line.partition(" has shape ")[0] for line in lines if " has shape " in line]
    assert told == ["alphadecay: 'h/0/q'", "alphadecay: 'h/0/v'"]


def test_the_advice_of_a_tree_of_choices_speaks_of_scanned_layers() -> None:
    params = {"w": shape(3, 64, 64)}
    assert "block_matrices(stacked=" in oad.explain(params, {"w": True})
    with pytest.raises(ValueError, match=r"block_matrices\(stacked="):
        oad.alphadecay(0.1, modules={"w": True}).init(params)


def test_a_tree_of_choices_has_its_eigenvalues_counted() -> None:
    params = {"a": shape(5, 3), "b": shape(5, 3), "c": shape(2, 4, 6), "d": shape(4)}
    choices = {"a": True, "b": None, "c": MuonDimensionNumbers(0, 2), "d": True}
    records = oad.leaf_records(params, choices)
    assert [record.eigenvalues for record in records] == [3, 0, 2, 0]
    assert [record.taken_for for record in records] == ["modules", "base decay", "modules", "error"]
    assert [record.eigenvalues for record in oad.leaf_records(params, True, False)] == [0] * 4


def test_the_three_nearest_leaves_are_named_those_without_decay_last() -> None:
    params = {
        "a": shape(8, 8),
        "b": shape(20, 9),
        "c": shape(60, 60),
        "d": shape(30, 40),
        "e": shape(4, 40),
        "f": shape(40),
    }
    mask = {**dict.fromkeys(params, True), "c": False}
    with pytest.warns(UserWarning, match="no leaf of params is a module") as caught:
        oad.alphadecay(0.1, mask=mask).init(params)
    [message] = [str(warning.message) for warning in caught]
    assert [name for name in params if f"'{name}' of shape" in message] == ["a", "b", "d"]
    assert message.index("'d' of") < message.index("'b' of") < message.index("'a' of")
    with pytest.warns(UserWarning, match=r"Nearest came 'a' of .*; 'c' of shape \(60, 60\): by the mask\."):
        oad.alphadecay(0.1, mask={"a": True, "c": False}).init({name: params[name] for name in "ac"})


def test_a_function_that_finds_no_module_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"'w' of shape \(64, 64\): modules says False"):
        oad.alphadecay(0.1, modules=lambda params: {"w": False}).init({"w": shape(64, 64)})


@pytest.mark.parametrize("modules", [False, None, lambda params: False])
@pytest.mark.parametrize("params", [{}, {"w": None}, {"w": optax.MaskedNode()}])
def test_nothing_to_decay_is_not_warned_of(params: Any, modules: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oad.alphadecay(0.1, modules=modules).init(params)
