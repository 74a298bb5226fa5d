"""AdamC: AdamW with corrected weight decay."""
# SPDX-License-Identifier: Apache-2.0

import jax
import optax

from optax_alphadecay.aliases import with_gradients
from optax_alphadecay.correction.corrected import DecayFactory, corrected, not_output_layer, partly_corrected
from optax_alphadecay.decay import Mask, ScalarOrSchedule


def adamc(
    learning_rate: ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    weight_decay: jax.typing.ArrayLike = 0.1,
    exact: bool = False,
    peak: jax.typing.ArrayLike | None = None,
    correct: Mask = None,
    mask: Mask = None,
    decay: DecayFactory | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with corrected weight decay on the layers that a norm follows.

    Args:
      learning_rate: a scalar or an optax schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: the coefficient at the peak of the learning rate.
      exact: see :func:`corrected`.
      peak: see :func:`corrected`.
      correct: which leaves have the corrected coefficient, as a tree, a prefix of one or a function of params; the
        others have the constant one. None: all but the output layer, as its author does, which is known by its name
        (a component such as ``lm_head``, ``logits`` or ``classifier``). True: the output layer too.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; None: all of them.
      decay: makes the decay of the corrected leaves, ``decay(coefficient, mask=mask)``: :func:`alphadecay`, or one
        with options, ``functools.partial(oad.alphadecay, refresh_every=100)``. None:
        :func:`optax.add_decayed_weights`.

    Returns:
      An optimizer.

    Raises:
      ValueError: as :func:`corrected`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax, optax_alphadecay as oad
      >>> optimizer = oad.adamc(optax.cosine_decay_schedule(1e-3, 1000), weight_decay=0.1, decay=oad.alphadecay)
      >>> state = optimizer.init({"w": jnp.ones((64, 64)), "lm_head": jnp.ones((64, 512))})

    References:
      Defazio, `Why Gradients Rapidly Increase Near the End of Training <https://arxiv.org/abs/2506.02285>`_, 2025.
    """
    return with_gradients(
        optax.chain(
            optax.scale_by_adam(b1, b2, eps),
            partly_corrected(
                weight_decay,
                corrected(weight_decay, learning_rate, exact, peak=peak),
                not_output_layer if correct is None else correct,
                mask,
                decay,
            ),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
