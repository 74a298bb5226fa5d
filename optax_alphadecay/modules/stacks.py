"""A leaf of any rank seen as a stack of matrices, and the names of these."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class ModuleStack:
    """One parameter leaf seen as a stack of ``k`` modules, each a matrix ``[m, n]``."""

    name: str
    """Path of the leaf, joined by slashes."""
    leaf: int
    """Position of the leaf among the flattened parameters."""
    leaf_shape: tuple[int, ...]
    """Shape of the leaf as it is stored."""
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Axes of the leaf that are stacked over, reduced over (inputs) and produced (outputs)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(k, m, n)``."""
        k, m, n = (math.prod(self.leaf_shape[axis] for axis in group) for group in self.axes)
        return k, m, n

    @property
    def names(self) -> tuple[str, ...]:
        """One name a module: the leaf's, followed by the index in the stack if there is one."""
        stack_shape = [self.leaf_shape[axis] for axis in self.axes[0]]
        return tuple("/".join([self.name, *map(str, index)]) for index in itertools.product(*map(range, stack_shape)))

    def as_matrices(self, leaf: jax.Array) -> jax.Array:
        """The leaf as ``[k, m, n]``."""
        return leaf.transpose(tuple(itertools.chain(*self.axes))).reshape(self.shape)

    def broadcast(self, values: jax.Array) -> jax.Array:
        """One value a module, ``[k]``, in a shape that broadcasts against the leaf."""
        stack_axes = self.axes[0]
        return values.reshape([size if axis in stack_axes else 1 for axis, size in enumerate(self.leaf_shape)])


def names(stacks: tuple[ModuleStack, ...]) -> tuple[str, ...]:
    """Names of all modules, in the order of the state's vectors."""
    return tuple(itertools.chain.from_iterable(stack.names for stack in stacks))


def slices(stacks: tuple[ModuleStack, ...]) -> Iterator[tuple[ModuleStack, slice]]:
    """Every stack with its part of the state's vectors."""
    start = 0
    for stack in stacks:
        yield stack, slice(start, start + stack.shape[0])
        start += stack.shape[0]
