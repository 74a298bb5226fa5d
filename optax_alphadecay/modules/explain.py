"""What every leaf is taken for, and why: as records, as a text, and as a warning where nothing is a module."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax

from optax_alphadecay.modules.axes import as_stacks
from optax_alphadecay.modules.block_rule import BlockMatrices, Decision
from optax_alphadecay.modules.paths import PyTree, matches, path_components, path_name
from optax_alphadecay.modules.resolve import ModuleRule, leaf_mask, per_leaf, resolve, without_masked
from optax_alphadecay.modules.rules import block_matrices
from optax_alphadecay.modules.stacks import ModuleStack
from optax_alphadecay.modules.warn import warn

Mask = PyTree | Callable[[PyTree], PyTree] | None


@dataclasses.dataclass(frozen=True)
class LeafRecord:
    """What one leaf of the parameters is taken for, and why."""

    name: str
    """Path of the leaf, joined by slashes."""
    shape: tuple[int, ...]
    """Shape as it is stored."""
    dtype: str
    """Name of the dtype."""
    taken_for: str
    """``"modules"``, ``"base decay"`` (no module), ``"no decay"`` (by the mask) or ``"error"``."""
    reason: str
    """Why, in a few words."""
    stacks: tuple[ModuleStack, ...] = ()
    """How the leaf is seen as matrices, if it holds modules."""
    eigenvalues: int = 0
    """The most eigenvalues that a matrix in it has or could have; 0 if it was left out before they were counted."""
    error: str | None = None
    """What initialisation would raise."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of its modules."""
        return tuple(name for stack in self.stacks for name in stack.names)


