"""From a rule, a tree or a prefix of one to the stacks of modules of a params tree."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.axes import as_stacks
from optax_alphadecay.modules.block_rule import BlockMatrices
from optax_alphadecay.modules.paths import PyTree, path_name
from optax_alphadecay.modules.rules import block_matrices
from optax_alphadecay.modules.stacks import ModuleStack

ModuleRule = PyTree | Callable[[PyTree], PyTree] | None
"""A tree (or a prefix of one) with True, False, None, MuonDimensionNumbers or MatrixAxes leaves, or a function of
params giving it."""


def resolve(
    params: PyTree, modules: ModuleRule = None, mask: PyTree | Callable[[PyTree], PyTree] = None
) -> tuple[ModuleStack, ...]:
    """The modules of a params tree, in leaf order.

    Args:
      params: parameters, or anything with their structure, shapes and dtypes.
      modules: which leaves are modules; the rule of :func:`block_matrices` if None.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; others are no modules.

    Returns:
      One stack for every leaf that holds modules, and one for each part of a split one.

    Raises:
      ValueError: if a tree does not match ``params`` or a leaf cannot be seen as matrices; names the leaf and the fix.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    decayed = leaf_mask(params, mask)
    rule = block_matrices() if modules is None else modules
    choices = iter(per_leaf("modules", rule, without_masked(params, decayed)))
    stacks: list[ModuleStack] = []
    for position, ((path, leaf), is_decayed) in enumerate(zip(leaves, decayed, strict=True)):
        choice = next(choices) if is_decayed else None
        if choice is not None and choice is not False:
            stacks += as_stacks(path_name(path), position, leaf, choice, _advise_stacked(rule))
    return tuple(stacks)


def leaf_mask(params: PyTree, mask: PyTree | Callable[[PyTree], PyTree], argument: str = "mask") -> list[bool]:
    """For every leaf of ``params``, whether ``mask`` lets it decay; all of them if it is None.

    Raises:
      ValueError: if the mask does not match ``params``, or holds something else than True or False; names the leaf.
    """
    choices = per_leaf(argument, True if mask is None else mask, params)
    for at, choice in enumerate(choices):
        if not _is_truth(choice):
            path, _ = jax.tree_util.tree_flatten_with_path(params)[0][at]
            raise ValueError(
                f"alphadecay: {argument} holds {choice!r} for {path_name(path)!r}; it takes True and False, a tree of"
                f" them, or a function of params that gives one. To decay leaves by name: {argument}=lambda params:"
                " jax.tree_util.tree_map_with_path(lambda path, leaf: 'kernel' in jax.tree_util.keystr(path), params)."
            )
    return [bool(choice) for choice in choices]


def _is_truth(choice: Any) -> bool:
    """Whether a leaf of a mask says yes or no; None and what is masked say no."""
    if choice is None or isinstance(choice, bool | np.bool_ | optax.MaskedNode):
        return True
    if isinstance(choice, jax.Array | np.ndarray):
        return choice.ndim == 0 and choice.dtype == bool
    return choice in (0, 1)


def without_masked(params: PyTree, decayed: list[bool]) -> PyTree:
    """``params`` with MaskedNode for leaves that are not decayed: a rule must not stumble over them."""
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(
        structure, [leaf if keep else optax.MaskedNode() for leaf, keep in zip(leaves, decayed, strict=True)]
    )


def per_leaf(
    argument: str, tree: PyTree | Callable[[PyTree], PyTree], params: PyTree, function: str = "alphadecay"
) -> list[Any]:
    """Broadcast a tree of choices, or the one a callable gives, to the leaves of ``params``.

    Args:
      argument: what the tree was passed as, for errors.
      tree: a tree like ``params``, a prefix of one, or a function of params that gives either.
      params: the parameters.
      function: what it was passed to, for errors.

    Raises:
      ValueError: if the tree does not match, or is an array; names the argument and the fix.
    """
    if not jax.tree.leaves(params):  # as optax.tree.map_params asks, with a placeholder
        return []
    # An Equinox model is both callable and a tree; functions are leaves.
    tree = tree(params) if callable(tree) and jax.tree_util.all_leaves([tree]) else tree
    if isinstance(tree, jax.Array | np.ndarray):
        raise ValueError(
            f"{function}: {argument} is the array {tree}. optax.inject_hyperparams takes a function for a schedule and"
            " calls it with the number of updates: pass it static_args=('metric', 'assign', 'modules', 'mask')."
        )
    found: list[Any] = []
    try:
        jax.tree.map(
            lambda choice, subtree: found.extend([choice] * len(jax.tree.leaves(subtree))),
            tree,
            params,
            is_leaf=lambda node: node is None or isinstance(node, MuonDimensionNumbers | optax.MaskedNode),
        )
    except ValueError as error:
        raise ValueError(
            f"{function}: {argument} does not have the structure of params, nor a prefix of it ({error}). Pass a tree"
            f" made from params, for instance jax.tree.map(lambda x: x.ndim == 2, params), or a function of params."
        ) from error
    return found


def _advise_stacked(rule: ModuleRule) -> bool:
    return not (isinstance(rule, BlockMatrices) and rule.stacked)
