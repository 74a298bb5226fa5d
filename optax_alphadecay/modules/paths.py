"""What a leaf is called: the path to it, its components, and the words that patterns and rules look at."""
# SPDX-License-Identifier: Apache-2.0

import re
from typing import Any

import jax

PyTree = Any
KeyPath = tuple[Any, ...]

# What holds an array in place of the parameter: Flax NNX's variables, Haliax's named arrays, Haiku's own methods.
_WRAPPERS = {"value", "raw_value", "array", "~"}


def path_name(path: KeyPath) -> str:
    """The path joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def path_components(path: KeyPath) -> list[str]:
    """Names along a path, split at slashes and dots."""
    return split_name(path_name(path))


def split_name(name: str) -> list[str]:
    """Names along a path that is printed, split at slashes and dots."""
    return [component for component in re.split("[/.]", name) if component]


def plain_components(name: str) -> list[str]:
    """Names along a path, without what merely holds an array at the end, such as ``value`` of Flax NNX."""
    components = split_name(name)
    end = len(components)
    while end > 1 and components[end - 1] in _WRAPPERS:
        end -= 1
    return components[:end]


def matches(pattern: str, path: KeyPath) -> bool:
    """Whether a regular expression is found in a path.

    It is searched in the path as it is printed, and in the path with dots for slashes and without what merely holds
    the array, so that ``query/kernel$`` finds ``"layers.0.query.kernel"`` and ``layers/0/query/kernel/value`` too.
    """
    # Haliax's named arrays have an index in place of a name.
    end = -1 if len(path) > 1 and isinstance(path[-1], jax.tree_util.FlattenedIndexKey) else None
    plain = "/".join(plain_components(path_name(path[:end])))
    return any(re.search(pattern, text) for text in (path_name(path), plain))