def leaf_records(params: PyTree, modules: ModuleRule = None, mask: Mask = None) -> tuple[LeafRecord, ...]:
    """Say of every leaf what it is taken for, and why.

    Args:
      params: parameters, or anything with their structure, shapes and dtypes.
      modules: as given to :func:`alphadecay`.
      mask: as given to :func:`alphadecay`.

    Returns:
      One record a leaf, in leaf order.

    Raises:
      ValueError: if a tree does not match ``params``. What is wrong with a single leaf is in its record.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> for record in oad.leaf_records({"mlp": {"up": jnp.ones((64, 96)), "bias": jnp.ones(96)}}):
      ...     print(record.name, record.taken_for, record.reason, sep=": ")
      mlp/bias: base decay: 'bias' names a bias
      mlp/up: modules: a matrix of at least 50 eigenvalues that no name excludes
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    decayed = leaf_mask(params, mask)
    decisions = iter(_decisions(modules, without_masked(params, decayed)))
    records = []
    for position, ((path, leaf), is_decayed) in enumerate(zip(leaves, decayed, strict=True)):
        record = LeafRecord(path_name(path), jnp.shape(leaf), jnp.result_type(leaf).name, "no decay", "by the mask")
        records.append(_judged(record, position, leaf, next(decisions)) if is_decayed else record)
    return tuple(records)


def _decisions(modules: ModuleRule, params: PyTree) -> list[Decision]:
    rule = block_matrices() if modules is None else modules
    if isinstance(rule, BlockMatrices):
        return rule.decide(params)
    choices = per_leaf("modules", rule, params)
    return [Decision(False if choice is None else choice, f"modules says {choice!r}") for choice in choices]


def _judged(record: LeafRecord, position: int, leaf: jax.Array, decision: Decision) -> LeafRecord:
    stacks: list[ModuleStack] = []
    error = decision.error
    if decision.choice is not False and error is None:
        try:
            stacks = as_stacks(record.name, position, leaf, decision.choice)
        except ValueError as problem:
            error = str(problem)
    return dataclasses.replace(
        record,
        taken_for="error" if error else "modules" if stacks else "base decay",
        reason=decision.reason,
        stacks=tuple(stacks),
        eigenvalues=max([decision.eigenvalues, *(min(stack.shape[1:]) for stack in stacks)]),
        error=error,
    )


def explain(params: PyTree, modules: ModuleRule = None, mask: Mask = None) -> str:
    """List every leaf with what it is taken for, and why.

    Args:
      params: parameters, or anything with their structure, shapes and dtypes.
      modules: as given to :func:`alphadecay`.
      mask: as given to :func:`alphadecay`.

    Returns:
      A table of one line a leaf, the number of modules, patterns that match no leaf, and what initialisation would
      raise, once for leaves of several layers. :func:`leaf_records` gives the same as records.

    Raises:
      ValueError: as :func:`leaf_records`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.explain({"up": jnp.ones((64, 96)), "wte": jnp.ones((500, 64))}))
      leaf  shape     dtype    taken for       why
      up    64 x 96   float32  module 64 x 96  a matrix of at least 50 eigenvalues that no name excludes
      wte   500 x 64  float32  base decay      'wte' names an embedding
      1 module in 1 of 2 leaves.
    """
    records = leaf_records(params, modules, mask)
    lines = [["leaf", "shape", "dtype", "taken for", "why"]]
    for record in records:
        shape = " x ".join(map(str, record.shape)) or "scalar"
        lines.append([record.name, shape, record.dtype, _described(record), record.reason])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    holding = [record for record in records if record.stacks]
    count = sum(len(record.modules) for record in holding)
    table.append(f"{count} module{'s' * (count != 1)} in {len(holding)} of {len(records)} leaves.")
    table += [f"{unmatched} matches no leaf." for unmatched in unmatched_names(modules, params)]
    errors = {re.sub(r"\d+", "", record.name): record.error for record in records[::-1] if record.error}
    rule = block_matrices() if modules is None else modules
    advice = ""
    if errors and isinstance(rule, BlockMatrices):
        advice = rule.advice(without_masked(params, leaf_mask(params, mask)))
    return "\n".join(
        [*table, *reversed(errors.values()), *filter(None, [advice])]
    )  # one error for layers that are alike


def _described(record: LeafRecord) -> str:
    if not record.stacks:
        return record.taken_for
    shapes = dict.fromkeys("{} x {}".format(*stack.shape[1:]) for stack in record.stacks)
    count = len(record.modules)
    return f"{'module' if count == 1 else f'{count} modules'} {', '.join(shapes)}"


def unmatched_names(modules: ModuleRule, params: PyTree) -> list[str]:
    """List what the user of a rule named that no leaf has, as ``axes: 'conv'``."""
    if not isinstance(modules, BlockMatrices):
        return []
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    patterns = [("axes", pattern) for pattern, _ in modules.axes] + [("split", pattern) for pattern, _ in modules.split]
    unmatched = [f"{of}: {pattern!r}" for of, pattern in patterns if not any(matches(pattern, path) for path in paths)]
    if modules.is_stacked_by_default:  # a ready rule knows several names
        return unmatched
    known = {component for path in paths for component in path_components(path)}
    return unmatched + [f"stacked: {name!r}" for name, _ in modules.stacked if name not in known]


def resolve_and_warn(params: PyTree, modules: ModuleRule = None, mask: Mask = None) -> tuple[ModuleStack, ...]:
    """:func:`resolve`, with a warning where a rule finds no module, or a pattern of it no leaf; for initialisation.

    A tree of choices says what it means and is not warned of, but False alone is: where a function was passed, it may
    have been called with something else than params. Nor is the part of params that optax.masked or optax.partition
    shows: what is missing may be in another.
    """
    stacks = resolve(params, modules, mask)
    if modules is False and jax.tree.leaves(params):
        warn(
            "alphadecay: modules is False, so that every parameter keeps the base decay. optax.inject_hyperparams takes"
            " a function for a schedule, calls it with the number of updates, and passes on what comes back: give it"
            " static_args=('metric', 'assign', 'modules', 'mask'). For uniform decay use optax.add_decayed_weights."
        )
    is_rule = modules is None or (callable(modules) and jax.tree_util.all_leaves([modules]))
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if not is_rule or not nodes or any(isinstance(node, optax.MaskedNode) for node in nodes):
        return stacks
    if unmatched := unmatched_names(modules, params):
        warn(f"alphadecay: no leaf matches {', '.join(unmatched)}; see optax_alphadecay.explain.")
    if not stacks:
        warn(_no_module(leaf_records(params, modules, mask)))
    return stacks


def _no_module(records: Iterable[LeafRecord]) -> str:
    candidates = [record for record in records if len(record.shape) > 1]
    near = sorted(candidates, key=lambda record: (record.taken_for == "no decay", -record.eigenvalues))[:3]
    said = "; ".join(f"{record.name!r} of shape {record.shape}: {record.reason}" for record in near)
    return (
        "alphadecay: no leaf of params is a module, so that every parameter keeps the base decay. "
        + (f"Nearest came {said}." if near else "None has two axes.")
        + " Pass modules, or for uniform decay use optax.add_decayed_weights; optax_alphadecay.explain(params, modules)"
        " lists every leaf."
    )
