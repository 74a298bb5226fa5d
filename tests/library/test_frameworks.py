"""Parameters of Flax linen, Flax NNX, Equinox, Haiku and plain JAX: the right modules, trained, scanned or not."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import optax_alphadecay as oad
from experiments.config import ModelConfig
from experiments.models.llama import Llama
from tests.library import framework_models as models

pytestmark = pytest.mark.slow  # every framework traces and compiles a model of its own

FRAMEWORKS = ["linen", "nnx", "equinox", "haiku", "plain_jax"]
LAYOUTS = pytest.mark.parametrize("scanned", [False, True], ids=["unscanned", "scanned"])
EACH = pytest.mark.parametrize("framework", FRAMEWORKS)

# The modules of one layer, in leaf order: path below the layer, and shape.
TABLES: dict[str, dict[str, tuple[int, int]]] = {
    "linen": {
        "Dense_0/kernel": (64, 96),
        "Dense_1/kernel": (96, 64),
        "MultiHeadDotProductAttention_0/key/kernel": (64, 64),
        "MultiHeadDotProductAttention_0/out/kernel": (64, 64),
        "MultiHeadDotProductAttention_0/query/kernel": (64, 64),
        "MultiHeadDotProductAttention_0/value/kernel": (64, 64),
    },
    "nnx": {
        "attention/key/kernel/value": (64, 64),
        "attention/out/kernel/value": (64, 64),
        "attention/query/kernel/value": (64, 64),
        "attention/value/kernel/value": (64, 64),
        "down/kernel/value": (96, 64),
        "up/kernel/value": (64, 96),
    },
    "equinox": {
        "attention/query_proj/weight": (64, 64),
        "attention/key_proj/weight": (64, 64),
        "attention/value_proj/weight": (64, 64),
        "attention/output_proj/weight": (64, 64),
        "mlp/layers/0/weight": (96, 64),
        "mlp/layers/1/weight": (64, 96),
    },
    "haiku": {
        "mlp/~/linear_0/w": (64, 96),
        "mlp/~/linear_1/w": (96, 64),
        "multi_head_attention/key/w": (64, 64),
        "multi_head_attention/linear/w": (64, 64),
        "multi_head_attention/query/w": (64, 64),
        "multi_head_attention/value/w": (64, 64),
    },
    "plain_jax": {"down": (96, 64), "up": (64, 96)},
}
# Name of a module by its layer and the path below it, unscanned and scanned.
NAMES = {
    "linen": ("params/layers_{layer}/{path}", "params/layers/{path}/{layer}"),
    "nnx": ("layers/{layer}/{path}", "layers/{path}/{layer}"),
    "equinox": ("layers/{layer}/{path}", "layers/{path}/{layer}"),
    "haiku": ("layer_{layer}/{path}", "layers/block/{path}/{layer}"),
    "plain_jax": ("layers/{layer}/{path}", "layers/{path}/{layer}"),
}


def model_in(framework: str, scanned: bool) -> models.Model:
    return getattr(models, f"in_{framework}")(scanned)


@functools.cache
def params_in(framework: str, scanned: bool) -> Any:
    return model_in(framework, scanned).init(models.LAYERS)


def golden(framework: str, scanned: bool) -> dict[tuple[int, str], tuple[str, tuple[int, int]]]:
    """Name and shape of every module by layer and path, in the order of the state's vectors."""
    table, layers = TABLES[framework], range(models.LAYERS)
    order = [(i, path) for path in table for i in layers] if scanned else [(i, path) for i in layers for path in table]
    return {(i, path): (NAMES[framework][scanned].format(layer=i, path=path), table[path]) for i, path in order}


@functools.cache
def trained(framework: str, scanned: bool) -> tuple[Any, tuple[oad.ModuleRow, ...]]:
    """Updates of one training step and the table after it."""
    model = model_in(framework, scanned)
    metric = oad.pl_alpha_hill(solver="eigvalsh")  # the quickest to compile
    optimizer = oad.adamw(1e-3, weight_decay=0.1, metric=metric, modules=model.modules)
    params = params_in(framework, scanned)
    updates, state = model.train(params, optimizer)
    return updates, oad.module_table(state, params, modules=model.modules)


@EACH
@LAYOUTS
def test_the_right_modules_are_found(framework: str, scanned: bool) -> None:
    _, table = trained(framework, scanned)
    assert [(row.name, row.shape) for row in table] == list(golden(framework, scanned).values())


