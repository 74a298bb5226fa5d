"""What an assignment is, and how one is called."""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

Assignment = Callable[..., jax.Array]
"""``scores[n] -> ratios[n]``: each module's decay as a multiple of the base rate.

The scores of modules that never had a good one are NaN: an assignment leaves them out of whatever it computes over all
modules (``jnp.nanmin`` and its kin), so that a broken module moves no other. Any such function is an assignment.

An assignment that has a parameter called ``names`` is called with the names of the modules, ``assign(scores,
names=("layers/0/query", ...))``; one that has a parameter called ``sizes``, with their numbers of weights. Both are
tuples in the order of the scores, known when the update is traced. If an assignment has a method ``fenced``, from
scores to bool ``[n]``, what it marks is marked in :func:`module_table`.
"""

By = Literal["modules", "weights"]
"""What a mean is over: modules, each counting once, or weights, each module counting by its size."""


def assign_ratios(assign: Assignment, scores: jax.Array, names: Sequence[str], sizes: Sequence[int]) -> jax.Array:
    """Compute the ratios of modules, and pass names and sizes on to an assignment that takes them.

    Raises:
      ValueError: if the assignment does not give one ratio a module.
    """
    if not names:
        return scores
    known = {"names": tuple(names), "sizes": tuple(sizes)}
    ratios = assign(scores, **{argument: known[argument] for argument in _takes(assign) & known.keys()})
    if jnp.shape(ratios) != scores.shape:
        raise ValueError(
            f"the assignment {assign} gave ratios of shape {jnp.shape(ratios)} for {scores.shape[0]} modules; it must"
            f" give one ratio a module, shape {scores.shape}."
        )
    return ratios


def fenced_modules(assign: Assignment, scores: jax.Array) -> jax.Array:
    """Mark the modules that an assignment finds beyond a fence; none if it has no method ``fenced``."""
    fenced = getattr(assign, "fenced", None)
    return jnp.zeros(scores.shape, bool) if fenced is None else fenced(scores)


def _takes(assign: Assignment) -> set[str]:
    """The parameters of a function that ``functools.partial`` has not set already."""
    taken = assign.keywords if isinstance(assign, functools.partial) else {}
    try:
        return set(inspect.signature(assign).parameters) - taken.keys()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return set()


def check_by(name: str, by: str) -> None:
    """Raise a ValueError unless ``by`` is one of :data:`By`."""
    if by not in get_args(By):
        raise ValueError(f"{name}: by must be 'modules' or 'weights', got {by!r}.")


def check_scores(name: str, scores: jax.Array) -> None:
    """Raise a ValueError if the scores are a scalar, as an assignment that is taken for a schedule gets."""
    if jnp.ndim(scores) == 0:
        raise ValueError(
            f"{name}: called with a scalar, {scores!r}, as a schedule would be. optax.inject_hyperparams takes every"
            " callable for one: pass it static_args=('metric', 'assign', 'modules', 'mask')."
        )


def over_mean(ratios: jax.Array, by: By, sizes: Sequence[int] | None) -> jax.Array:
    """Divide ratios by the mean of the finite ones, over modules or over weights."""
    if by == "weights" and sizes is None:
        raise ValueError("by='weights' needs the sizes of the modules: call assign(scores, sizes=...), one a module.")
    weights = jnp.ones_like(ratios) if by == "modules" else jnp.array(sizes, ratios.dtype)
    finite = jnp.isfinite(ratios)
    return ratios * jnp.sum(weights, where=finite) / jnp.sum(weights * ratios, where=finite)
