"""A leaf of any rank, or a part of its outputs, seen as a stack of matrices, and the names of these."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ModuleStack:
    """One parameter leaf, or a part of its outputs, seen as a stack of ``k`` modules, each a matrix ``[m, n]``."""

    name: str
    """Path of the leaf, joined by slashes; of a part with its range of outputs, as in ``"c_attn/kernel[0:768]"``."""
    leaf: int
    """Position of the leaf among the flattened parameters."""
    leaf_shape: tuple[int, ...]
    """Shape of the leaf as it is stored."""
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Axes of the leaf that are stacked over, reduced over (inputs) and produced (outputs)."""
    part: tuple[int, int] | None = None
    """First index and end along the output axis, of which there is then one; None for the whole leaf."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(k, m, n)``."""
        k, m, n = (math.prod(self.leaf_shape[axis] for axis in group) for group in self.axes)
        return k, m, n if self.part is None else self.part[1] - self.part[0]

    @property
    def names(self) -> tuple[str, ...]:
        """One name a module: the leaf's, followed by the index in the stack if there is one."""
        stack_shape = [self.leaf_shape[axis] for axis in self.axes[0]]
        return tuple("/".join([self.name, *map(str, index)]) for index in itertools.product(*map(range, stack_shape)))

    def as_matrices(self, leaf: jax.Array) -> jax.Array:
        """The leaf, or its part, as ``[k, m, n]``."""
        if self.part is not None:
            leaf = jax.lax.slice_in_dim(leaf, *self.part, axis=self.axes[2][0])
        return leaf.transpose(tuple(itertools.chain(*self.axes))).reshape(self.shape)

    def broadcast(self, values: jax.Array) -> jax.Array:
        """One value a module, ``[k]``, in a shape that broadcasts against the leaf; 1 outside of a part."""
        stack_axes = self.axes[0]
        if (as_stored := tuple(sorted(stack_axes))) != stack_axes:
            values = values.reshape([self.leaf_shape[axis] for axis in stack_axes])
            values = values.transpose([stack_axes.index(axis) for axis in as_stored])
        values = values.reshape([size if axis in stack_axes else 1 for axis, size in enumerate(self.leaf_shape)])
        if self.part is None:
            return values
        output = np.arange(self.leaf_shape[self.axes[2][0]])
        inside = (self.part[0] <= output) & (output < self.part[1])
        sides = [len(output) if axis == self.axes[2][0] else 1 for axis in range(len(self.leaf_shape))]
        return jnp.where(inside.reshape(sides), values, jnp.ones((), values.dtype))


def names(stacks: tuple[ModuleStack, ...]) -> tuple[str, ...]:
    """Names of all modules, in the order of the state's vectors."""
    return tuple(itertools.chain.from_iterable(stack.names for stack in stacks))


def slices(stacks: tuple[ModuleStack, ...]) -> Iterator[tuple[ModuleStack, slice]]:
    """Every stack with its part of the state's vectors."""
    start = 0
    for stack in stacks:
        yield stack, slice(start, start + stack.shape[0])
        start += stack.shape[0]


def broadcast_to_leaves(stacks: tuple[ModuleStack, ...], take: Callable[[slice], jax.Array]) -> dict[int, jax.Array]:
    """One value a module, by leaf, each in a shape that broadcasts against the leaf.

    Args:
      stacks: all modules.
      take: gives a part of the values, ``[n_modules]`` in the order of the state's vectors.

    Returns:
      For the position of every leaf that holds modules, their values. They are 1 in parts that are no modules.
    """
    of_leaf: dict[int, jax.Array] = {}
    for stack, members in slices(stacks):
        own = stack.broadcast(take(members))
        of_leaf[stack.leaf] = of_leaf[stack.leaf] * own if stack.leaf in of_leaf else own
    return of_leaf
