"""States saved by version 0.1, read by this one."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_alphadecay.transform import AlphaDecayState


class AlphaDecayStateV1(NamedTuple):
    """State of :func:`alphadecay` as version 0.1 saved it."""

    count: jax.Array  # type: ignore[assignment] # shape=(), dtype=int32
    scores: jax.Array  # shape=(n_modules,), dtype=float32; 0 before the first good one
    ratios: jax.Array  # shape=(n_modules,), dtype=float32
    rejected: jax.Array  # shape=(), dtype=int32


def state_v1(state: optax.OptState) -> optax.OptState:
    """Give a state the structure that version 0.1 saved, to restore an old checkpoint into.

    Args:
      state: a state of this version, concrete or abstract, for instance ``optimizer.init(params)``.

    Returns:
      The same tree with an :class:`AlphaDecayStateV1` in place of every :class:`AlphaDecayState`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> optimizer = oad.alphadecay(0.1, modules=True)
      >>> template = oad.state_v1(optimizer.init({"w": jnp.ones((64, 64))}))
      >>> restored = template  # for instance checkpointer.restore(path, template)
      >>> print(oad.upgrade_state(restored).scores)
      [nan]
    """
    return _map_states(lambda own: AlphaDecayStateV1(*own[:4]), state)


def upgrade_state(state: optax.OptState) -> optax.OptState:
    """Convert a state of version 0.1 to one of this version.

    Version 0.1 kept no ages, and a score of 0 for modules that never had a good one.

    Args:
      state: a restored state, with :class:`AlphaDecayStateV1` or four-field :class:`AlphaDecayState` nodes in it, as
        pickle makes them. Other states come back as they are.

    Returns:
      The same tree with states of this version: NaN for a score of 0, and ages of 0.
    """

    def upgrade(own: Any) -> Any:
        if isinstance(own, AlphaDecayState) and own.age is not None:
            return own
        count, scores, ratios, rejected = own[:4]
        never = scores == 0
        return AlphaDecayState(
            count, jnp.where(never, jnp.nan, scores), ratios, rejected, jnp.zeros_like(scores, jnp.int32)
        )

    return _map_states(upgrade, state)


def _map_states(function: Any, state: optax.OptState) -> optax.OptState:
    kinds = AlphaDecayState, AlphaDecayStateV1
    return jax.tree.map(
        lambda node: function(node) if isinstance(node, kinds) else node,
        state,
        is_leaf=lambda node: isinstance(node, kinds),
    )
