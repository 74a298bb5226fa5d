"""Groups items by a key, so that those alike are computed at once, and takes long vectors apart."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# Vectors up to this length are taken apart element by element.
_ONE_ROW = 64

T = TypeVar("T")
R = TypeVar("R")


def map_groups(
    function: Callable[[list[list[T]]], Iterable[Sequence[R]]], items: Sequence[T], key: Callable[[T], Hashable]
) -> list[R]:
    """Apply a function to groups of items with equal keys.

    Args:
      function: from all groups to the results of each, one an item. Groups come in the order of their first items.
      items: what to group.
      key: of an item.

    Returns:
      One result an item, in the order of the items.

    Raises:
      ValueError: if a group does not get one result an item.
    """
    groups = defaultdict(list)
    for position, item in enumerate(items):
        groups[key(item)].append(position)
    result_of: dict[int, R] = {}
    results = function([[items[position] for position in group] for group in groups.values()])
    for group, results_of_group in zip(groups.values(), results, strict=True):
        result_of |= zip(group, results_of_group, strict=True)
    return [result_of[position] for position in range(len(items))]


def split(array: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """Cut an array into parts of these lengths along its first axis, the inverse of concatenation."""
    return jnp.split(array, np.cumsum(sizes)[:-1])


def in_rows(vector: jax.Array) -> list[jax.Array]:
    """Cut a long vector into about as many rows as a row has elements.

    A compiler makes a kernel for every element that is used at another position of its vector, some 20 ms each. If
    the rows leave a conditional, kernels differ in the position in the row only: 32 of them serve 1,000 elements.
    """
    length = len(vector) if len(vector) <= _ONE_ROW else math.isqrt(len(vector) - 1) + 1
    return [vector[start : start + length] for start in range(0, len(vector), max(length, 1))]


def part_of(vector: jax.Array, rows: Sequence[jax.Array], part: slice) -> jax.Array:
    """Take a part of a vector, from one of its rows where a single element is wanted."""
    if part.stop - part.start != 1:
        return vector[part]
    row, position = divmod(part.start, len(rows[0]))
    return rows[row][position : position + 1]
