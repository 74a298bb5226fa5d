"""Layers that name their inputs and outputs, as Haliax's do: a stand-in for them, for it is not installed here."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay import modules
from optax_alphadecay.modules.named_axes import NamedAxes, _is_layer


@dataclasses.dataclass(frozen=True)
class Axis:
    """A name and a size."""

    name: str
    size: int


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class NamedArray:
    """An array whose path is an index, for its class gives no names."""

    array: Any
    axes: tuple[Axis, ...]

    def tree_flatten(self) -> tuple[tuple[Any], tuple[Axis, ...]]:
        """The array, and static axes."""
        return (self.array,), self.axes

    @classmethod
    def tree_unflatten(cls, axes: tuple[Axis, ...], children: tuple[Any]) -> "NamedArray":
        """The inverse."""
        return cls(children[0], axes)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A kernel and a bias, inputs and outputs by name."""

    weight: NamedArray
    bias: NamedArray | None
    In: Axis | tuple[Axis, ...]
    Out: Axis | tuple[Axis, ...]


jax.tree_util.register_dataclass(Linear, ["weight", "bias"], ["In", "Out"])

LAYERS, EMBED, HEADS, SIZE = Axis("layers", 2), Axis("embed", 64), Axis("heads", 4), Axis("head_size", 16)
QKV, VOCABULARY = Axis("qkv", 3), Axis("vocab", 80)


def named(*axes: Axis) -> NamedArray:
    return NamedArray(jnp.ones([axis.size for axis in axes]), axes)


PARAMS = {
    "stacked": {
        "q_proj": Linear(named(LAYERS, HEADS, SIZE, EMBED), named(LAYERS, HEADS, SIZE), EMBED, (HEADS, SIZE)),
        "c_attn": Linear(named(LAYERS, EMBED, QKV, HEADS, SIZE), None, EMBED, (QKV, HEADS, SIZE)),
        "norm": {"weight": named(LAYERS, EMBED)},
    },
    "lm_head": Linear(named(EMBED, VOCABULARY), None, EMBED, VOCABULARY),
    "probe": Linear(named(EMBED), None, EMBED, ()),
}


def test_axes_are_inputs_outputs_and_stacks_by_name() -> None:
    stacks = {stack.name: stack for stack in modules.resolve(PARAMS)}
    assert {name: stack.shape for name, stack in stacks.items()} == {
        "stacked/q_proj/weight/0": (2, 64, 64),
        "stacked/c_attn/weight/0": (6, 64, 64),
    }
    assert stacks["stacked/q_proj/weight/0"].axes == ((0,), (3,), (1, 2))
    assert stacks["stacked/c_attn/weight/0"].names[:4] == tuple(
        f"stacked/c_attn/weight/0/{layer}/{part}" for layer, part in ((0, 0), (0, 1), (0, 2), (1, 0))
    )
    blocks = {oad.transformer_block(name) for stack in stacks.values() for name in stack.names}
    assert blocks == {("stacked", "0"), ("stacked", "1")}


@pytest.mark.parametrize("pattern", [r"q_proj/weight$", r"q_proj/weight/0$"])
def test_patterns_go_before_named_axes_and_need_not_name_the_index(pattern: str) -> None:
    names = [stack.name for stack in modules.resolve(PARAMS, oad.block_matrices(axes={pattern: False}))]
    assert names == ["stacked/c_attn/weight/0"]


def test_small_kernels_are_left_out_by_their_named_axes() -> None:
    records = {record.name: record for record in oad.leaf_records(PARAMS, oad.block_matrices(65))}
    assert records["stacked/q_proj/weight/0"].reason == "64 eigenvalues, fewer than min_eigenvalues=65"
    assert records["stacked/q_proj/bias/0"].reason == "'bias' names a bias"
    assert records["probe/weight/0"].reason == "a vector"


def test_one_step_trains_them() -> None:
    optimizer = oad.alphadecay(0.1, metric=oad.frobenius_norm())
    updates, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert [leaf.shape for leaf in jax.tree.leaves(updates)] == [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    assert state.ratios.shape == (8,)


@pytest.mark.parametrize(
    ("inputs", "outputs", "numbers"),
    [
        ({"embed"}, {"heads", "up"}, MuonDimensionNumbers((0,), (2, 3))),
        ({"embed"}, {"qkv", "heads", "up"}, MuonDimensionNumbers((0,), (2, 3))),
        ({"embed", "heads"}, {"up"}, MuonDimensionNumbers((0, 2), (3,))),
        ({"embed"}, {"qkv"}, None),
        ({"embed"}, set(), None),
        (set(), {"up"}, None),
    ],
)
def test_numbers_of_named_axes(inputs: set[str], outputs: set[str], numbers: MuonDimensionNumbers | None) -> None:
    axes = NamedAxes(("embed", "qkv", "heads", "up"), frozenset(inputs), frozenset(outputs))
    assert axes.numbers() == numbers


@pytest.mark.parametrize("lacking", [None, "In", "Out", "weight", "axes", "array"])
def test_a_layer_has_all_of_its_fields(lacking: str | None) -> None:
    kernel = {"axes": (EMBED, HEADS), "array": jnp.ones((64, 4))}
    layer: dict[str, Any] = {
        "weight": types.SimpleNamespace(**{key: value for key, value in kernel.items() if key != lacking})
    }
    layer |= {"In": EMBED, "Out": HEADS}
    node = types.SimpleNamespace(**{key: value for key, value in layer.items() if key != lacking})
    assert _is_layer(node) == (lacking is None)
