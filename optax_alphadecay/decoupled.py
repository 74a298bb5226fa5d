"""Decoupled weight decay around any optimizer."""
# SPDX-License-Identifier: Apache-2.0

import jax
import optax
from optax.contrib import ScheduleFreeState

from optax_alphadecay.aliases import with_gradients
from optax_alphadecay.decay import ScalarOrSchedule, check_nonnegative


def decoupled(
    optimizer: optax.GradientTransformation, decay: optax.GradientTransformation, learning_rate: ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    """Decay weights beside an optimizer, as AdamW does beside Adam.

    ``w <- w - learning_rate * (u + rate * ratio * w)``, where ``-u`` is the update of the optimizer, made with a
    learning rate of 1. Cautious decay compares the signs of ``u`` and ``w``. Metrics of gradients see the gradients.

    Args:
      optimizer: any whose updates are proportional to its learning rate, made with a learning rate of 1 and no decay of
        its own: ``optax.lion(1.0, weight_decay=0.0)``. The page on wrappers has a table of them.
      decay: adds ``rate * ratio * w`` to updates: :func:`alphadecay`, another decay of this package, or
        :func:`optax.add_decayed_weights`.
      learning_rate: a scalar or an optax schedule of the number of updates so far.

    Returns:
      An optimizer.

    Raises:
      ValueError: if an argument is no transformation, or the learning rate none or negative; when initialised, around
        :func:`optax.contrib.schedule_free`, which must be outside.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax, optax_alphadecay as oad
      >>> schedule = optax.cosine_decay_schedule(1e-4, 1000)
      >>> optimizer = oad.decoupled(optax.lion(1.0, weight_decay=0.0), oad.alphadecay(1.0), schedule)
      >>> state = optimizer.init({"w": jnp.ones((64, 64))})
    """
    for argument, value in {"optimizer": optimizer, "decay": decay}.items():
        if not isinstance(value, optax.GradientTransformation):
            raise ValueError(
                f"decoupled: {argument} must be an optax transformation, got {value!r}; for instance"
                " oad.decoupled(optax.lion(1.0, weight_decay=0.0), oad.alphadecay(0.1), 1e-4)."
            )
    check_nonnegative("decoupled", "learning_rate", learning_rate)
    chain = with_gradients(
        optax.chain(optimizer, optax.scale(-1.0), decay, optax.scale_by_learning_rate(learning_rate))
    )

    def init(params: optax.Params) -> optax.OptState:
        state = chain.init(params)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ScheduleFreeState))
        if any(isinstance(node, ScheduleFreeState) for node in nodes):
            raise ValueError(
                "decoupled: schedule_free steps from weights that it keeps itself, which a decay around it does not"
                " reach. Put it outside: optax.contrib.schedule_free(oad.decoupled(optimizer, decay, learning_rate),"
                " learning_rate)."
            )
        return state

    return optax.GradientTransformationExtraArgs(init, chain.update)
