"""A state as a named table and as scalars for a logger."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from optax_alphadecay import modules as modules_lib
from optax_alphadecay.correction.module_norms import ModuleNorms, norm_scalars
from optax_alphadecay.decay import Mask
from optax_alphadecay.modules import ModuleRule
from optax_alphadecay.state import AlphaDecayState


class ModuleRow(NamedTuple):
    """One module of a state."""

    name: str
    """Path of the leaf, followed by the index in its stack."""
    shape: tuple[int, int]
    """``(m, n)``."""
    score: float
    """Last good score, alpha under the default metric; NaN before the first."""
    ratio: float
    """Decay as a multiple of the base rate."""
    age: int = 0
    """Refreshes that have refused the module since its last good score."""


def module_table(
    state: optax.OptState, params: optax.Params, *, modules: ModuleRule = None, mask: Mask = None
) -> tuple[ModuleRow, ...]:
    """List the modules of a state with their names, shapes, scores and ratios.

    Fetches the state from the device, which waits for the step that makes it.

    Args:
      state: an :class:`AlphaDecayState`, or the state of an optimizer that contains one.
      params: the parameters, or anything with their structure and shapes.
      modules: as it was given to :func:`alphadecay`.
      mask: as it was given to :func:`alphadecay`.

    Returns:
      One row a module, in the order of the state's vectors.

    Raises:
      ValueError: if ``state`` does not contain exactly one AlphaDecayState, or it has another number of modules.
    """
    own = _own_state(state)
    stacks = modules_lib.resolve(params, modules, mask)
    names = modules_lib.names(stacks)
    if own.scores.shape != (len(names),):
        raise ValueError(
            f"module_table: the state holds {own.scores.shape[0]} modules and params {len(names)}; pass the params,"
            " modules and mask that the optimizer was initialised with."
        )
    shapes = [stack.shape[1:] for stack in stacks for _ in range(stack.shape[0])]
    vectors = jax.device_get((own.scores, own.ratios, own.age))
    return tuple(map(ModuleRow, names, shapes, *(np.asarray(vector).tolist() for vector in vectors)))


def format_table(rows: Sequence[ModuleRow], weight_decay: float | None = None) -> str:
    """Format rows as an aligned table.

    The score is ``-`` before the first refresh. Where the last refresh refused the module, the score says so, after the
    last good one if there is one.

    Args:
      rows: what :func:`module_table` gives.
      weight_decay: base rate; if given, a column with the decay itself is added.

    Returns:
      One line of headings and one line a module; a sentence if there is none.

    Example:
      >>> from optax_alphadecay import ModuleRow, format_table
      >>> print(format_table([ModuleRow("layers/up/0", (64, 256), 2.5, 1.25)], weight_decay=0.1))
      module       shape     score  ratio  decay
      layers/up/0  64 x 256  2.500  1.250  0.125
    """
    if not rows:
        return "no modules: every parameter keeps the base decay (by default, matrices of 50 eigenvalues are modules)"
    lines = [["module", "shape", "score", "ratio"] + (["decay"] if weight_decay is not None else [])]
    for row in rows:
        cells = [row.name, "{} x {}".format(*row.shape), _score_cell(row), f"{row.ratio:.3f}"]
        lines.append(cells + ([f"{row.ratio * weight_decay:.3g}"] if weight_decay is not None else []))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _score_cell(row: ModuleRow) -> str:
    if math.isnan(row.score):
        return "refused" if row.age else "-"
    return f"{row.score:.3f} (refused)" if row.age else f"{row.score:.3f}"


def scalars(
    state: optax.OptState,
    params: optax.Params,
    *,
    modules: ModuleRule = None,
    mask: Mask = None,
    prefix: str = "alphadecay",
    norms: ModuleNorms | None = None,
) -> dict[str, float]:
    """Flatten scores and ratios to a dictionary for TensorBoard, Weights & Biases and their like.

    Args:
      state: an :class:`AlphaDecayState`, or the state of an optimizer that contains one.
      params: the parameters, or anything with their structure and shapes.
      modules: as it was given to :func:`alphadecay`.
      mask: as it was given to :func:`alphadecay`.
      prefix: first part of every key.
      norms: what :func:`module_norms` gives for the same modules.

    Returns:
      ``{prefix}/score/{module}`` and ``{prefix}/ratio/{module}`` for every module, and ``{prefix}/rejected``. A score
      is NaN until the module has had a good one. With ``norms``, the scalars of :func:`norm_scalars` too.

    Raises:
      ValueError: as :func:`module_table`.
    """
    rows = module_table(state, params, modules=modules, mask=mask)
    return {
        **{f"{prefix}/score/{row.name}": row.score for row in rows},
        **{f"{prefix}/ratio/{row.name}": row.ratio for row in rows},
        f"{prefix}/rejected": float(_own_state(state).rejected),
        **({} if norms is None else norm_scalars(norms, params, modules=modules, mask=mask)),
    }


def _own_state(state: optax.OptState) -> AlphaDecayState:
    nodes: list[object] = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, AlphaDecayState))
    found = [node for node in nodes if isinstance(node, AlphaDecayState)]
    if len(found) != 1:
        raise ValueError(
            f"expected a state with one AlphaDecayState in it, found {len(found)}; pass the state of an optimizer that"
            " contains alphadecay(), or the AlphaDecayState itself."
        )
    return found[0]
