"""A state as a named table and as scalars for a logger."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_alphadecay import distribution
from optax_alphadecay import modules as modules_lib
from optax_alphadecay.correction.module_norms import ModuleNorms, norm_scalars
from optax_alphadecay.decay import Mask, check_not_traced
from optax_alphadecay.measurement import measure
from optax_alphadecay.metrics import frobenius_norm
from optax_alphadecay.modules import ModuleRule, ModuleStack
from optax_alphadecay.state import AlphaDecayState, fingerprint


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
    fenced: bool = False
    """Whether the last refresh found its score beyond a fence, see :func:`linear`."""
    norm: float = math.nan
    """Frobenius norm of the weights; NaN where they are not at hand."""

    @property
    def refused(self) -> bool:
        """Whether the last refresh refused the module."""
        return self.age > 0


def module_table(
    state: optax.OptState, params: optax.Params, *, modules: ModuleRule = None, mask: Mask = None
) -> tuple[ModuleRow, ...]:
    """List the modules of a state with their names, shapes, scores, ratios and norms.

    Fetches the state from the device, which waits for the step that makes it.

    Args:
      state: an :class:`AlphaDecayState`, or the state of an optimizer that contains one, also as nested dictionaries:
        what ``nnx.state(optimizer)`` gives, and checkpoints restored without a template.
      params: the parameters, or anything with their structure and shapes.
      modules: as it was given to :func:`alphadecay`.
      mask: as it was given to :func:`alphadecay`.

    Returns:
      One row a module, in the order of the state's vectors. Norms are NaN if the params are shapes only, or spread over
      several processes.

    Raises:
      ValueError: if ``state`` does not contain exactly one AlphaDecayState, or it is of other modules; inside
        ``jax.jit``.
    """
    check_not_traced("module_table", state, params)
    own = _own_state(state)
    stacks = modules_lib.resolve(params, modules, mask)
    names = modules_lib.names(stacks)
    advice = "pass the params, modules and mask that the optimizer was initialised with."
    if own.scores.shape != (len(names),):
        raise ValueError(
            f"module_table: the state holds {own.scores.shape[0]} modules and params {len(names)}; {advice}"
        )
    if own.fingerprint not in (0, fingerprint(stacks)):
        raise ValueError(f"module_table: the state is of other modules than {', '.join(names)}; {advice}")
    shapes = [stack.shape[1:] for stack in stacks for _ in range(stack.shape[0])]
    vectors = (own.scores, own.ratios, own.age, own.fenced, _norms(stacks, jax.tree.leaves(params)))
    return tuple(map(ModuleRow, names, shapes, *(vector.tolist() for vector in vectors)))


def format_table(
    rows: Sequence[ModuleRow], weight_decay: float | None = None, learning_rate: float | None = None
) -> str:
    """Format rows as an aligned table.

    The score is ``-`` before the first refresh. Where the last refresh refused the module, the score says so, after the
    last good one if there is one; and where it is beyond a fence.

    Args:
      rows: what :func:`module_table` gives.
      weight_decay: base rate; if given, a column with the decay itself is added.
      learning_rate: that of the step in question. If given too, so are two columns for decoupled decay: ``per step``,
        the share of itself that a weight loses at a step, ``learning_rate * weight_decay * ratio``, and ``steps``, how
        many steps it takes to shrink by a factor of e, the inverse.

    Returns:
      One line of headings and one line a module; a sentence if there is none.

    Raises:
      ValueError: for a ``learning_rate`` without a ``weight_decay``.

    Example:
      >>> from optax_alphadecay import ModuleRow, format_table
      >>> rows = [ModuleRow("layers/up/0", (64, 256), 2.5, 1.25)]
      >>> print(format_table(rows, weight_decay=0.1, learning_rate=1e-3))
      module       shape     score  ratio  decay  per step  steps
      layers/up/0  64 x 256  2.500  1.250  0.125  0.000125  8e+03
    """
    if not rows:
        return "no modules: every parameter keeps the base decay (by default, matrices of 50 eigenvalues are modules)"
    has_norms = not all(math.isnan(row.norm) for row in rows)
    rates = [_rates("format_table", row, weight_decay, learning_rate) for row in rows]
    headings = {"decay": "decay", "decay_per_step": "per step", "timescale": "steps"}
    lines = [["module", "shape", "score", "ratio", *["norm"] * has_norms, *(headings[key] for key in rates[0])]]
    for row, rate in zip(rows, rates, strict=True):
        cells = [row.name, "{} x {}".format(*row.shape), _score_cell(row), f"{row.ratio:.3f}"]
        lines.append(cells + [f"{row.norm:.3g}"] * has_norms + [f"{value:.3g}" for value in rate.values()])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def scalars(
    state: optax.OptState,
    params: optax.Params,
    *,
    modules: ModuleRule = None,
    mask: Mask = None,
    prefix: str = "alphadecay",
    weight_decay: float | None = None,
    learning_rate: float | None = None,
    norms: ModuleNorms | None = None,
) -> dict[str, float]:
    """Flatten a table to a dictionary for TensorBoard, Weights & Biases and their like.

    Args:
      state: see :func:`module_table`.
      params: the parameters, or anything with their structure and shapes.
      modules: as it was given to :func:`alphadecay`.
      mask: as it was given to :func:`alphadecay`.
      prefix: first part of every key.
      weight_decay: see :func:`format_table`.
      learning_rate: see :func:`format_table`.
      norms: what :func:`module_norms` gives for the same modules.

    Returns:
      For every module ``{prefix}/score/{module}``, ``ratio``, ``norm`` where it is known, ``decay`` with a
      ``weight_decay``, and ``decay_per_step`` and ``timescale`` with a ``learning_rate``. Over all modules
      ``{prefix}/score_mean``, ``score_std``, ``ratio_mean`` and ``ratio_std``, of those that have a score; ``refused``
      and ``fenced``, how many the last refresh refused and found beyond a fence; and ``rejected``, how many refusals
      there were so far. A score is NaN until the module has had a good one. With ``norms``, the scalars of
      :func:`norm_scalars` too.

    Raises:
      ValueError: as :func:`module_table` and :func:`format_table`.
    """
    rows = module_table(state, params, modules=modules, mask=mask)
    values: dict[str, float] = {}
    for row in rows:
        norm = {} if math.isnan(row.norm) else {"norm": row.norm}
        rates = _rates("scalars", row, weight_decay, learning_rate)
        columns = {"score": row.score, "ratio": row.ratio, **norm, **rates}
        values |= {f"{column}/{row.name}": value for column, value in columns.items()}
    scored = [row for row in rows if math.isfinite(row.score)]
    for column in ("score", "ratio") if scored else ():
        column_values = np.array([getattr(row, column) for row in scored])
        values |= {f"{column}_mean": float(column_values.mean()), f"{column}_std": float(column_values.std())}
    values["refused"] = float(sum(row.refused for row in rows))
    values["fenced"] = float(sum(row.fenced for row in rows))
    values["rejected"] = float(_own_state(state).rejected)
    of_norms = {} if norms is None else norm_scalars(norms, params, modules=modules, mask=mask)
    return {f"{prefix}/{key}": value for key, value in values.items()} | of_norms


def _rates(name: str, row: ModuleRow, weight_decay: float | None, learning_rate: float | None) -> dict[str, float]:
    """A module's decay and what follows from it, as far as the rates are given."""
    if weight_decay is None:
        if learning_rate is not None:
            raise ValueError(
                f"{name}: learning_rate={learning_rate!r} needs the weight_decay that it is multiplied by."
            )
        return {}
    for argument, value in (("weight_decay", weight_decay), ("learning_rate", learning_rate)):
        if callable(value):
            raise ValueError(f"{name}: {argument} is a schedule, {value!r}; pass its rate at a step: schedule(count).")
    decay = weight_decay * row.ratio
    if learning_rate is None:
        return {"decay": decay}
    per_step = learning_rate * decay
    return {"decay": decay, "decay_per_step": per_step, "timescale": 1 / per_step if per_step else math.inf}


