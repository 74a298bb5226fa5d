"""The paper's competitors as transformations of their own: AWD and AdaDecay."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_alphadecay.assignment.sigmoid import sigmoid
from optax_alphadecay.decay import (
    Mask,
    ScalarOrSchedule,
    add_decay,
    check_nonnegative,
    check_positive,
    current_rate,
    flatten_like_params,
    wide_dtype,
)
from optax_alphadecay.metrics import grad_norm
from optax_alphadecay.modules import ModuleRule, leaf_mask
from optax_alphadecay.transform import alphadecay


class AwdState(NamedTuple):
    """State of :func:`awd`."""

    rate: jax.Array  # shape=(), dtype=float32; running decay rate, used for every parameter
    count: jax.Array | None = None  # type: ignore[assignment] # shape=(), dtype=int32; None unless lam_awd is a schedule


class AdaDecayState(NamedTuple):
    """State of :func:`adadecay`."""

    count: jax.Array  # type: ignore[assignment] # shape=(), dtype=int32


def awd(
    lam_awd: ScalarOrSchedule, *, momentum: float = 0.1, mask: Mask = None, cautious: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Add decay at one global rate, in proportion to the gradient (AWD).

    ``lam_t = lam_awd * ||g|| / (||w|| + 1e-8)`` over all decayed parameters; the rate in use is the running mean
    ``momentum * previous + (1 - momentum) * lam_t``, starting from 0.

    Args:
      lam_awd: ratio of the norm of the decay to the norm of the gradient, a scalar or an optax schedule. The AlphaDecay
        paper's runs use 100 times the weight decay.
      momentum: weight of the previous rate.
      mask: which leaves are decayed and enter the norms, as in :func:`optax.add_decayed_weights`.
      cautious: see :func:`alphadecay`.

    Returns:
      A transformation with state :class:`AwdState`. The gradient is the update that reaches it, unless ``update`` is
      given the extra argument ``gradients``. A rate that is not finite is not taken; the previous one stays.

    Raises:
      ValueError: if ``lam_awd`` is negative, ``momentum`` is not in [0, 1), or params are missing.

    References:
      Ghiasi et al., `Improving Robustness with Adaptive Weight Decay <https://arxiv.org/abs/2210.00094>`_, 2023.
    """
    check_nonnegative("awd", "lam_awd", lam_awd)
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"awd: momentum must be in [0, 1), got {momentum!r}.")

    def init(params: optax.Params) -> AwdState:
        leaf_mask(params, mask)
        return AwdState(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32) if callable(lam_awd) else None)

    def update(
        updates: optax.Updates, state: AwdState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AwdState]:
        leaves = flatten_like_params("awd", updates, params, extra_args)
        is_decayed = leaf_mask(params, mask)
        gradient_norm = _norm([leaf for leaf, keep in zip(leaves.gradients, is_decayed, strict=True) if keep])
        weight_norm = _norm([leaf for leaf, keep in zip(leaves.params, is_decayed, strict=True) if keep])
        factor = current_rate(lam_awd, jnp.zeros((), jnp.int32) if state.count is None else state.count)
        rate = momentum * state.rate + (1 - momentum) * factor * gradient_norm / (weight_norm + 1e-8)
        rate = jnp.where(jnp.isfinite(rate), rate, state.rate).astype(jnp.float32)
        decayed = [
            add_decay(update, param, rate, 1.0, cautious) if keep else update
            for update, param, keep in zip(leaves.updates, leaves.params, is_decayed, strict=True)
        ]
        count = None if state.count is None else optax.safe_increment(state.count)
        return jax.tree.unflatten(leaves.structure, decayed), AwdState(rate, count)

    return optax.GradientTransformationExtraArgs(init, update)


def adadecay(
    weight_decay: ScalarOrSchedule, *, a: float = 4.0, mask: Mask = None, cautious: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Add decay to every entry by the size of its gradient, AdaDecay as published.

    ``g + weight_decay * theta * w`` with ``theta = 2 / (1 + exp(-a z))`` and ``z`` the magnitude ``|g|`` standardised
    over its leaf, ``(|g| - mean) / max(std, 1e-8)``.

    Args:
      weight_decay: base decay rate, a scalar or an optax schedule.
      a: steepness of the sigmoid.
      mask: which leaves are decayed, as in :func:`optax.add_decayed_weights`.
      cautious: see :func:`alphadecay`.

    Returns:
      A transformation with state :class:`AdaDecayState`. The gradient is the update that reaches it, unless
      ``update`` is given the extra argument ``gradients``.

    Raises:
      ValueError: for a negative rate, a steepness that is not positive, or missing params.

    References:
      Nakamura and Hong, `Adaptive Weight Decay for Deep Neural Networks <https://arxiv.org/abs/1907.08931>`_, 2019.
    """
    check_nonnegative("adadecay", "weight_decay", weight_decay)
    check_positive("adadecay", "a", a)

    def init(params: optax.Params) -> AdaDecayState:
        leaf_mask(params, mask)
        return AdaDecayState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: AdaDecayState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AdaDecayState]:
        leaves = flatten_like_params("adadecay", updates, params, extra_args)
        rate = current_rate(weight_decay, state.count)

        def ratio(gradient: jax.Array) -> jax.Array:
            magnitude = jnp.abs(gradient.astype(wide_dtype(gradient)))
            z = (magnitude - magnitude.mean()) / jnp.maximum(magnitude.std(), 1e-8)
            return 2 * jax.nn.sigmoid(a * z)

        decayed = [
            add_decay(update, param, rate, ratio(gradient), cautious) if keep and gradient is not None else update
            for update, param, gradient, keep in zip(
                leaves.updates, leaves.params, leaves.gradients, leaf_mask(params, mask), strict=True
            )
        ]
        return jax.tree.unflatten(leaves.structure, decayed), AdaDecayState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def modulewise_adadecay(
    weight_decay: ScalarOrSchedule,
    *,
    refresh_every: int = 500,
    a: float = 4.0,
    modules: ModuleRule = None,
    mask: Mask = None,
    cautious: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Add decay to every module by its gradient norm, AdaDecay as the AlphaDecay paper ran it.

    :func:`alphadecay` with :func:`grad_norm` and :func:`sigmoid`, which compares the modules of a block.

    Args:
      weight_decay: base decay rate, a scalar or an optax schedule.
      refresh_every: updates from one refresh to the next.
      a: steepness of the sigmoid.
      modules: which leaves are modules, see :func:`alphadecay`.
      mask: which leaves are decayed at all, see :func:`alphadecay`.
      cautious: see :func:`alphadecay`.

    Returns:
      A transformation with state :class:`AlphaDecayState`.

    Raises:
      ValueError: as :func:`alphadecay` and :func:`sigmoid`.

    References:
      `AlphaDecay <https://arxiv.org/abs/2506.14562>`_, section 4.
    """
    return alphadecay(
        weight_decay,
        refresh_every=refresh_every,
        metric=grad_norm(),
        assign=sigmoid(a),
        modules=modules,
        mask=mask,
        cautious=cautious,
    )


def _norm(leaves: list[jax.Array | None]) -> jax.Array:
    """Compute the Euclidean norm over all leaves, in float32."""
    squares = [jnp.sum(jnp.square(jnp.asarray(leaf, jnp.float32))) for leaf in leaves if leaf is not None]
    return jnp.sqrt(jnp.asarray(sum(squares), jnp.float32))
