"""The default rule: which leaves are weight matrices of the transformer blocks."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import math
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.paths import KeyPath, PyTree, path_components, path_name

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
                f"block_matrices: {path_name(path)!r} is {leaf!r}, not an array. Pass the params that are trained; of"
                " an Equinox model they are eqx.filter(model, eqx.is_inexact_array)."
            )
        shape, components = jnp.shape(leaf), path_components(path)
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
            raise ValueError(cannot_guess(path_name(path), shape))
        return MuonDimensionNumbers(1, 2) if stack_axes else True

    def rule(params: PyTree) -> PyTree:
        if len(leaves := jax.tree.leaves(params)) == 1 and leaves[0] is params and jnp.ndim(params) == 0:
            raise ValueError(
                f"block_matrices: called with a scalar, {params!r}, as a schedule would be. optax.inject_hyperparams"
                " takes every callable for one: pass it static_args=('metric', 'assign', 'modules', 'mask')."
            )
        return jax.tree_util.tree_map_with_path(select, params)

    return rule


def _most_eigenvalues(shape: tuple[int, ...]) -> int:
    """The most eigenvalues any reading of these axes as stacked, reduced and produced ones gives."""
    readings = itertools.product((0, 1, 2), repeat=len(shape))
    return max(
        min(math.prod(size for size, role in zip(shape, roles, strict=True) if role == side) for side in (1, 2))
        if {1, 2} <= set(roles)
        else 0
        for roles in readings
    )


def cannot_guess(name: str, shape: tuple[int, ...]) -> str:
    """Says what to write for a leaf whose axes cannot be guessed."""
    return (
        f"alphadecay: {name!r} has shape {shape}, and which of its {len(shape)} axes are inputs, outputs and"
        " stacked layers cannot be guessed. For scanned layers pass modules=block_matrices(stacked=['name of the"
        " scanned part']); otherwise pass as modules a tree with optax.contrib.MuonDimensionNumbers(reduction_axis=...,"
        " output_axis=...) for this leaf, or False to leave it out."
    )
