"""Which leaves of a network are modules: the matrices of the transformer blocks."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import optax

import optax_alphadecay as oad

MODULES = oad.block_matrices(stacked=("layers",))
"""The matrices of the transformer blocks; the leaves under `layers` are stacked over the blocks."""


def module_leaves(params: optax.Params) -> dict[str, tuple[Any, Any]]:
    """The leaves that hold modules by their paths, in leaf order, each with what `MODULES` says of it."""
    found: dict[str, tuple[Any, Any]] = {}

    def add(path: tuple[Any, ...], leaf: Any, choice: Any) -> None:
        if choice:
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf, choice

    jax.tree_util.tree_map_with_path(add, params, MODULES(params))
    return found
