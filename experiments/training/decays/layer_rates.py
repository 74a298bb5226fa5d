"""A learning rate per module, by its spectrum, in the place of a decay."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optax_alphadecay as oad
from experiments.training.decays.modules import MODULES, module_leaves, modules_in


class LayerRatesState(NamedTuple):
    """Learning rates of modules, on their way from what they were at the last refresh to what it gave."""

    measured: oad.AlphaDecayState
    """Its ratios are where the rates go."""
    start_rates: jax.Array
    """Rates at the last refresh, `[modules]`, float32, in multiples of the learning rate."""
    rates: jax.Array
    """Rates now."""


def layer_rates(rate_range: Sequence[float], refresh_every: int, ramp: int) -> optax.GradientTransformationExtraArgs:
    """Builds LLR (arXiv 2605.22297): updates times a rate per module, higher where alpha is higher.

    Args:
        rate_range: Of the lowest alpha and of the highest.
        refresh_every: Steps from one refresh to the next.
        ramp: Steps over which a rate moves to what a refresh gave, on a straight line; the first ones move from 1.
            A refresh that was asked for by `oad.request_refresh` begins no ramp: what is left of the last one is used.

    Returns:
        A transformation, for in front of the learning rate.
    """
    measurement = oad.alphadecay(
        0.0, refresh_every=refresh_every, assign=oad.linear(*rate_range, fence=None), modules=MODULES
    )

    def init(params: optax.Params) -> LayerRatesState:
        measured = measurement.init(params)
        return LayerRatesState(measured, jnp.ones_like(measured.ratios), jnp.ones_like(measured.ratios))

    def update(
        updates: optax.Updates, state: LayerRatesState, params: optax.Params, **extra: Any
    ) -> tuple[optax.Updates, LayerRatesState]:
        _, measured = measurement.update(updates, state.measured, params, **extra)
        # Refreshes are at the first update and at every one whose number is a multiple of refresh_every.
        count = measured.count
        steps_since_refresh = jnp.where(count < refresh_every, count - 1, count % refresh_every)
        start_rates = jnp.where(steps_since_refresh == 0, state.rates, state.start_rates)
        share = jnp.minimum(1.0, (steps_since_refresh + 1) / ramp)
        rates = start_rates + (measured.ratios - start_rates) * share
        return _scaled(updates, rates, params), LayerRatesState(measured, start_rates, rates)

    return optax.GradientTransformationExtraArgs(init, update)


def _scaled(updates: optax.Updates, rates: jax.Array, params: optax.Params) -> optax.Updates:
    """Updates of modules times their rates, `[modules]` in the order of the state."""
    offset, of_leaf = 0, {}
    for name, (leaf, choice) in module_leaves(params).items():
        k = modules_in(leaf, choice)
        of_leaf[name] = rates[offset : offset + k].reshape((k,) + (1,) * (leaf.ndim - 1)) if k > 1 else rates[offset]
        offset += k

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * of_leaf.get(jax.tree_util.keystr(path, simple=True, separator="/"), 1.0)

    return jax.tree_util.tree_map_with_path(scale, updates)
