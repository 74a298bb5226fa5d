"""A leaf of any rank seen as a stack of matrices, and back."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """How a leaf is seen as matrices ``[k, m, n]`` with ``m`` inputs and ``n`` outputs."""

    shape: tuple[int, ...]
    """Shape of the leaf."""
    stacked: tuple[int, ...]
    """Axes that run over matrices."""
    inputs: tuple[int, ...]
    """Axes that a matrix reduces over; empty for vectors."""
    outputs: tuple[int, ...]
    """Axes that a matrix produces."""

    def size(self, axes: tuple[int, ...]) -> int:
        """Product of the sizes of some axes."""
        return math.prod(self.shape[axis] for axis in axes)

    def as_matrices(self, leaf: jax.Array) -> jax.Array:
        """The leaf as ``[k, m, n]``."""
        m, n = self.size(self.inputs), self.size(self.outputs)
        return leaf.transpose(self._order).reshape(self.size(self.stacked), m, n)

    def as_leaf(self, matrices: jax.Array) -> jax.Array:
        """Matrices ``[k, m, n]`` in the shape of the leaf."""
        order = self._order
        back = sorted(range(len(order)), key=order.__getitem__)
        return matrices.reshape([self.shape[axis] for axis in order]).transpose(back)

    @property
    def _order(self) -> tuple[int, ...]:
        return self.stacked + self.inputs + self.outputs


def view(shape: tuple[int, ...], inputs: Any, outputs: Any) -> MatrixView:
    """The view of a leaf with these input and output axes, integers or sequences of them; the others are stacked.

    Raises:
      ValueError: if axes are out of range or named twice, or there is no output axis.
    """
    named = [(axes,) if isinstance(axes, int) else tuple(axes) for axes in (inputs, outputs)]
    rank = len(shape)
    if any(not -rank <= axis < rank for axes in named for axis in axes):
        raise ValueError(f"axes {named} are out of range for the shape {shape}")
    inputs, outputs = (tuple(axis % rank for axis in axes) for axes in named)
    if (rank > 0 and not outputs) or len({*inputs, *outputs}) < len(inputs + outputs):
        raise ValueError(f"axes {named} of the shape {shape} must be distinct, and some of them outputs")
    return MatrixView(shape, tuple(axis for axis in range(rank) if axis not in inputs + outputs), inputs, outputs)
