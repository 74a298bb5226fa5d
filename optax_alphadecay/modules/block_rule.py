"""The default rule at work: what it takes each leaf for, and why."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.axes import (
    Choice,
    MatrixAxes,
    cannot_guess,
    check_sizes,
    group_axes,
    most_eigenvalues,
)
from optax_alphadecay.modules.named_axes import NamedAxes, named_axes
from optax_alphadecay.modules.names import excluded_as
from optax_alphadecay.modules.paths import KeyPath, PyTree, matches, path_components, path_name
from optax_alphadecay.modules.ready import RULES, STACKED, ReadyRule

Sizes = tuple[int, ...] | int


class Decision(NamedTuple):
    """What a rule takes a leaf for."""

    choice: Choice
    reason: str
    """Why, in a few words."""
    error: str | None = None
    """The message of the error that the rule raises, where nothing says which axes are inputs and outputs."""
    eigenvalues: int = 0
    """The most that it has as a matrix: how near a leaf that is left out came."""


class _Leaf(NamedTuple):
    """A leaf, and what a rule looks at."""

    path: KeyPath
    name: str
    components: list[str]
    shape: tuple[int, ...]
    stack: tuple[int, ...]
    """Axes that run over scanned layers."""

    @property
    def own(self) -> tuple[int, ...]:
        """The other axes."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.stack)


