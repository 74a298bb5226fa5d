"""Which leaves of a network are modules: the matrices of the transformer blocks."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable
from typing import Any

import jax
import optax

import optax_alphadecay as oad

MODULES = oad.block_matrices(stacked=("layers",))
"""The matrices of the transformer blocks; the leaves under `layers` are stacked over the blocks."""


def modules_in(leaf: Any, choice: Any) -> int:
    """How many modules a leaf holds, by what `MODULES` says of it."""
    return 1 if choice is True else len(leaf)


def kinds_of(params: optax.Params) -> list[str]:
    """The name of the layer of every module, such as `q_proj`, in the order of the state."""
    found = module_leaves(params).items()
    return [name.split("/")[-2] for name, (leaf, choice) in found for _ in range(modules_in(leaf, choice))]


def check_kinds(named: Iterable[str], known: Iterable[str]) -> None:
    """Raises a ValueError if ratios are given to a type of module that there is not."""
    if unknown := set(named) - set(known):
        raise ValueError(f"optimizer.ratios names {min(unknown)}, but the blocks have {', '.join(sorted(set(known)))}.")


def module_leaves(params: optax.Params) -> dict[str, tuple[Any, Any]]:
    """The leaves that hold modules by their paths, in leaf order, each with what `MODULES` says of it."""
    found: dict[str, tuple[Any, Any]] = {}

    def add(path: tuple[Any, ...], leaf: Any, choice: Any) -> None:
        if choice:
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf, choice

    jax.tree_util.tree_map_with_path(add, params, MODULES(params))
    return found
