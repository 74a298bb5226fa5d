"""Which tensors are measured, by the library's own rules, and why the others are not."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.inspection.tensors import LeftOut, Tensor
from optax_alphadecay.modules import (
    BlockMatrices,
    ModuleRule,
    ModuleStack,
    block_matrices,
    leaf_records,
    unmatched_names,
)

Chosen = tuple[Tensor, tuple[ModuleStack, ...]]
"""A tensor and the modules in it."""


def select(
    tensors: Sequence[Tensor],
    *,
    params: Any = None,
    modules: ModuleRule = None,
    exclude: Collection[str] = (),
) -> tuple[list[Chosen], list[LeftOut], tuple[str, ...]]:
    """Choose the tensors that hold modules.

    Args:
      tensors: what there is.
      params: the tree they are the leaves of; None for a checkpoint, whose tensors are then named leaves of one
        dictionary.
      modules: which are modules, as given to :func:`alphadecay`.
      exclude: patterns of names that are left out.

    Returns:
      What to measure, what is left out with the reason, and what the rule or ``exclude`` name that no tensor has.
      What :func:`block_matrices` cannot read is left out.

    Raises:
      ValueError: if ``modules`` is a tree that does not match ``params``, or a leaf is not what it says.
    """
    rule = block_matrices() if modules is None else modules
    shapes = [jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in tensors]
    if params is None:
        tree: Any = {tensor.name: shape for tensor, shape in zip(tensors, shapes, strict=True)}
    else:
        tree = jax.tree.unflatten(jax.tree.structure(params), shapes)
    record_of = {record.name: record for record in leaf_records(tree, rule)}
    chosen, left_out = [], []
    for tensor in tensors:
        record = record_of[tensor.name]
        if record.error and not isinstance(rule, BlockMatrices):
            raise ValueError(record.error)
        if pattern := next((pattern for pattern in exclude if re.search(pattern, tensor.name)), None):
            left_out.append(_left_out(tensor, f"excluded by {pattern!r}"))
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            left_out.append(_left_out(tensor, f"{tensor.dtype} is no floating dtype"))
        elif record.stacks:
            chosen.append((tensor, record.stacks))
        else:
            left_out.append(_left_out(tensor, record.reason))
    unmatched = [f"exclude: {pattern!r}" for pattern in exclude if not any(re.search(pattern, x) for x in record_of)]
    return chosen, left_out, (*unmatched_names(rule, tree), *unmatched)


def _left_out(tensor: Tensor, reason: str) -> LeftOut:
    return LeftOut(tensor.name, tensor.shape, str(tensor.dtype), reason)


def matrices_of(stacks: Sequence[ModuleStack], values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """List the modules of a loaded tensor with their names, as views of it where that is possible."""
    return [
        (name, matrix) for stack in stacks for name, matrix in zip(stack.names, _matrices(stack, values), strict=True)
    ]


def _matrices(stack: ModuleStack, values: np.ndarray) -> Any:
    """The matrices of one stack, ``[k, m, n]``, without a copy to a device."""
    if stack.part is not None:
        (axis,) = stack.axes[2]
        values = values[(slice(None),) * axis + (slice(*stack.part),)]
        stack = dataclasses.replace(stack, part=None, leaf_shape=values.shape)
    return stack.as_matrices(values)  # type: ignore[arg-type]
