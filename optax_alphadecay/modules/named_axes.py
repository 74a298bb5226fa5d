"""Layers that say themselves which axes are inputs and outputs, as Haliax's linear layers do."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.paths import KeyPath, PyTree


class NamedAxes(NamedTuple):
    """Names of the axes of a kernel, and which of them are inputs and outputs."""

    all: tuple[str, ...]
    inputs: frozenset[str]
    outputs: frozenset[str]

    def numbers(self) -> MuonDimensionNumbers | None:
        """The axes by number, or None where there are no inputs or no outputs.

        An output axis that runs over fused kernels, ``qkv``, is left out, so that each is a module.
        """
        inputs = tuple(axis for axis, name in enumerate(self.all) if name in self.inputs)
        outputs = tuple(axis for axis, name in enumerate(self.all) if name in self.outputs and name.lower() != "qkv")
        return MuonDimensionNumbers(inputs, outputs) if inputs and outputs else None


def named_axes(params: PyTree) -> dict[KeyPath, NamedAxes]:
    """The named axes of every kernel that a layer with fields ``In``, ``Out`` and ``weight`` holds.

    Args:
      params: a tree; layers and named arrays are known by their fields, so that Haliax need not be installed.

    Returns:
      By the path of the kernel's array.
    """
    found: dict[KeyPath, NamedAxes] = {}
    for path, layer in jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_layer)[0]:
        if _is_layer(layer):
            axes = NamedAxes(_names(layer.weight.axes), frozenset(_names(layer.In)), frozenset(_names(layer.Out)))
            below = jax.tree_util.tree_flatten_with_path(layer)[0]
            found |= {path + rest: axes for rest, leaf in below if leaf is layer.weight.array}
    return found


def _is_layer(node: Any) -> bool:
    kernel = getattr(node, "weight", None)
    return hasattr(node, "In") and hasattr(node, "Out") and hasattr(kernel, "axes") and hasattr(kernel, "array")


def _names(axes: Any) -> tuple[str, ...]:
    axes = axes if isinstance(axes, tuple | list) else (axes,)
    return tuple(getattr(axis, "name", axis) for axis in axes)
