"""Which leaves the default rule takes, and how leaves of any rank become stacks of matrices."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay import modules

MATRIX = jax.ShapeDtypeStruct((64, 128), jnp.float32)


def selected(params: Any, rule: Any = None, mask: Any = None) -> list[str]:
    return list(modules.names(modules.resolve(params, rule, mask)))


def test_small_integer_and_vector_leaves_are_left() -> None:
    leaves = {
        "narrow": jnp.ones((49, 500)),
        "wide": jnp.ones((50, 50)),
        "vector": jnp.ones(5000),
        "integer": jnp.ones((64, 64), jnp.int32),
        "class_token": jnp.ones((1, 1, 512)),
        "scalar": jnp.ones(()),
    }
    assert selected(leaves) == ["wide"]
    assert selected(leaves, oad.block_matrices(49)) == ["narrow", "wide"]


def test_stacked_leaves_have_one_module_a_layer() -> None:
    params = {"layers": {"up": jnp.ones((60, 64, 96)), "norm": jnp.ones((60, 64)), "gate": jnp.ones((60, 64))}}
    names = selected(params, oad.block_matrices(stacked=["layers"]))
    assert names == [f"layers/up/{layer}" for layer in range(60)]


def test_rank_three_is_never_guessed() -> None:
    with pytest.raises(ValueError, match=r"'attention/kernel' has shape \(64, 4, 16\).*MuonDimensionNumbers"):
        selected({"attention": {"kernel": jnp.ones((64, 4, 16))}})
    with pytest.raises(ValueError, match="stacked="):
        selected({"layers": jnp.ones((3, 64, 64))})
    with pytest.raises(ValueError, match=r"\(3, 64, 4, 16\)"):
        selected({"layers": jnp.ones((3, 64, 4, 16))}, oad.block_matrices(stacked=["layers"]))
    # Masked out, or without 50 eigenvalues whichever way it is read, it needs no axes.
    assert selected({"layers": jnp.ones((3, 64, 64))}, mask={"layers": False}) == []
    assert selected({"kernel": jnp.ones((3, 3, 1, 49))}) == []


def test_any_rank_becomes_matrices_and_back() -> None:
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 4)), jnp.float32)
    (stack,) = modules.resolve({"w": leaf}, {"w": MuonDimensionNumbers((1, 3), -2)})
    assert stack.shape == (2, 20, 3)
    assert stack.names == ("w/0", "w/1")
    expected = np.stack([np.asarray(leaf[i]).transpose(0, 2, 1).reshape(20, 3) for i in range(2)])
    np.testing.assert_array_equal(stack.as_matrices(leaf), expected)
    ratios = stack.broadcast(jnp.array([10.0, 20.0]))
    assert ratios.shape == (2, 1, 1, 1)
    np.testing.assert_array_equal((ratios * leaf)[1], 20 * leaf[1])


def test_two_stack_axes_are_named_by_both() -> None:
    assert selected({"w": jnp.ones((2, 3, 4, 2))}, {"w": MuonDimensionNumbers(1, 2)}) == [
        f"w/{i}/{j}" for i in range(2) for j in range(2)
    ]


def test_trees_prefixes_and_functions_choose_alike() -> None:
    params = {"a": {"x": jnp.ones((2, 3)), "y": jnp.ones((3, 4))}, "b": jnp.ones((4, 5))}
    expected = ["a/x", "a/y"]
    assert selected(params, {"a": {"x": True, "y": True}, "b": False}) == expected
    assert selected(params, {"a": True, "b": None}) == expected
    assert selected(params, lambda tree: jax.tree.map(lambda leaf: leaf.shape[1] < 5, tree)) == expected
    assert selected(params, True, mask={"a": True, "b": False}) == expected


def test_masked_nodes_and_none_leaves_are_passed_over() -> None:
    params = {"u": optax.MaskedNode(), "v": jnp.ones((4, 5)), "w": None}
    assert selected(params, {"u": True, "v": True, "w": None}) == ["v"]
    assert selected(params, oad.block_matrices(2)) == ["v"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"w": True, "v": True}, "'v' of shape .* cannot be a module"),
        ({"w": "yes", "v": False}, "modules says 'yes' of the leaf 'w'"),
        ({"w": MuonDimensionNumbers(0, 0), "v": False}, "'w'.*distinct"),
        ({"w": MuonDimensionNumbers(0, 2), "v": False}, r"\(2,\) are out of range for 'w' of shape \(2, 3\)"),
        ({"w": MuonDimensionNumbers((), 1), "v": False}, "non-empty"),
        ({"w": True}, "modules does not have the structure of params"),
        ({"w": True, "v": False, "u": False}, "modules does not have the structure of params"),
    ],
)
def test_bad_choices(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selected({"w": jnp.ones((2, 3)), "v": jnp.ones(3)}, choice)


def test_bad_masks_and_rule_arguments() -> None:
    with pytest.raises(ValueError, match="mask does not have the structure of params"):
        selected({"w": jnp.ones((2, 3))}, mask={"x": True})
    with pytest.raises(ValueError, match=r"static_args=.*'modules'"):
        optax.inject_hyperparams(oad.alphadecay)(0.1, modules=oad.block_matrices()).init({"w": jnp.ones((64, 64))})
    with pytest.raises(ValueError, match="got 0"):
        oad.block_matrices(0)
    with pytest.raises(ValueError, match=r"\['layers'\]"):
        oad.block_matrices(stacked="layers")


def test_leaves_that_are_no_arrays_are_named() -> None:
    with pytest.raises(ValueError, match=r"'mlp/activation' is .*tanh.*eqx\.filter"):
        oad.block_matrices()({"mlp": {"activation": jnp.tanh, "kernel": jnp.ones((64, 64))}})


# Scanned layers on any axis


def test_layers_scanned_on_axis_one() -> None:
    """MaxText and T5X: no module below 50 layers, or false ones of ``[layers, out]``, if axis 0 is taken for it."""
    for layers in (3, 60):
        params = {"layers": {"up": jnp.ones((64, layers, 96)), "norm": {"scale": jnp.ones((64, layers))}}}
        [stack] = modules.resolve(params, oad.block_matrices(stacked={"layers": 1}))
        assert stack.shape == (layers, 64, 96)
        assert stack.names == tuple(f"layers/up/{layer}" for layer in range(layers))


def test_matrices_of_a_stack_on_axis_one_are_the_layers() -> None:
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2, 96)), jnp.float32)
    [stack] = modules.resolve({"layers": leaf}, oad.block_matrices(stacked={"layers": 1}))
    np.testing.assert_array_equal(stack.as_matrices(leaf), np.moveaxis(np.asarray(leaf), 1, 0))
    np.testing.assert_array_equal((stack.broadcast(jnp.array([1.0, 2.0])) * leaf)[:, 1], 2 * leaf[:, 1])


def test_layers_come_before_experts_in_names() -> None:
    """``[experts, layers, in, out]``: the block of a module is its first index, whatever axis it is stored on."""
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 50, 60)), jnp.float32)
    rule = oad.block_matrices(stacked={"layers": 1}, axes={"moe/wi": MuonDimensionNumbers(2, 3)})
    [stack] = modules.resolve({"layers": {"moe": {"wi": leaf}}}, rule)
    assert stack.names == tuple(f"layers/moe/wi/{layer}/{expert}" for layer in range(2) for expert in range(3))
    np.testing.assert_array_equal(stack.as_matrices(leaf)[4], leaf[1, 1])
    ratio = stack.broadcast(jnp.arange(6.0))
    assert ratio.shape == (3, 2, 1, 1)
    np.testing.assert_array_equal(ratio[:, 1, 0, 0], [3, 4, 5])


def test_stacked_parts_may_be_nested_and_counted_from_the_end() -> None:
    rule = oad.block_matrices(stacked={"groups": 0, "layers": -2})
    assert selected({"groups": {"layers": {"w": jnp.ones((2, 64, 3, 64))}}}, rule)[-1] == "groups/layers/w/1/2"
    vector = {"groups": {"gate": jnp.ones(64)}}
    assert selected(vector, oad.block_matrices(stacked={"groups": 1})) == []
    with pytest.raises(ValueError, match=r"stacked names the axes \[2\] of 'groups/w', which has shape \(64, 64\)"):
        selected({"groups": {"w": jnp.ones((64, 64))}}, oad.block_matrices(stacked={"groups": 2}))
