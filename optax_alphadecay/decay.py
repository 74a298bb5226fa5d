"""What all weight decays share: the arithmetic, trees that must match params, and argument checks."""
# SPDX-License-Identifier: Apache-2.0

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_alphadecay.modules import PyTree

ScalarOrSchedule = jax.typing.ArrayLike | Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
Mask = PyTree | Callable[[PyTree], PyTree] | None


class Leaves(NamedTuple):
    """The leaves of params, and what belongs to each."""

    params: list[Any]
    updates: list[Any]
    """None where there is no update."""
    gradients: list[Any]
    """None where there is no gradient."""
    structure: Any
    """The tree structure of params."""


def current_rate(rate: ScalarOrSchedule, count: jax.Array) -> jax.typing.ArrayLike:
    """Evaluate a constant or a schedule at an update."""
    return rate(count) if callable(rate) else rate


def add_decay(
    update: jax.Array | None,
    param: jax.Array,
    rate: jax.typing.ArrayLike,
    ratio: jax.typing.ArrayLike = 1.0,
    cautious: bool = False,
) -> jax.Array | None:
    """Compute ``g + rate * ratio * w`` of one leaf, in the dtype of ``g``; None if there is no update.

    Cautious decay (`Cautious Weight Decay <https://arxiv.org/abs/2510.12402>`_) leaves out the weights that the update
    takes away from zero: those where ``g``, which is to be subtracted, and ``w`` have opposite signs.
    """
    if update is None:
        return None
    # In bfloat16, the product of rate and ratio would lose most of the difference between modules.
    dtype = wide_dtype(param)
    decay = jnp.asarray(rate, dtype) * jnp.asarray(ratio, dtype)
    if cautious:
        # Not by the sign of the product, which underflows.
        opposite = ((update > 0) & (param < 0)) | ((update < 0) & (param > 0))
        decay = jnp.where(opposite, jnp.zeros((), dtype), decay)
    decayed = decay * jnp.asarray(param, dtype)
    widest = wide_dtype(update, decayed)
    return (jnp.asarray(update, widest) + decayed.astype(widest)).astype(jnp.result_type(update))


def wide_dtype(*arrays: jax.typing.ArrayLike) -> jnp.dtype:
    """Find the widest dtype of floating arrays, at least float32, by no rules of promotion: they may be strict."""
    widest = max((jnp.result_type(array) for array in arrays), key=lambda dtype: dtype.itemsize)
    return widest if widest.itemsize >= 4 else jnp.dtype(jnp.float32)


def flatten_like_params(
    name: str, updates: optax.Updates, params: optax.Params | None, extra_args: dict[str, Any]
) -> Leaves:
    """Flatten params, updates and gradients to lists that match.

    Args:
      name: of the transformation, for errors.
      updates: a tree like params, with None where there is no update.
      params: the weights.
      extra_args: those of ``update``; ``gradients`` among them are the gradients, which are else the updates.

    Raises:
      ValueError: if there are no params, or an update or gradient does not match its parameter; names the leaf.
    """
    if params is None:
        raise ValueError(f"{name}: decay needs the weights; call update(gradients, state, params).")
    with_path: list[tuple[Any, Any]]
    structure: Any
    with_path, structure = jax.tree_util.tree_flatten_with_path(params)

    def matching(argument: str, tree: PyTree) -> list[Any]:
        try:
            leaves: list[Any] = structure.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(f"{name}: {argument} do not have the structure of params: {error}") from error
        for (path, param), leaf in zip(with_path, leaves, strict=True):
            if leaf is not None and jnp.shape(param) != jnp.shape(leaf):
                key = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"{name}: {key!r} has shape {jnp.shape(param)} in params and {jnp.shape(leaf)} in {argument}; pass"
                    " the params that the gradients were taken of."
                )
        return leaves

    update_leaves = matching("updates", updates)
    gradients = update_leaves
    if "gradients" in extra_args:
        gradients = matching("gradients", _masked_like(params, extra_args["gradients"]))
    return Leaves([param for _, param in with_path], update_leaves, gradients, structure)


def _masked_like(params: optax.Params, gradients: optax.Updates) -> optax.Updates:
    """Mask gradients where params are: ``optax.masked`` masks updates and params, but no extra arguments."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(params, is_leaf=is_masked)
    try:
        gradient_leaves = structure.flatten_up_to(gradients)
    except ValueError:
        return gradients  # the caller says what does not fit
    pairs = zip(leaves, gradient_leaves, strict=True)
    return jax.tree.unflatten(structure, [leaf if is_masked(leaf) else gradient for leaf, gradient in pairs])


def known_number(name: str, argument: str, value: Any) -> float | None:
    """The value of a number or a scalar array; None of a traced array, of one with axes and of a schedule.

    Raises:
      ValueError: if it is none of these.
    """
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, jax.Array | np.ndarray):
        return None if isinstance(value, jax.core.Tracer) or value.ndim else float(jax.device_get(value))
    if callable(value):
        return None
    raise ValueError(f"{name}: {argument} must be a number or an optax schedule, got {value!r}.")


def check_nonnegative(name: str, argument: str, value: Any) -> None:
    """Raise a ValueError if ``value`` is a known number that is negative or not finite, or no number or schedule."""
    number = known_number(name, argument, value)
    if number is not None and not 0 <= number < math.inf:
        raise ValueError(f"{name}: {argument} must be finite and at least 0, got {value!r}.")


def check_positive(name: str, argument: str, value: Any) -> None:
    """Raise a ValueError if ``value`` is a known number that is not finite and positive, or no number or schedule."""
    number = known_number(name, argument, value)
    if number is not None and not 0 < number < math.inf:
        raise ValueError(f"{name}: {argument} must be finite and positive, got {value!r}.")


def check_not_traced(name: str, *trees: Any) -> None:
    """Raise a ValueError if a leaf of the trees is traced, so that its value is not known."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ValueError(
            f"{name}: called inside jax.jit or another transformation of JAX, where arrays have no values yet. Return"
            " the state from the jitted step, and call it on what that returns."
        )


def check_function(name: str, argument: str, value: Any, arguments: str, count: int) -> None:
    """Raise a ValueError unless ``value`` is a function that takes ``count`` arguments, as what makes one is not."""
    problem = "" if callable(value) else "is not callable"
    try:
        inspect.signature(value).bind_partial(*[None] * count)
    except TypeError as error:
        problem = problem or str(error)
    except ValueError:  # some functions written in C have no signature
        pass
    if problem:
        raise ValueError(
            f"{name}: {argument} must be a function of {arguments}, got {value!r} ({problem}); where that makes such a"
            f" function, call it: {argument}=oad.{'stable_rank' if argument == 'metric' else 'linear'}()."
        )


def check_count(name: str, argument: str, value: Any) -> None:
    """Raise a ValueError if ``value`` is not an integer of at least 1 that fits in int32, as a count does."""
    # inject_hyperparams passes an array, whose value is not known here.
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.integer):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= int(value) < 2**31:
        raise ValueError(f"{name}: {argument} must be an integer of at least 1 and below 2**31, got {value!r}.")
