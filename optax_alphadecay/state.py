"""The state: what is kept from one refresh to the next, and of which modules."""
# SPDX-License-Identifier: Apache-2.0

import functools
import re
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_alphadecay import modules as modules_lib
from optax_alphadecay.assignment.protocol import Assignment, assign_ratios, fenced_modules
from optax_alphadecay.modules import ModuleStack
from optax_alphadecay.modules.warn import warn


class AlphaDecayState(NamedTuple):
    """State of :func:`alphadecay`.

    The vectors hold the modules in leaf order, then in the order of a stack. With ``jax_debug_nans``, which stops at a
    NaN that leaves a jitted function, initialise outside of ``jax.jit``; a refused module then stops the run.
    """

    count: jax.Array  # type: ignore[assignment] # shape=(), dtype=int32
    # shape=(n_modules,), dtype=float32; each module's last good one, NaN before the first and once it has expired
    scores: jax.Array
    ratios: jax.Array  # shape=(n_modules,), dtype=float32; decay / weight_decay, 1 before the first good score
    rejected: jax.Array  # shape=(), dtype=int32; scores and ratios refused so far because they were not finite
    # Only a state saved by an earlier version has None from here on, see upgrade_state.
    # shape=(n_modules,), dtype=int32; refreshes that have refused the module since its last good score
    age: jax.Array = None  # type: ignore[assignment]
    # shape=(n_modules,), dtype=bool; scores that the last refresh found beyond a fence, see linear
    fenced: jax.Array = None  # type: ignore[assignment]
    # shape=(), dtype=uint32; of the modules' names and shapes. The next update refreshes unless it is that of its own.
    fingerprint: jax.Array = None  # type: ignore[assignment]


def request_refresh(state: optax.OptState) -> optax.OptState:
    """Ask for a refresh at the next update, whatever the count.

    Args:
      state: an :class:`AlphaDecayState`, or the state of an optimizer that contains any number of them.

    Returns:
      The same tree. Schedules and the later refreshes stay as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> optimizer = oad.adamw(1e-3)
      >>> state = optimizer.init({"w": jnp.ones((64, 64))})
      >>> state = oad.request_refresh(state)
    """
    return jax.tree.map(
        lambda node: (
            node._replace(fingerprint=jax.tree.map(jnp.zeros_like, node.fingerprint)) if _is_own(node) else node
        ),
        state,
        is_leaf=_is_own,
    )


def fingerprint(stacks: tuple[ModuleStack, ...]) -> np.uint32:
    """Hash the names and shapes of modules. Never 0, the fingerprint of a state that does not know its modules."""
    lines = [f"{name} {stack.shape[1:]}" for stack in stacks for name in stack.names]
    # Flax's optimizer sees its variables without the `value` that ends the paths of `nnx.state(model)`.
    lines = [re.sub(r"/value(?=[/ \[])", "", line) for line in lines]
    return np.uint32(zlib.crc32("\n".join(lines).encode()) or 1)


def _is_own(node: object) -> bool:
    return isinstance(node, AlphaDecayState)


def first_state(stacks: tuple[ModuleStack, ...]) -> AlphaDecayState:
    """Make the state before the first update."""
    n_modules = len(modules_lib.names(stacks))
    with jax.debug_nans(False):  # this NaN is meant
        scores = jnp.full((n_modules,), jnp.nan, jnp.float32)
    return AlphaDecayState(
        count=jnp.zeros((), jnp.int32),
        scores=scores,
        ratios=jnp.ones((n_modules,), jnp.float32),
        rejected=jnp.zeros((), jnp.int32),
        age=jnp.zeros((n_modules,), jnp.int32),
        fenced=jnp.zeros((n_modules,), bool),
        fingerprint=jnp.asarray(fingerprint(stacks)),
    )


def next_vectors(
    state: AlphaDecayState,
    stacks: tuple[ModuleStack, ...],
    measured: jax.Array,
    assign: Assignment,
    expire_after: jax.Array | None,
) -> AlphaDecayState:
    """Take over the scores and ratios of a refresh that are finite, and keep the last good ones of the others."""
    # Scores of other modules are nobody's here. Where the state does not know whose they are, they may be our own.
    foreign = (state.fingerprint != fingerprint(stacks)) & (state.fingerprint != 0)
    age = jnp.where(foreign, 0, state.age)
    expired = foreign if expire_after is None else foreign | (age >= expire_after)
    last = jnp.where(expired, jnp.nan, state.scores)
    sizes = [m * n for k, m, n in (stack.shape for stack in stacks) for _ in range(k)]
    ratios_of = functools.partial(assign_ratios, assign, names=modules_lib.names(stacks), sizes=sizes)
    # A module that breaks counts with its last good score, so that it moves no other. Whether the assignment refuses a
    # score, such as a negative one, is known only once it was asked.
    asked = jnp.where(jnp.isfinite(measured), measured, last)
    is_good = jnp.isfinite(measured) & jnp.isfinite(ratios_of(asked))
    scores = jnp.where(is_good, measured, last)
    assigned = ratios_of(scores)
    accepted = is_good & jnp.isfinite(assigned)
    return state._replace(
        scores=jnp.where(accepted, measured, last),
        ratios=jnp.where(accepted, assigned.astype(jnp.float32), jnp.where(jnp.isnan(last), 1.0, state.ratios)),
        rejected=state.rejected + jnp.sum(~accepted, dtype=jnp.int32),
        age=jnp.where(accepted, 0, age + 1),
        fenced=fenced_modules(assign, scores),
    )


def check_modules(stacks: tuple[ModuleStack, ...], state: AlphaDecayState, gradients: list[Any]) -> None:
    """Raise a ValueError if the state or the gradients do not fit the modules; warn if the state is of others."""
    names = modules_lib.names(stacks)
    if not isinstance(state, AlphaDecayState):
        raise ValueError(
            f"alphadecay: the state is {type(state).__name__}, that of another transformation. Pass"
            " optimizer.init(params); optax_alphadecay.from_optax(old, new) carries the state of optax.adam or"
            " optax.adamw over to it."
        )
    if state.age is None or state.fenced is None or state.fingerprint is None:
        raise ValueError(
            "alphadecay: the state lacks fields, as one saved by version 0.1 does; convert it once with"
            " optax_alphadecay.upgrade_state(state)."
        )
    if state.scores.shape != (len(names),):
        raise ValueError(
            f"alphadecay: the state holds {state.scores.shape[0]} modules and params {len(names)}: {', '.join(names)}."
            " Initialise with the params, modules and mask that update sees."
        )
    for stack in stacks:
        if gradients[stack.leaf] is None:
            raise ValueError(
                f"alphadecay: {stack.name!r} is a module but has no update (None). Set it to False in modules, or give"
                " it a gradient."
            )
    if isinstance(state.fingerprint, jax.core.Tracer) or isinstance(state.count, jax.core.Tracer):
        return
    # In NumPy: where a traced function closes over the state, as apply_if_finite does, jnp would compare tracers.
    if np.asarray(state.count) > 0 and int(np.asarray(state.fingerprint)) not in (0, fingerprint(stacks)):
        warn(
            f"alphadecay: the state is of other modules than these {len(names)}, {', '.join(names[:3])} and so on; all"
            " of them are measured at this update. If you changed modules or mask on purpose, all is well."
        )
