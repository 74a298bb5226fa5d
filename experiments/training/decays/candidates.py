"""What could do better than AlphaDecay: other ratios, and alphas free of shape."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_alphadecay as oad
from experiments.methods import Solver
from experiments.training.decays.modules import MODULES, check_kinds, kinds_of, module_leaves, modules_in

_NEVER = 2**31 - 1
"""A count of steps that no run reaches."""


def gradient_scale(
    rate: float, refresh_every: int, alpha_range: Sequence[float] = ()
) -> optax.GradientTransformationExtraArgs:
    """Builds a decay whose ratios are in proportion to rms(gradient) / rms(weights), with mean 1 over weights.

    Adam divides by the size of the gradient. So this is the same decay, relative to its step, for every module.

    Args:
        rate: The base rate.
        refresh_every: Steps from one reading to the next.
        alpha_range: Also multiply by the ratios of AlphaDecay, between these two; empty for no.

    Returns:
        A transformation. Of its two states, if it has two, the last is the one that is logged.
    """

    def by_gradient(rate: float, params: optax.Params) -> optax.GradientTransformationExtraArgs:
        sizes = _module_sizes(params)
        return oad.alphadecay(
            rate,
            refresh_every=refresh_every,
            metric=lambda weights, gradients: _rms(gradients) / _rms(weights),
            assign=lambda scores: scores * jnp.nansum(sizes) / jnp.nansum(scores * sizes),
            modules=MODULES,
        )

    by_alpha = oad.alphadecay(rate, refresh_every=refresh_every, assign=oad.linear(*alpha_range), modules=MODULES)

    def init(params: optax.Params) -> Any:
        state = by_gradient(rate, params).init(params)
        return (tuple(state), by_alpha.init(params)) if alpha_range else state

    def update(updates: optax.Updates, state: Any, params: optax.Params, **extra: Any) -> tuple[optax.Updates, Any]:
        if not alpha_range:
            return by_gradient(rate, params).update(updates, state, params, **extra)
        # Weights times their ratios; alpha does not change if all weights of a module are multiplied by a number.
        zeros, extra = jax.tree.map(jnp.zeros_like, updates), {"gradients": updates, **extra}
        scaled, by_gradient_state = by_gradient(1.0, params).update(
            zeros, oad.AlphaDecayState(*state[0]), params, **extra
        )
        decayed, by_alpha_state = by_alpha.update(updates, state[1], scaled, **extra)
        return decayed, (tuple(by_gradient_state), by_alpha_state)

    return optax.GradientTransformationExtraArgs(init, update)


def fixed_ratios(
    rate: float | optax.Schedule, ratios: Mapping[str, float], *, mask: Any = None, cautious: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Builds a decay with a fixed ratio for each type of module, which a schedule may drive, and caution.

    Args:
        rate: The base rate.
        ratios: By the name of the layer that a module belongs to, such as `q_proj`; all else has ratio 1.
        mask: Which leaves are decayed, all modules among them; None: all leaves.
        cautious: Whether to leave out the weights that the update takes away from zero.

    Raises:
        ValueError: When it is first used, if a name is no layer of the blocks.
    """

    def decay(params: optax.Params) -> optax.GradientTransformationExtraArgs:
        kinds = kinds_of(params)
        check_kinds(ratios, kinds)
        by_module = jnp.array([ratios.get(kind, 1.0) for kind in kinds], jnp.float32)
        return oad.alphadecay(
            rate,
            refresh_every=_NEVER,
            metric=oad.frobenius_norm(),
            assign=lambda scores: by_module,
            modules=MODULES,
            mask=mask,
            cautious=cautious,
        )

    def init(params: optax.Params) -> Any:
        return decay(params).init(params)

    def update(updates: optax.Updates, state: Any, params: optax.Params, **extra: Any) -> tuple[optax.Updates, Any]:
        return decay(params).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _module_sizes(params: optax.Params) -> jax.Array:
    """Weights of every module, in the order of the state: leaf order, then the order of the stack."""
    counts: list[tuple[int, float]] = []
    for leaf, choice in module_leaves(params).values():
        k = modules_in(leaf, choice)
        counts.append((k, leaf.size / k))
    return jnp.array([size for k, size in counts for _ in range(k)], jnp.float32)


def _rms(stack: jax.Array) -> jax.Array:
    """Root mean square of every matrix of a stack."""
    return jnp.sqrt(jnp.mean(jnp.square(stack.astype(jnp.float32)), axis=(-2, -1)))


def alpha_over_random(weights: jax.Array, solver: Solver) -> jax.Array:
    """Alpha - 1, over what it is for a random matrix of the shape: 1 for all modules before the first step."""
    alphas = oad.pl_alpha_hill(solver=solver)(weights, weights)
    return (alphas - 1) / (oad.random_matrix_alpha(*weights.shape[1:]) - 1)


def farms(weights: jax.Array, solver: Solver) -> jax.Array:
    """Alpha of the eigenvalues of square sub-matrices, evenly placed along the longer side, all taken together."""
    stack = weights if weights.shape[1] <= weights.shape[2] else weights.swapaxes(1, 2)
    k, side, length = stack.shape
    count = -(-length // side)
    starts = np.linspace(0, length - side, count).round().astype(int)
    squares = jnp.stack([stack[:, :, start : start + side] for start in starts], axis=1)
    spectra = oad.eigenvalues(squares.reshape(k * count, side, side), solver=solver)
    return oad.median()(jnp.sort(spectra.reshape(k, count * side), axis=1))