@dataclasses.dataclass(frozen=True)
class BlockMatrices:
    """The rule that :func:`block_matrices` makes: a function of a params tree to a tree of choices."""

    min_eigenvalues: int
    stacked: tuple[tuple[str, int], ...]
    axes: tuple[tuple[str, bool | MuonDimensionNumbers], ...]
    split: tuple[tuple[str, Sizes], ...]
    ready: tuple[ReadyRule, ...] = ()
    is_stacked_by_default: bool = False
    """Whether ``stacked`` is what the ready rules know, and not what the user named."""

    def __call__(self, params: PyTree) -> PyTree:
        """Give a tree like params of bool, MuonDimensionNumbers and MatrixAxes.

        Raises:
          ValueError: for a leaf whose axes cannot be guessed, or that an override does not fit; names it and the fix.
        """
        decisions = self.decide(params)
        if error := next((decision.error for decision in decisions if decision.error), None):
            raise ValueError("\n".join(filter(None, (error, self.advice(params)))))
        return jax.tree.unflatten(jax.tree.structure(params), [decision.choice for decision in decisions])

    def advice(self, params: PyTree) -> str:
        """Name the ready rules, two at most, that know all that is unclear here; nothing if there are none."""
        unclear = [at for at, decision in enumerate(self.decide(params)) if decision.error is not None]
        mine = [model for model, rules in RULES.items() if set(rules) <= set(self.ready)]
        mine = [model for model in mine if not any(set(RULES[model]) < set(RULES[other]) for other in mine)]
        candidates = [*itertools.combinations(RULES, 1), *itertools.combinations(RULES, 2)]
        for models in sorted(candidates, key=lambda each: (len(each), sum(len(RULES[m]) for m in each))):
            if unclear and self._with_models((*mine, *models))._knows(params, unclear):
                rest = ", ..." if self._has_arguments else ""
                call = f"modules_for({', '.join(map(repr, (*mine, *models)))}{rest})"
                what = f"all {len(unclear)} such leaves" if len(unclear) > 1 else "this leaf"
                return (
                    f"Or pass modules={call}{', with the arguments that you passed' if rest else ''}: it has rules for"
                    f" {what}, by their names. That is a guess: look at explain(params, {call}) first."
                )
        return ""

    @property
    def _has_arguments(self) -> bool:
        """Whether anything but names of models was passed."""
        is_stacked = not self.is_stacked_by_default if self.ready else bool(self.stacked)
        return is_stacked or (self.min_eigenvalues, self.axes, self.split) != (50, (), ())

    def _with_models(self, models: Sequence[str]) -> "BlockMatrices":
        """What modules_for makes of models and the arguments of this rule."""
        ready = tuple(rule for model in models for rule in RULES[model])
        known = tuple((name, axis) for model in models for name, axis in STACKED.get(model, {}).items())
        is_named = bool(self.stacked or self.ready) and not self.is_stacked_by_default
        return dataclasses.replace(self, ready=ready, stacked=self.stacked if is_named else known)

    def _knows(self, params: PyTree, unclear: Sequence[int]) -> bool:
        """Whether ready rules see modules in these leaves, and nothing is unclear."""
        decisions, reasons = self.decide(params), tuple(rule.reason for rule in self.ready)
        seen = all(decisions[at].choice is not False and decisions[at].reason.startswith(reasons) for at in unclear)
        return seen and not any(decision.error for decision in decisions)

    def decide(self, params: PyTree) -> list[Decision]:
        """Decide for every leaf, in leaf order, and say why."""
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        if len(leaves) == 1 and leaves[0][1] is params and jnp.ndim(params) == 0:
            raise ValueError(
                f"block_matrices: called with a scalar, {params!r}, as a schedule would be. optax.inject_hyperparams"
                " takes every callable for one: pass it static_args=('metric', 'assign', 'modules', 'mask')."
            )
        named, siblings = named_axes(params), defaultdict(set)
        # Masked leaves are there to be seen beside the others.
        seen = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))[0]
        for path, _ in seen:
            *above, last = path_components(path) or [""]
            siblings[tuple(above)].add(last)
        return [self._decide(path, leaf, named.get(path), siblings) for path, leaf in leaves]

    def _decide(self, path: KeyPath, array: Any, named: NamedAxes | None, siblings: Mapping[Any, set[str]]) -> Decision:
        name, components = path_name(path), path_components(path)
        if not hasattr(array, "dtype") and not isinstance(array, float | int | complex):
            raise ValueError(
                f"block_matrices: {name!r} is {array!r}, not an array. Pass the params that are trained; of an Equinox"
                " model they are eqx.filter(model, eqx.is_inexact_array)."
            )
        pattern, override = next(((p, choice) for p, choice in self.axes if matches(p, path)), (None, None))
        if override is False:
            return Decision(False, f"axes says False for {pattern!r}")
        if not jnp.issubdtype(dtype := jnp.result_type(array), jnp.floating):
            return Decision(False, f"{dtype} is no floating dtype")
        if override is None and (excluded := excluded_as(name, siblings[tuple(components[:-1])])):
            return Decision(False, excluded)
        shape = jnp.shape(array)
        try:
            leaf = _Leaf(path, name, components, shape, self._stack_axes(name, components, shape))
            return self._read(leaf, pattern, override, named)
        except ValueError as error:
            matched = f" The pattern {pattern!r} of axes finds it." if override is not None else ""
            return Decision(False, "what is said of it does not fit", f"{error}{matched}")

    def _stack_axes(self, name: str, components: list[str], shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = [axis for container, axis in self.stacked if container in components]
        if axes and any(not -len(shape) <= axis < len(shape) for axis in axes):
            if len(shape) < 2:
                return tuple(range(len(shape)))
            raise ValueError(f"alphadecay: stacked names the axes {axes} of {name!r}, which has shape {shape}.")
        return tuple(dict.fromkeys(axis % len(shape) for axis in axes))

    def _read(self, leaf: _Leaf, pattern: str | None, override: Any, named: NamedAxes | None) -> Decision:
        """See a leaf that its name does not exclude as matrices."""
        sizes = next((sizes for p, sizes in self.split if matches(p, leaf.path)), None)
        numbers, reason = None if override is True else override, f"axes says {override!r} for {pattern!r}"
        needed = 1 if override is True else self.min_eigenvalues
        if override is None and named is not None:
            numbers, reason = named.numbers(), "its layer names its inputs and outputs"
        if override is None and numbers is None:
            reason = f"a matrix of at least {self.min_eigenvalues} eigenvalues that no name excludes"
            for ready in self.ready:
                if ready.fits(leaf.path, len(leaf.own)):
                    numbers, sizes = ready.numbers(leaf.own, leaf.shape), ready.parts if sizes is None else sizes
                    reason = ready.reason
                    break
        if numbers is None:
            if len(leaf.own) < 2:
                return Decision(False, "a vector" + (" in each layer" if leaf.stack else ""))
            if len(leaf.own) > 2:
                return self._not_told(leaf, needed)
            numbers = MuonDimensionNumbers(*leaf.own)
        return self._matrices(leaf, numbers, sizes, needed, reason)

    def _not_told(self, leaf: _Leaf, needed: int) -> Decision:
        most = most_eigenvalues(tuple(leaf.shape[axis] for axis in leaf.own))
        if most < needed:
            return Decision(False, self._too_few(most) + " however its axes are read", eigenvalues=most)
        error = cannot_guess(leaf.name, leaf.shape, not self.stacked, leaf.stack)
        if self.stacked and not leaf.stack:
            names = [name for name, _ in self.stacked]
            error += f"\nNo component of its path is one of {names}, which stacked names."
        return Decision(False, f"nothing says which of its {len(leaf.own)} axes are inputs and outputs", error, most)

    def _matrices(
        self, leaf: _Leaf, numbers: MuonDimensionNumbers, sizes: Sizes | None, needed: int, reason: str
    ) -> Decision:
        _, inputs, outputs = group_axes(leaf.name, leaf.shape, MatrixAxes(numbers))
        if doubly := [axis for axis in leaf.stack if axis in inputs + outputs]:
            raise ValueError(
                f"alphadecay: {numbers} for {leaf.name!r} of shape {leaf.shape} names axis {doubly[0]}, which by"
                " stacked runs over layers. Axes are counted in the leaf as it is stored; leave those of layers out."
            )
        m, n = (math.prod(leaf.shape[axis] for axis in axes) for axes in (inputs, outputs))
        if sizes is None and min(m, n) < needed:
            return Decision(False, self._too_few(min(m, n)), eigenvalues=min(m, n))
        rest = tuple(axis for axis in range(len(leaf.shape)) if axis not in inputs + outputs)
        stack = (*leaf.stack, *(axis for axis in rest if axis not in leaf.stack))
        in_order = None if stack == rest else stack
        if sizes is None:
            choice = numbers if in_order is None else MatrixAxes(numbers, in_order)
            plain = not rest and (inputs, outputs) == ((0,), (1,))
            return Decision(True if plain else choice, reason, eigenvalues=min(m, n))
        parts = _parts(leaf.name, sizes, n)
        check_sizes(leaf.name, leaf.shape, outputs, parts)
        taken = tuple(min(m, part) >= needed for part in parts)
        if not any(taken):
            return Decision(False, self._too_few(min(m, *parts)) + " in each part", eigenvalues=min(m, max(parts)))
        choice = MatrixAxes(numbers, in_order, parts, None if all(taken) else taken)
        return Decision(choice, f"{reason}; split into outputs {parts}", eigenvalues=min(m, max(parts)))

    def _too_few(self, eigenvalues: int) -> str:
        return f"{eigenvalues} eigenvalue{'s' * (eigenvalues != 1)}, fewer than min_eigenvalues={self.min_eigenvalues}"


def _parts(name: str, sizes: Sizes, n: int) -> tuple[int, ...]:
    if not isinstance(sizes, int):
        return sizes
    if n % sizes:
        raise ValueError(f"alphadecay: split asks for {sizes} equal parts of {name!r}, but it has {n} outputs.")
    return (n // sizes,) * sizes
