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


@pytest.mark.parametrize(
    "path",
    [
        "layers/0/attention/query/kernel",
        "h_3/mlp/c_fc/w",
        "blocks/1/multi_head_attention/linear/w",
        "encoder/layer/output/dense/kernel",
        "MultiHeadDotProductAttention_0/Dense_0/kernel",
        "transformer/layers_2/self_attn/o_proj",
        "lora_a",
    ],
)
def test_block_matrices_are_taken(path: str) -> None:
    assert selected({path: MATRIX}) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "embed_tokens/weight",
        "Embed_0/embedding",
        "tok_emb",
        "wte/weight",
        "wpe",
        "position_embeddings/kernel",
        "unembed",
        "lm_head/kernel",
        "head/kernel",
        "head_0/kernel",
        "mlm_head",
        "logits_dense/kernel",
        "classifier/kernel",
        "ln_1/scale",
        "layers/ln1",
        "LayerNorm_0/scale",
        "final_rmsnorm/weight",
        "layers/input_norm/w",
        "attention/query/bias",
        "layers/mlp/~/linear_0/b",
        "relative_attention_bias",
        "layer_scale",
        "batch_stats/gamma",
    ],
)
def test_everything_else_is_left(path: str) -> None:
    assert selected({path: MATRIX}) == []


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
        ({"w": "yes", "v": False}, "modules holds 'yes' for 'w'"),
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
