"""Ready optimizers: Adam and AdamW with AlphaDecay."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import optax
from jax.sharding import Mesh

from optax_alphadecay.assignment.protocol import Assignment
from optax_alphadecay.correction.corrected import corrected as corrected_decay
from optax_alphadecay.decay import Mask, ScalarOrSchedule
from optax_alphadecay.metrics import Metric
from optax_alphadecay.modules import ModuleRule
from optax_alphadecay.transform import alphadecay


def adam(
    learning_rate: ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
    weight_decay: ScalarOrSchedule = 1e-5,
    refresh_every: int = 500,
    metric: Metric | None = None,
    assign: Assignment | None = None,
    modules: ModuleRule = None,
    mask: Mask = None,
    expire_after: int | None = 10,
    cautious: bool = False,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with AlphaDecay in the gradient (coupled decay), the paper's main setting.

    Short for ``optax.chain(alphadecay(weight_decay), optax.adam(learning_rate))``. Takes what :func:`optax.adam` takes,
    and :func:`from_optax` carries its state over.

    Args:
      learning_rate: a scalar or an optax schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      eps_root: added to the second moment, inside the root.
      mu_dtype: dtype of the first moment; None for that of the weights.
      nesterov: whether to take Nesterov's step.
      weight_decay: base decay rate, a scalar or an optax schedule.
      refresh_every: updates from one refresh to the next.
      metric: see :func:`alphadecay`.
      assign: see :func:`alphadecay`.
      modules: see :func:`alphadecay`.
      mask: see :func:`alphadecay`.
      expire_after: see :func:`alphadecay`.
      cautious: see :func:`alphadecay`.
      mesh: see :func:`alphadecay`.

    Returns:
      An optimizer.

    Raises:
      ValueError: as :func:`alphadecay`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> optimizer = oad.adam(1e-3, weight_decay=1e-5)
      >>> state = optimizer.init({"w": jnp.ones((64, 64))})
    """
    decay = alphadecay(
        weight_decay,
        refresh_every=refresh_every,
        metric=metric,
        assign=assign,
        modules=modules,
        mask=mask,
        expire_after=expire_after,
        cautious=cautious,
        mesh=mesh,
    )
    return optax.chain(decay, optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov))


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.1,
    mask: Mask = None,
    *,
    nesterov: bool = False,
    refresh_every: int = 500,
    metric: Metric | None = None,
    assign: Assignment | None = None,
    modules: ModuleRule = None,
    expire_after: int | None = 10,
    cautious: bool = False,
    mesh: Mesh | None = None,
    corrected: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with AlphaDecay (decoupled decay).

    As in :func:`optax.adamw`, a weight shrinks by ``learning_rate * weight_decay * ratio`` of itself: the decay
    follows the learning rate's schedule. Metrics of gradients see the gradients, not Adam's updates. Takes what
    :func:`optax.adamw` takes, and :func:`from_optax` carries its state over.

    Args:
      learning_rate: a scalar or an optax schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      eps_root: added to the second moment, inside the root.
      mu_dtype: dtype of the first moment; None for that of the weights.
      weight_decay: base decay rate, a scalar or an optax schedule. The default is 0.1, the upper end of the paper's;
        that of :func:`optax.adamw` is 1e-4.
      mask: see :func:`alphadecay`.
      nesterov: whether to take Nesterov's step.
      refresh_every: updates from one refresh to the next.
      metric: see :func:`alphadecay`.
      assign: see :func:`alphadecay`.
      modules: see :func:`alphadecay`.
      expire_after: see :func:`alphadecay`.
      cautious: see :func:`alphadecay`.
      mesh: see :func:`alphadecay`.
      corrected: whether the base rate follows the learning rate, as :func:`corrected` says; ``weight_decay`` is then a
        scalar, the rate at the learning rate's peak. :func:`adamc` leaves the output layer out.

    Returns:
      An optimizer.

    Raises:
      ValueError: as :func:`alphadecay`, and as :func:`corrected` if that is asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> optimizer = oad.adamw(1e-3, weight_decay=0.1)
      >>> state = optimizer.init({"w": jnp.ones((64, 64))})
    """
    decay = alphadecay(
        corrected_decay(weight_decay, learning_rate) if corrected else weight_decay,
        refresh_every=refresh_every,
        metric=metric,
        assign=assign,
        modules=modules,
        mask=mask,
        expire_after=expire_after,
        cautious=cautious,
        mesh=mesh,
    )
    return with_gradients(
        optax.chain(
            optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
            decay,
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def with_gradients(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Pass the gradients that enter a chain on to all its members.

    For decays after the moments, which would else measure Adam's updates.

    Args:
      optimizer: a chain in which a transformation measures gradients after another has changed them.

    Returns:
      The same optimizer, which adds ``gradients=updates`` to the extra arguments unless the caller gives them.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        return optimizer.update(updates, state, params, **{"gradients": updates, **extra_args})

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