@EACH
@LAYOUTS
def test_a_training_step_shares_out_the_decay(framework: str, scanned: bool) -> None:
    updates, table = trained(framework, scanned)
    params = params_in(framework, scanned)
    assert (min(row.ratio for row in table), max(row.ratio for row in table)) == pytest.approx((2 / 3, 3))
    assert [leaf.shape for leaf in jax.tree.leaves(updates)] == [leaf.shape for leaf in jax.tree.leaves(params)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(updates) if leaf.ndim > 1)


@EACH
def test_scanned_layers_have_the_ratios_of_unscanned_ones(framework: str) -> None:
    ratios = []
    for scanned in (False, True):
        _, table = trained(framework, scanned)
        ratios.append({key: row.ratio for key, row in zip(golden(framework, scanned), table, strict=True)})
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-6)
    assert len(set(ratios[0].values())) == len(ratios[0]), "no module is taken for another"


@EACH
def test_a_stack_of_vectors_is_no_module(framework: str) -> None:
    model = model_in(framework, scanned=True)
    params = jax.eval_shape(functools.partial(model.init, 60))
    assert any(leaf.shape == (60, 64) for leaf in jax.tree.leaves(params)), "as long and as wide as a module"
    vectors = jax.tree.map(lambda leaf: leaf.ndim <= 2, params)
    for modules in (None, oad.block_matrices(stacked=["layers"])):
        with pytest.warns(UserWarning, match="no leaf of params is a module"):
            state = oad.alphadecay(0.1, modules=modules, mask=vectors).init(params)
        assert oad.module_table(state, params, modules=modules, mask=vectors) == ()


@pytest.mark.parametrize(
    ("framework", "leaf"),
    [
        ("linen", "params/layers_0/MultiHeadDotProductAttention_0/key/kernel"),
        ("nnx", "layers/0/attention/key/kernel/value"),
    ],
)
def test_axes_are_not_guessed(framework: str, leaf: str) -> None:
    params = params_in(framework, scanned=False)
    with pytest.raises(ValueError, match=rf"'{leaf}' has shape \(64, 4, 16\).*MuonDimensionNumbers") as error:
        oad.alphadecay(0.1).init(params)
    assert "False to leave it out" in str(error.value)


@pytest.mark.parametrize(
    ("framework", "leaf"),
    [
        ("equinox", "layers/attention/query_proj/weight"),
        ("haiku", "layers/block/mlp/~/linear_0/w"),
        ("plain_jax", "layers/down"),
    ],
)
def test_scanned_layers_must_be_named(framework: str, leaf: str) -> None:
    params = params_in(framework, scanned=True)
    with pytest.raises(ValueError, match=rf"'{leaf}' has shape \(2, .*block_matrices\(stacked=\["):
        oad.alphadecay(0.1).init(params)


@EACH
@LAYOUTS
def test_modules_and_mask_may_be_trees_of_the_framework(framework: str, scanned: bool) -> None:
    params = params_in(framework, scanned)
    tree = model_in(framework, scanned).modules(params)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    for transformation in (oad.alphadecay(0.1, modules=tree), oad.alphadecay(0.1, modules=tree, mask=mask)):
        assert optax.tree.get(transformation.init(params), "ratios").shape == (len(golden(framework, scanned)),)


def test_modules_of_the_llama() -> None:
    config = ModelConfig(hidden_size=64, intermediate_size=172, num_heads=4, num_layers=2, vocab_size=128)
    params = nnx.eval_shape(lambda: nnx.state(Llama(config, rngs=nnx.Rngs(0)), nnx.Param))
    modules = oad.block_matrices(stacked=["layers"])
    table = oad.module_table(oad.alphadecay(0.1, modules=modules).init(params), params, modules=modules)
    shapes = {
        "mlp/down_proj": (172, 64),
        "mlp/gate_proj": (64, 172),
        "mlp/up_proj": (64, 172),
        "self_attn/k_proj": (64, 64),
        "self_attn/o_proj": (64, 64),
        "self_attn/q_proj": (64, 64),
        "self_attn/v_proj": (64, 64),
    }
    expected = [(f"layers/{path}/kernel/value/{i}", shape) for path, shape in shapes.items() for i in (0, 1)]
    assert [(row.name, row.shape) for row in table] == expected
    np.testing.assert_array_equal([row.ratio for row in table], 1.0)
