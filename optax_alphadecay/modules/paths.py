"""What a leaf is called: the path to it, and its components."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax

PyTree = Any
KeyPath = tuple[Any, ...]


def path_components(path: KeyPath) -> list[str]:
    """Names along a path, split at slashes."""
    return [component for key in path for component in jax.tree_util.keystr((key,), simple=True).split("/")]


def path_name(path: KeyPath) -> str:
    """The path joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
