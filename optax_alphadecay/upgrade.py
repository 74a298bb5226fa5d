"""States of earlier versions, and of optax's own optimizers, carried over to this one."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_alphadecay.state import AlphaDecayState, request_refresh


class AlphaDecayStateV1(NamedTuple):
    """State of :func:`alphadecay` as version 0.1 saved it."""

    count: jax.Array  # type: ignore[assignment] # shape=(), dtype=int32
    scores: jax.Array  # shape=(n_modules,), dtype=float32; 0 before the first good one
    ratios: jax.Array  # shape=(n_modules,), dtype=float32
    rejected: jax.Array  # shape=(), dtype=int32


class _StateWithAge(NamedTuple):
    """State of :func:`alphadecay` as development versions before 0.2 saved it."""

    count: jax.Array  # type: ignore[assignment]
    scores: jax.Array
    ratios: jax.Array
    rejected: jax.Array
    age: jax.Array


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


def earlier_states(state: optax.OptState) -> tuple[optax.OptState, ...]:
    """Give a state the structures that earlier versions saved, to restore a checkpoint of unknown age into.

    Args:
      state: a state of this version, concrete or abstract.

    Returns:
      Templates as :func:`state_v1` gives, the newest version first: that of development versions before 0.2, then that
      of version 0.1. Empty if there is no :class:`AlphaDecayState` in the state.
    """
    if not _has_modules(state):
        return ()
    return _map_states(lambda own: _StateWithAge(*own[:5]), state), state_v1(state)


def upgrade_state(state: optax.OptState) -> optax.OptState:
    """Convert a state of an earlier version to one of this version.

    Version 0.1 kept no ages, and a score of 0 for modules that never had a good one. No earlier version kept which
    modules the state is of: the next update measures all modules, as if asked by :func:`request_refresh`.

    Args:
      state: a restored state, with :class:`AlphaDecayStateV1`, nodes of :func:`earlier_states`, or shorter
        :class:`AlphaDecayState` nodes in it, as pickle makes them. States of this version come back as they are.

    Returns:
      The same tree with states of this version.
    """

    def upgrade(own: Any) -> Any:
        if isinstance(own, AlphaDecayState) and own.fingerprint is not None:
            return own
        count, scores, ratios, rejected = own[:4]
        age = own[4] if len(own) > 4 else None
        if age is None:
            scores = jnp.where(scores == 0, jnp.nan, scores)
            age = jnp.zeros_like(scores, jnp.int32)
        fenced = jnp.zeros_like(scores, bool)
        return AlphaDecayState(count, scores, ratios, rejected, age, fenced, jnp.zeros_like(count, jnp.uint32))

    return _map_states(upgrade, state)


def from_optax(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """Carry the state of :func:`optax.adam` or :func:`optax.adamw` over to an optimizer of this package.

    Args:
      old: the state of the optax optimizer.
      new: ``optimizer.init(params)`` of :func:`adam`, :func:`adamw` or another optimizer with Adam's moments.

    Returns:
      ``new`` with the moments of ``old``, in its own dtypes, and with the number of updates of ``old`` in every count,
      so that schedules go on. The next update measures all modules.

    Raises:
      ValueError: unless there are moments of Adam in both, once, and of the same shapes; if the two are swapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax, optax_alphadecay as oad
      >>> params = {"w": jnp.ones((64, 64))}
      >>> state = oad.from_optax(optax.adamw(1e-3).init(params), oad.adamw(1e-3).init(params))
    """
    if _has_modules(old) and not _has_modules(new):
        raise ValueError(
            "from_optax: old has a state of this package and new has none; pass the state of optax's optimizer first."
        )
    (moments,), (fresh,) = (_adam_states("old", old), _adam_states("new", new))
    shapes = [jax.tree.map(jnp.shape, (state.mu, state.nu)) for state in (moments, fresh)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "from_optax: the moments of old and new differ in structure or shapes; pass states of one model."
        )

    moments = moments._replace(
        **{name: jax.tree.map(_cast_like, getattr(moments, name), getattr(fresh, name)) for name in ("mu", "nu")}
    )

    def carry(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, optax.ScaleByAdamState):
            return moments
        return moments.count if path[-1:] == (jax.tree_util.GetAttrKey("count"),) else node

    carried = jax.tree.map_with_path(carry, new, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    return request_refresh(carried)


def _cast_like(value: Any, other: Any) -> Any:
    return value if value.dtype == other.dtype else value.astype(other.dtype)


def _adam_states(name: str, state: optax.OptState) -> list[optax.ScaleByAdamState]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    found = [node for node in nodes if isinstance(node, optax.ScaleByAdamState)]
    if len(found) != 1:
        raise ValueError(f"from_optax: {name} must hold the moments of Adam once, and holds them {len(found)} times.")
    return found


def _has_modules(state: optax.OptState) -> bool:
    return any(isinstance(node, AlphaDecayState) for node in jax.tree.leaves(state, is_leaf=_is_known))


def _is_known(node: object) -> bool:
    return isinstance(node, AlphaDecayState | AlphaDecayStateV1 | _StateWithAge)


def _map_states(function: Any, state: optax.OptState) -> optax.OptState:
    return jax.tree.map(lambda node: function(node) if _is_known(node) else node, state, is_leaf=_is_known)
