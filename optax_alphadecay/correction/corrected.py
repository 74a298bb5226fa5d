"""Corrected weight decay: a coefficient that follows the learning rate, so that weight norms hold still."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_alphadecay.decay import Mask, ScalarOrSchedule, check_nonnegative, check_positive, known_number
from optax_alphadecay.modules import KeyPath, PyTree, leaf_mask, path_components
from optax_alphadecay.modules.names import OUTPUT_HEAD

DecayFactory = Callable[..., optax.GradientTransformation]
"""Called as ``decay(coefficient, mask=mask)``, as :func:`optax.add_decayed_weights` and :func:`alphadecay` are."""

_SEARCHED = 2**20
"""Updates among which the largest learning rate of a schedule is looked for."""

_ROUNDING = 1e-6
"""Of a peak in float32, by which its product with the decay may be above 1."""


def corrected(
    weight_decay: ScalarOrSchedule,
    learning_rate: ScalarOrSchedule,
    exact: bool = False,
    *,
    peak: jax.typing.ArrayLike | None = None,
) -> optax.Schedule:
    """Weight-decay coefficient in proportion to the learning rate, ``weight_decay * learning_rate / peak``.

    Decoupled decay takes ``learning_rate * coefficient`` of a weight away at an update. If the coefficient is constant,
    the norm that weights settle at moves with the learning rate; if it is in proportion to the learning rate, it does
    not. The result goes wherever a weight decay goes: :func:`alphadecay`, :func:`adamw`, :func:`awd`, :func:`adadecay`,
    :func:`optax.add_decayed_weights`.

    The exact form is ``(1 - sqrt(1 - learning_rate^2 / c)) / learning_rate`` with
    ``c = (peak / weight_decay) / (2 - peak * weight_decay)``: it holds the norm of weights whose updates are
    independent of each other (momentum 1) at ``sqrt(c)`` times that of an update, without the approximation that
    ``peak * weight_decay`` is small. It ignores momentum; see ``docs/scion.md`` for its error.

    Args:
      weight_decay: the coefficient at the peak of the learning rate, at least 0.
      learning_rate: the optimizer's, a scalar or an optax schedule. Under :func:`optax.inject_hyperparams` a schedule
        arrives here as a number: give ``peak`` there.
      exact: the exact form in place of the proportional one.
      peak: the largest learning rate. None: a scalar's own value, so that the coefficient is ``weight_decay`` to the
        bit; of a schedule, the largest value of its first 2^20 updates.

    Returns:
      A schedule: the coefficient at an update is 0 where its learning rate is 0 (or less). In the exact form, it
      times the learning rate is at most 1, up to rounding, at rates above ``peak`` too.

    Raises:
      ValueError: if ``weight_decay`` is negative or a schedule, the peak not positive, not finite or a schedule; if the
        schedule still rises after 2^20 updates, or is negative at all of them; or, in the exact form, if ``peak *
        weight_decay`` is above 1. A traced array, as :func:`optax.inject_hyperparams` passes it, has no value to be
        checked.

    Example:
      >>> import optax
      >>> import optax_alphadecay as oad
      >>> learning_rate = optax.cosine_decay_schedule(1e-2, 100)
      >>> coefficient = oad.corrected(0.1, learning_rate)
      >>> [f"{coefficient(step):.3f}" for step in (0, 50, 100)]
      ['0.100', '0.050', '0.000']

    References:
      Chou, `Correction of Decoupled Weight Decay <https://arxiv.org/abs/2512.08217>`_, 2025; Defazio, `Why Gradients
      Rapidly Increase Near the End of Training <https://arxiv.org/abs/2506.02285>`_, 2025.
    """
    if callable(weight_decay):
        raise ValueError("corrected: weight_decay must be a scalar, the coefficient at the peak; got a schedule.")
    check_nonnegative("corrected", "weight_decay", weight_decay)
    check_nonnegative("corrected", "learning_rate", learning_rate)
    if peak is not None:
        if callable(peak):
            raise ValueError("corrected: peak must be a number, the largest learning rate; got a schedule.")
        check_positive("corrected", "peak", peak)
    is_constant = peak is None and not callable(learning_rate)
    if peak is None:
        peak = _largest(learning_rate) if callable(learning_rate) else learning_rate
    largest, decay = known_number("corrected", "peak", peak), known_number("corrected", "weight_decay", weight_decay)
    if exact and largest is not None and decay is not None and largest * decay > 1 + _ROUNDING:
        raise ValueError(
            f"corrected: the exact form needs peak * weight_decay of at most 1, got {peak!r} * {weight_decay!r}."
        )
    if is_constant:
        return lambda count: weight_decay

    divisor = 1.0 if largest == 0 else peak  # all rates are 0 then
    if largest is None:
        divisor = jnp.where(jnp.asarray(peak) == 0, 1.0, peak)
    if exact and (largest is None or decay is None):  # traced: a product above 1, which cannot be refused, counts as 1
        weight_decay = jnp.minimum(weight_decay, 1 / divisor)

    def coefficient(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        share = jnp.maximum(rate / divisor, 0.0)
        if not exact:
            return weight_decay * share
        shrink = peak * weight_decay
        # (1 - sqrt(1 - x)) / rate, as a quotient that loses no digits where the rate is tiny.
        taken = share**2 * shrink * (2 - shrink)
        root = jnp.sqrt(jnp.maximum(1 - taken, 0.0))
        # At rates above the peak it may not take more of a weight away than there is.
        return weight_decay * share * (2 - shrink) / (1 + root) / jnp.maximum(taken, 1.0)

    return coefficient


def partly_corrected(
    weight_decay: jax.typing.ArrayLike,
    coefficient: optax.Schedule,
    correct: Mask,
    mask: Mask = None,
    decay: DecayFactory | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds the decay of an optimizer in which some leaves are corrected and the others are not.

    Args:
      weight_decay: coefficient of the leaves that are not corrected.
      coefficient: coefficient of those that are, a schedule of :func:`corrected`.
      correct: which leaves are corrected, as a tree, a prefix of one or a function of params.
      mask: which leaves are decayed at all; None: all of them.
      decay: makes the decay of the corrected leaves; None: :func:`optax.add_decayed_weights`.

    Returns:
      A transformation. Updates keep their dtype.
    """
    decay = optax.add_decayed_weights if decay is None else decay
    if not callable(decay):
        raise ValueError(
            f"decay must be a function that makes one, such as oad.alphadecay, not what it makes; got {decay!r}. For"
            " options, pass functools.partial(oad.alphadecay, refresh_every=100)."
        )

    def members(wanted: bool) -> Callable[[PyTree], PyTree]:
        def select(params: PyTree) -> PyTree:
            structure = jax.tree.structure(params)
            pairs = zip(leaf_mask(params, correct, "correct"), leaf_mask(params, mask), strict=True)
            return jax.tree.unflatten(structure, [is_decayed and is_it == wanted for is_it, is_decayed in pairs])

        return select

    both = optax.chain(
        decay(coefficient, mask=members(True)), optax.add_decayed_weights(weight_decay, mask=members(False))
    )

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        decayed, state = both.update(updates, state, params, **extra_args)
        # Optax lets a schedule's float32 make bfloat16 updates wider.
        return jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), decayed, updates), state

    return optax.GradientTransformationExtraArgs(both.init, update)


