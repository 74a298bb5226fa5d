"""Which leaves are modules, how a leaf of any rank is seen as a stack of matrices, and what they are called."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

PyTree = Any
KeyPath = tuple[Any, ...]
ModuleRule = PyTree | Callable[[PyTree], PyTree] | None
"""A tree (or a prefix of one) with True, False, None or MuonDimensionNumbers leaves, or a function of params giving
it."""

# Path components, lower case, that belong to no matrix of a transformer block.
_NOT_A_BLOCK_MATRIX = re.compile(
    r"""
    .*embed.* | .*(^|_)emb(_.*)? | wte | wpe          # embeddings, token or position, tied or not
    | (?!multi_?head).*(^|_)head(_?\d+)? | lmhead      # output heads
    | .*logits.* | .*unembed.* | classifier | readout
    | .*norm.* | ln(_.*|\d*)                          # LayerNorm, RMSNorm, ln_1
    | (.*_)?(scales?|bias|biases|gain|gamma|beta|offset)
    """,
    re.VERBOSE,
)


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

    def spread(self, values: jax.Array) -> jax.Array:
        """One value a module, ``[k]``, in a shape that broadcasts against the leaf."""
        stack_axes = self.axes[0]
        return values.reshape([size if axis in stack_axes else 1 for axis, size in enumerate(self.leaf_shape)])


def block_matrices(min_eigenvalues: int = 50, *, stacked: Collection[str] = ()) -> Callable[[PyTree], PyTree]:
    """The default rule: the weight matrices of the transformer blocks.

    A floating leaf is a module if it is a matrix with at least ``min_eigenvalues`` eigenvalues and no component of its
    path names an embedding, an output head, a norm, a scale or a bias. Everything else keeps the base decay.

    Args:
      min_eigenvalues: matrices whose smaller side is shorter are left out: too few to fit a power law to.
      stacked: path components, such as ``"layers"``, below which the first axis of every leaf runs over scanned
        layers. Each layer is then a module of its own, and a stacked norm scale is not taken for a matrix.

    Returns:
      A function of a params tree that gives a tree of bool and :class:`optax.contrib.MuonDimensionNumbers`, to be
      passed as ``modules``. It raises a ValueError that names the leaf where a leaf has more than two axes (three below
      ``stacked``), since which of them are inputs and outputs cannot be guessed, unless
      no choice of axes gives enough eigenvalues.

    Raises:
      ValueError: if ``min_eigenvalues`` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> params = {"embed": jnp.ones((512, 64)), "layers": {"w": jnp.ones((3, 64, 64)), "scale": jnp.ones((3, 64))}}
      >>> oad.block_matrices(stacked=["layers"])(params)["layers"]
      {'scale': False, 'w': MuonDimensionNumbers(reduction_axis=1, output_axis=2)}
    """
    if isinstance(min_eigenvalues, bool) or not isinstance(min_eigenvalues, int) or min_eigenvalues < 1:
        raise ValueError(f"block_matrices: min_eigenvalues must be an integer of at least 1, got {min_eigenvalues!r}.")
    if isinstance(stacked, str):
        raise ValueError(f"block_matrices: stacked takes a collection of path components: [{stacked!r}].")

    def select(path: KeyPath, leaf: Any) -> bool | MuonDimensionNumbers:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, float | int | complex):
            raise ValueError(
                f"block_matrices: {_name(path)!r} is {leaf!r}, not an array. Pass the params that are trained; of an"
                " Equinox model they are eqx.filter(model, eqx.is_inexact_array)."
            )
        shape, components = jnp.shape(leaf), _components(path)
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return False
        if any(_NOT_A_BLOCK_MATRIX.fullmatch(component.lower()) for component in components):
            return False
        if components and components[-1] == "b":  # Haiku's biases
            return False
        stack_axes = 1 if any(component in stacked for component in components) else 0
        matrix_shape = shape[stack_axes:]
        if _most_eigenvalues(matrix_shape) < min_eigenvalues:
            return False
        if len(matrix_shape) > 2:
            raise ValueError(_cannot_guess(_name(path), shape))
        return MuonDimensionNumbers(1, 2) if stack_axes else True

    def rule(params: PyTree) -> PyTree:
        if len(leaves := jax.tree.leaves(params)) == 1 and leaves[0] is params and jnp.ndim(params) == 0:
            raise ValueError(
                f"block_matrices: called with a scalar, {params!r}, as a schedule would be. optax.inject_hyperparams"
                " takes every callable for one: pass it static_args=('metric', 'assign', 'modules', 'mask')."
            )
        return jax.tree_util.tree_map_with_path(select, params)

    return rule


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
            stacks.append(_as_stack(_name(path), position, leaf, choice))
    return tuple(stacks)


def leaf_mask(params: PyTree, mask: PyTree | Callable[[PyTree], PyTree]) -> list[bool]:
    """For every leaf of ``params``, whether ``mask`` lets it decay; all of them if it is None."""
    return [bool(leaf) for leaf in _per_leaf("mask", True if mask is None else mask, params)]


def names(stacks: tuple[ModuleStack, ...]) -> tuple[str, ...]:
    """Names of all modules, in the order of the state's vectors."""
    return tuple(itertools.chain.from_iterable(stack.names for stack in stacks))


def slices(stacks: tuple[ModuleStack, ...]) -> Iterator[tuple[ModuleStack, slice]]:
    """Every stack with its part of the state's vectors."""
    start = 0
    for stack in stacks:
        yield stack, slice(start, start + stack.shape[0])
        start += stack.shape[0]


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
        raise ValueError(_cannot_guess(name, shape))
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


def _most_eigenvalues(shape: tuple[int, ...]) -> int:
    """The most eigenvalues any reading of these axes as stacked, reduced and produced ones gives."""
    readings = itertools.product((0, 1, 2), repeat=len(shape))
    return max(
        min(math.prod(size for size, role in zip(shape, roles, strict=True) if role == side) for side in (1, 2))
        if {1, 2} <= set(roles)
        else 0
        for roles in readings
    )


def _cannot_guess(name: str, shape: tuple[int, ...]) -> str:
    return (
        f"alphadecay: {name!r} has shape {shape}, and which of its {len(shape)} axes are inputs, outputs and"
        " stacked layers cannot be guessed. For scanned layers pass modules=block_matrices(stacked=['name of the"
        " scanned part']); otherwise pass as modules a tree with optax.contrib.MuonDimensionNumbers(reduction_axis=...,"
        " output_axis=...) for this leaf, or False to leave it out."
    )


def _components(path: KeyPath) -> list[str]:
    return [component for key in path for component in jax.tree_util.keystr((key,), simple=True).split("/")]


def _name(path: KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