def _score_cell(row: ModuleRow) -> str:
    marks = ", ".join(["refused"] * row.refused + ["fenced"] * row.fenced)
    if math.isnan(row.score):
        return marks or "-"
    return f"{row.score:.3f} ({marks})" if marks else f"{row.score:.3f}"


def _norms(stacks: tuple[ModuleStack, ...], leaves: Sequence[Any]) -> np.ndarray:
    """Frobenius norms of modules, ``[n_modules]``; NaN where the weights are not all at hand."""
    weights = [leaves[stack.leaf] for stack in stacks]
    if not all(isinstance(leaf, np.ndarray) or getattr(leaf, "is_fully_addressable", False) for leaf in weights):
        return np.full(len(modules_lib.names(stacks)), np.nan)
    with jax.ensure_compile_time_eval():  # also where something else is being traced
        weights = [jnp.asarray(leaf) for leaf in weights]
        return np.asarray(_norms_on(stacks, distribution.mesh_of(None, weights), weights))


@functools.partial(jax.jit, static_argnames=("stacks", "mesh"))
def _norms_on(
    stacks: tuple[ModuleStack, ...], mesh: distribution.AnyMesh | None, weights: list[jax.Array]
) -> jax.Array:
    def norms(weights: list[jax.Array]) -> jax.Array:
        matrices = [stack.as_matrices(leaf) for stack, leaf in zip(stacks, weights, strict=True)]
        return jnp.sqrt(measure(frobenius_norm(), matrices, matrices))

    return distribution.with_auto_axes(norms, mesh)(weights)


def _own_state(state: optax.OptState) -> AlphaDecayState:
    """Find the one AlphaDecayState, with NumPy arrays in it."""
    nodes: list[Any] = jax.tree.leaves(state, is_leaf=_is_own)
    found = [node for node in nodes if _is_own(node)]
    if len(found) != 1:
        raise ValueError(
            f"expected a state with one AlphaDecayState in it, found {len(found)}; pass the state of an optimizer that"
            " contains alphadecay(), or the AlphaDecayState itself."
        )
    fields = dict(found[0]) if isinstance(found[0], Mapping) else found[0]._asdict()
    # A field is an array, or what wraps one: Flax's variables are trees of their value.
    arrays = {name: jax.tree.leaves(value) for name, value in fields.items()}
    if missing := [name for name in AlphaDecayState._fields if not arrays.get(name)]:
        raise ValueError(
            f"the AlphaDecayState lacks {', '.join(missing)}, as one saved by an earlier version does; convert it once"
            " with optax_alphadecay.upgrade_state(state)."
        )
    on_host: dict[str, Any] = {name: np.asarray(jax.device_get(leaf)) for name, (leaf,) in arrays.items()}
    return AlphaDecayState(**on_host)


def _is_own(node: object) -> bool:
    if isinstance(node, Mapping):
        return {"scores", "ratios", "rejected"} <= set(node) <= set(AlphaDecayState._fields)
    return isinstance(node, AlphaDecayState)
