"""The norm that weights settle at under decoupled decay, where updates do not depend on the weights."""
# SPDX-License-Identifier: Apache-2.0

import math

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.decay import check_nonnegative


def steady_state_norm(
    learning_rate: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
    momentum: float = 1.0,
    update_norm: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Norm of weights at the steady state, for small steps and updates that are linear in the momentum.

    Weights ``w <- (1 - gamma lam) w - gamma u`` settle where ``||w||^2 = gamma / (2 lam) * (2 - a) / a * ||u||^2``, if
    ``u`` is the running mean ``m <- (1 - a) m + a g`` of independent gradients of mean 0, or ``m`` over its
    Frobenius norm.

    It holds where ``gamma lam`` is well below ``a``, once some ``1 / (gamma lam)`` updates have passed: within 2 % at
    ``gamma lam = 2e-3`` and ``a`` of at least 0.05 (:func:`finite_step_norm` needs no small steps). Updates that are
    not linear in the momentum settle lower where ``a < 1``: for signs see :func:`sign_steady_state_norm`; for
    orthogonalised matrices there are measured factors only, in ``docs/scion.md``. Gradients of a real loss are neither
    independent nor free of a mean.

    Args:
      learning_rate: ``gamma``.
      weight_decay: the coefficient ``lam``. At 0 nothing settles: the result is infinite.
      momentum: ``a``, the share of the newest gradient; 1 is none.
      update_norm: root of the mean of ``||u||^2``, the learning rate left out.

    Returns:
      float array that broadcasts over the arguments, in the unit of ``update_norm``.

    Raises:
      ValueError: if ``momentum`` is not in (0, 1], or a rate is negative.

    Example:
      >>> import optax_alphadecay as oad
      >>> print(f"{oad.steady_state_norm(1e-2, 0.2, momentum=0.1):.3f}")
      0.689

    References:
      Chou, `Correction of Decoupled Weight Decay <https://arxiv.org/abs/2512.08217>`_, 2025.
    """
    _check("steady_state_norm", learning_rate, weight_decay, momentum)
    factor = (2 - momentum) / momentum
    return jnp.asarray(update_norm) * jnp.sqrt(jnp.asarray(learning_rate) / (2 * jnp.asarray(weight_decay)) * factor)


def finite_step_norm(
    learning_rate: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
    momentum: float = 1.0,
    update_norm: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Norm of weights at the steady state, for steps of any size and updates that are linear in the momentum.

    With ``q = 1 - gamma lam``: ``||w||^2 = gamma^2 ||u||^2 / (1 - q^2) * (1 + q (1 - a)) / (1 - q (1 - a))``. It
    holds where :func:`steady_state_norm` does and for ``gamma lam`` anywhere below 2.

    Args:
      learning_rate: see :func:`steady_state_norm`.
      weight_decay: see :func:`steady_state_norm`.
      momentum: see :func:`steady_state_norm`.
      update_norm: see :func:`steady_state_norm`.

    Returns:
      float array that broadcasts over the arguments.

    Raises:
      ValueError: as :func:`steady_state_norm`.

    Example:
      >>> import optax_alphadecay as oad
      >>> print(f"{oad.finite_step_norm(1e-2, 0.2, momentum=0.1):.3f}")
      0.683
    """
    _check("finite_step_norm", learning_rate, weight_decay, momentum)
    kept = (1 - jnp.asarray(learning_rate) * weight_decay) * (1 - momentum)
    return jnp.asarray(update_norm) * jnp.sqrt(_uncorrelated(learning_rate, weight_decay) * (1 + kept) / (1 - kept))


def sign_steady_state_norm(
    learning_rate: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
    momentum: float = 1.0,
    update_norm: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Norm of weights at the steady state for updates that are the signs of the momentum.

    Signs of Gaussian numbers of correlation ``r`` have the correlation ``(2 / pi) arcsin(r)``, so the factor of
    :func:`finite_step_norm` is ``1 + 2 sum_k q^k (2 / pi) arcsin((1 - a)^k)``, ``k >= 1``. It holds for ``gamma lam``
    anywhere below 2 and entries of the momentum that are near Gaussian, with mean 0.

    Args:
      learning_rate: see :func:`steady_state_norm`.
      weight_decay: see :func:`steady_state_norm`.
      momentum: see :func:`steady_state_norm`.
      update_norm: see :func:`steady_state_norm`; of signs, the root of their number.

    Returns:
      float array that broadcasts over the arguments.

    Raises:
      ValueError: as :func:`steady_state_norm`.

    Example:
      >>> import optax_alphadecay as oad
      >>> print(f"{oad.sign_steady_state_norm(1e-2, 0.2, momentum=0.1):.3f}")
      0.571

    References:
      Van Vleck and Middleton, `The spectrum of clipped noise <https://doi.org/10.1109/PROC.1966.4567>`_, 1966.
    """
    _check("sign_steady_state_norm", learning_rate, weight_decay, momentum)
    # What is left out is below 1e-16 of the sum.
    lags = np.arange(1, math.ceil(40 / momentum))
    correlations = 2 / math.pi * np.arcsin((1 - momentum) ** lags)
    kept = 1 - jnp.asarray(learning_rate) * weight_decay
    factor = 1 + 2 * (_powers(kept, lags) @ correlations)
    return jnp.asarray(update_norm) * jnp.sqrt(_uncorrelated(learning_rate, weight_decay) * factor)


def effective_learning_rate(learning_rate: jax.typing.ArrayLike, momentum: jax.typing.ArrayLike) -> jax.Array:
    """Learning rate without momentum whose independent steps go as far: ``gamma * sqrt((2 - a) / a)``.

    Of steps ``gamma u / ||u||``, ``u`` the running mean of independent gradients, the sum of ``n`` has a norm of
    about ``sqrt(n)`` times this, for ``n`` well above ``1 / a``.

    Args:
      learning_rate: ``gamma``.
      momentum: ``a``, the share of the newest gradient; 1 is none.

    Returns:
      float array that broadcasts over the arguments.

    Example:
      >>> import optax_alphadecay as oad
      >>> print(f"{oad.effective_learning_rate(1e-3, 0.1):.5f}")
      0.00436
    """
    momentum = jnp.asarray(momentum)
    return jnp.asarray(learning_rate) * jnp.sqrt((2 - momentum) / momentum)


def _powers(base: jax.Array, exponents: np.ndarray) -> jax.Array:
    """``base^exponents``, the exponents along a new last axis."""
    return jnp.expand_dims(base, -1) ** exponents.reshape((1,) * base.ndim + (-1,))


def _uncorrelated(learning_rate: jax.typing.ArrayLike, weight_decay: jax.typing.ArrayLike) -> jax.Array:
    """``gamma^2 / (1 - q^2)``, written so that it loses no digits and is 0 where gamma is."""
    rate = jnp.asarray(learning_rate)
    return rate / (weight_decay * (2 - rate * weight_decay))


def _check(name: str, learning_rate: jax.typing.ArrayLike, weight_decay: jax.typing.ArrayLike, momentum: float) -> None:
    check_nonnegative(name, "learning_rate", learning_rate)
    check_nonnegative(name, "weight_decay", weight_decay)
    if not 0 < momentum <= 1:
        raise ValueError(f"{name}: momentum must be in (0, 1], the share of the newest gradient; got {momentum!r}.")