def not_output_layer(params: PyTree) -> PyTree:
    """False for the leaves below a path component that names an output layer, such as ``lm_head`` or ``logits``."""

    def is_hidden(path: KeyPath, leaf: Any) -> bool:
        return not any(OUTPUT_HEAD.fullmatch(component.lower()) for component in path_components(path))

    return jax.tree_util.tree_map_with_path(is_hidden, params)


def _largest(schedule: Callable[[Any], Any]) -> float:
    """The largest value of a schedule, which must not be the last one looked at."""
    with jax.ensure_compile_time_eval():
        counts = jnp.arange(_SEARCHED)
        rates = np.asarray(jax.vmap(lambda count: jnp.asarray(schedule(count)))(counts), np.float64)
        at = int(rates.argmax())  # of the first NaN, if there is one
        largest = float(schedule(counts[at]))
    if not np.isfinite(rates[at]):
        raise ValueError(f"corrected: learning_rate is {rates[at]} at update {at}; mend the schedule.")
    if rates[at] > rates[:-1].max():
        raise ValueError(
            f"corrected: learning_rate still rises after {_SEARCHED} updates, so its maximum is not known: give peak."
        )
    if largest < 0:
        raise ValueError(f"corrected: learning_rate is negative at every update, at most {largest}; mend the schedule.")
    return largest
