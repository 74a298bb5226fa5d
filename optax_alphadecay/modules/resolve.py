"""From a rule, a tree or a prefix of one to the stacks of modules of a params tree."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.paths import PyTree, path_name
from optax_alphadecay.modules.rules import block_matrices, cannot_guess
from optax_alphadecay.modules.stacks import ModuleStack

ModuleRule = PyTree | Callable[[PyTree], PyTree] | None
"""A tree (or a prefix of one) with True, False, None or MuonDimensionNumbers leaves, or a function of params giving
it."""


def resolve(
    params: PyTree, modules: ModuleRule = None, mask: PyTree | Callable[[PyTree], PyTree] = None
) -> tuple[ModuleStack, ...]:
    """The modules of a params tree, in leaf order.

    Args:
      params: parameters, or anything with their structure, shapes and dtypes.
      modules: which leaves are modules; the rule of :func:`block_matrices` if None.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; others are no modules.

    Returns:
      One stack for every leaf that holds modules.

    Raises:
      ValueError: if a tree does not match ``params`` or a leaf cannot be seen as matrices; names the leaf and the fix.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    decayed = leaf_mask(params, mask)
    # A rule must not stumble over leaves that are not decayed anyway.
    unmasked = [leaf if keep else optax.MaskedNode() for (_, leaf), keep in zip(leaves, decayed, strict=True)]
    rule = block_matrices() if modules is None else modules
    choices = iter(_per_leaf("modules", rule, jax.tree.unflatten(structure, unmasked)))
    stacks = []
    for position, ((path, leaf), is_decayed) in enumerate(zip(leaves, decayed, strict=True)):
        choice = next(choices) if is_decayed else None
        if choice is not None and choice is not False:
            stacks.append(_as_stack(path_name(path), position, leaf, choice))
    return tuple(stacks)


def leaf_mask(params: PyTree, mask: PyTree | Callable[[PyTree], PyTree]) -> list[bool]:
    """For every leaf of ``params``, whether ``mask`` lets it decay; all of them if it is None."""
    return [bool(leaf) for leaf in _per_leaf("mask", True if mask is None else mask, params)]


def _per_leaf(argument: str, tree: PyTree | Callable[[PyTree], PyTree], params: PyTree) -> list[Any]:
    """Broadcasts a tree of choices, or the one a callable gives, to the leaves of ``params``."""
    if not jax.tree.leaves(params):  # as optax.tree.map_params asks, with a placeholder
        return []
    # An Equinox model is both callable and a tree; functions are leaves.
    tree = tree(params) if callable(tree) and jax.tree_util.all_leaves([tree]) else tree
    per_leaf: list[Any] = []
    try:
        jax.tree.map(
            lambda choice, subtree: per_leaf.extend([choice] * len(jax.tree.leaves(subtree))),
            tree,
            params,
            is_leaf=lambda node: node is None or isinstance(node, MuonDimensionNumbers | optax.MaskedNode),
        )
    except ValueError as error:
        raise ValueError(
            f"alphadecay: {argument} does not have the structure of params, nor a prefix of it ({error}). Pass a tree"
            f" made from params, for instance jax.tree.map(lambda x: x.ndim == 2, params), or a function of params."
        ) from error
    return per_leaf


def _as_stack(name: str, position: int, leaf: Any, choice: Any) -> ModuleStack:
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if not isinstance(choice, bool | MuonDimensionNumbers):
        raise ValueError(
            f"alphadecay: modules holds {choice!r} for {name!r}; use True, False or optax.contrib.MuonDimensionNumbers."
        )
    if not jnp.issubdtype(dtype, jnp.floating) or len(shape) < 2 or math.prod(shape) == 0:
        raise ValueError(
            f"alphadecay: {name!r} of shape {shape} and dtype {dtype} cannot be a module, since it holds no real"
            f" matrix; set it to False in modules."
        )
    if choice is True and len(shape) > 2:
        raise ValueError(cannot_guess(name, shape))
    numbers = choice if isinstance(choice, MuonDimensionNumbers) else MuonDimensionNumbers()
    reduction, output = (_normalized(name, shape, axes) for axes in numbers)
    if not reduction or not output or len({*reduction, *output}) < len(reduction + output):
        raise ValueError(
            f"alphadecay: {numbers} for {name!r} of shape {shape} must name distinct, non-empty reduction and"
            f" output axes, got {reduction} and {output}."
        )
    stack_axes = tuple(axis for axis in range(len(shape)) if axis not in reduction + output)
    return ModuleStack(name, position, shape, (stack_axes, reduction, output))


def _normalized(name: str, shape: tuple[int, ...], axes: Any) -> tuple[int, ...]:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"alphadecay: axes {axes} are out of range for {name!r} of shape {shape}.")
    return tuple(axis % len(shape) for axis in axes)
