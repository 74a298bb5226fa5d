"""Norms of each module's weights, gradient and update, held against the norm that decay settles at."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_alphadecay import modules as modules_lib
from optax_alphadecay.correction.steady_state import effective_learning_rate, finite_step_norm
from optax_alphadecay.decay import Mask, check_not_traced
from optax_alphadecay.modules import ModuleRule, ModuleStack
from optax_alphadecay.spectra.eigenvalues import eigenvalues_of_stacks


class ModuleNorms(NamedTuple):
    """What one update does to each module; vectors are float32 ``[n_modules]``."""

    weight_l2: jax.Array
    """Frobenius norm of the weights before the update."""
    weight_spectral: jax.Array
    """Their largest singular value."""
    gradient_l2: jax.Array
    gradient_spectral: jax.Array
    update_l2: jax.Array
    """Of the update over the learning rate, decoupled decay left out: ``u`` in ``w <- (1 - gamma lam) w - gamma u``."""
    update_spectral: jax.Array
    contribution: jax.Array
    """Total Update Contribution: how far the gradient moves the weights over all updates it has a share in, as
    ``gamma ||g|| / ||m||``, in units of ``||u||``. ``m`` is the running mean of gradients."""
    steady_state_l2: jax.Array
    """What ``weight_l2`` would settle at, by :func:`finite_step_norm`, if rates and ``update_l2`` stayed as they are.
    Infinite without decoupled decay."""
    effective_learning_rate: jax.Array
    """``gamma * sqrt((2 - a) / a)``, a scalar: what contributions come to if gradients are independent."""


def module_norms(
    optimizer: optax.GradientTransformationExtraArgs,
    gradients: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
    *,
    learning_rate: jax.typing.ArrayLike,
    momentum: float = 1.0,
    averages: Callable[[optax.OptState], Any] | None = None,
    modules: ModuleRule = None,
    mask: Mask = None,
) -> ModuleNorms:
    """Measure what an optimizer is about to do to each module.

    Works under jit. It computes the optimizer's update twice, with the weights and with zeros in their place: the
    difference is the decoupled decay, whatever its ratios and schedules. Coupled decay is no decay here but part of the
    update ``u``: where the running means of a module differ between the two, its update counts as it is.

    Args:
      optimizer: the whole update, learning rate and sign included.
      gradients: what ``optimizer.update`` is about to get.
      state: the optimizer's state before the update.
      params: the weights before the update.
      learning_rate: ``gamma`` of this update, a scalar: of a schedule, its value at this step. Where it is 0, what is
        divided by it is NaN.
      momentum: ``a``, the share of the newest gradient in the running mean: ``1 - b1`` of Adam.
      averages: picks the running means of gradients, a tree like ``params``, out of the state after the update, for
        instance ``lambda state: optax.tree.get(state, "mu")``; they also tell coupled decay. None: there are none,
        ``m`` is the gradient, and all decay counts as decoupled.
      modules: as in :func:`alphadecay`.
      mask: as in :func:`alphadecay`.

    Returns:
      Norms in the order of :func:`module_table`'s rows.

    Raises:
      ValueError: if ``momentum`` is not in (0, 1], ``learning_rate`` is a schedule, or ``modules`` does not fit
        ``params``.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import optax_alphadecay as oad
      >>> params = {"up": 3 * jnp.eye(64)}
      >>> optimizer = oad.scion(0.1, momentum=1.0, orthogonalize="svd")
      >>> norms = oad.module_norms(optimizer, params, optimizer.init(params), params, learning_rate=0.1)
      >>> print(norms.weight_l2, norms.update_spectral.round(3), norms.contribution)
      [24.] [1.] [0.1]
    """
    _check(momentum, learning_rate)
    stacks = modules_lib.resolve(params, modules, mask)
    weights = _matrices(stacks, params)
    updates, after = optimizer.update(gradients, state, params)
    undecayed, after_undecayed = optimizer.update(gradients, state, jax.tree.map(jnp.zeros_like, params))
    rate = jnp.asarray(learning_rate, jnp.float32)
    average_l2 = gradient_l2 = _l2(_matrices(stacks, gradients))
    steps, without_decay = _matrices(stacks, updates), _matrices(stacks, undecayed)
    if averages is not None:
        means = _matrices(stacks, averages(after))
        average_l2 = _l2(means)
        coupled = map(_differ, means, _matrices(stacks, averages(after_undecayed)))
        without_decay = list(map(jnp.where, coupled, steps, without_decay))
    directions = [matrices / -rate for matrices in without_decay]
    decays = [(step - without) / -rate for step, without in zip(steps, without_decay, strict=True)]
    weight_l2, update_l2 = _l2(weights), _l2(directions)
    projected = [jnp.sum(w * d, axis=(1, 2)) for w, d in zip(weights, decays, strict=True)]
    coefficients = _joined(projected) / jnp.where(weight_l2 > 0, weight_l2, 1) ** 2
    # Round-off of a coefficient of 0 may be negative.
    settled = finite_step_norm(rate, jnp.maximum(coefficients, 0), momentum, update_l2)
    return ModuleNorms(
        weight_l2,
        _spectral(weights),
        gradient_l2,
        _spectral(_matrices(stacks, gradients)),
        update_l2,
        _spectral(directions),
        rate * gradient_l2 / average_l2,
        settled,
        effective_learning_rate(rate, momentum),
    )


def norm_scalars(
    norms: ModuleNorms,
    params: optax.Params,
    *,
    modules: ModuleRule = None,
    mask: Mask = None,
    prefix: str = "norms",
) -> dict[str, float]:
    """Flatten module norms to a dictionary for TensorBoard, Weights & Biases and their like.

    Args:
      norms: what :func:`module_norms` gives.
      params: the parameters, or anything with their structure and shapes.
      modules: as it was given to :func:`module_norms`.
      mask: as it was given to :func:`module_norms`.
      prefix: first part of every key.

    Returns:
      ``{prefix}/{field}/{module}`` for every field and module, ``{prefix}/mean/{field}``, the geometric mean over
      modules where there are any, and ``{prefix}/effective_learning_rate``.

    Raises:
      ValueError: if ``norms`` has another number of modules; inside ``jax.jit``.
    """
    check_not_traced("norm_scalars", norms)
    names = modules_lib.names(modules_lib.resolve(params, modules, mask))
    if norms.weight_l2.shape != (len(names),):
        raise ValueError(
            f"norm_scalars: norms holds {norms.weight_l2.shape[0]} modules and params {len(names)}; pass the params,"
            " modules and mask that module_norms was given."
        )
    *fields, _ = ModuleNorms._fields
    *vectors, rate = jax.device_get(norms)
    scalars = {f"{prefix}/effective_learning_rate": float(rate)}
    for field, vector in zip(fields, vectors, strict=True) if names else ():
        scalars |= {f"{prefix}/{field}/{name}": float(value) for name, value in zip(names, vector, strict=True)}
        with np.errstate(divide="ignore", invalid="ignore"):
            scalars[f"{prefix}/mean/{field}"] = float(np.exp(np.log(vector.astype(np.float64)).mean()))
    return scalars


def _matrices(stacks: tuple[ModuleStack, ...], tree: Any) -> list[jax.Array]:
    leaves = jax.tree.leaves(tree)
    return [stack.as_matrices(leaves[stack.leaf]).astype(jnp.float32) for stack in stacks]


def _check(momentum: float, learning_rate: object) -> None:
    if not 0 < momentum <= 1:
        raise ValueError(f"module_norms: momentum must be in (0, 1], the share of the newest gradient; got {momentum}.")
    if callable(learning_rate):
        raise ValueError(
            f"module_norms: learning_rate is a schedule, {learning_rate!r}; pass its value at this update:"
            " learning_rate=schedule(count)."
        )


def _differ(one: jax.Array, other: jax.Array) -> jax.Array:
    """Which matrices of two stacks differ, bool ``[k, 1, 1]``; entries that are not finite tell nothing."""
    return (jnp.abs(one - other) > 0).any(axis=(1, 2), keepdims=True)


def _joined(vectors: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([jnp.zeros(0, jnp.float32), *vectors])


def _l2(stacks: Sequence[jax.Array]) -> jax.Array:
    return _joined([jnp.linalg.norm(matrices, axis=(1, 2)) for matrices in stacks])


def _spectral(stacks: Sequence[jax.Array]) -> jax.Array:
    values = eigenvalues_of_stacks(list(stacks), "auto", upper_half=True) if stacks else []
    return _joined([jnp.sqrt(jnp.maximum(each[:, -1], 0)) for each in values])
