"""Groups items by a key, so that those alike are computed at once."""
# SPDX-License-Identifier: Apache-2.0

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

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
