"""All modules scored by one metric, here or spread over the devices of a mesh."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_alphadecay.distribution import AnyMesh, measure_sharded
from optax_alphadecay.grouping import map_groups, split
from optax_alphadecay.metrics import Metric, NormMetric, SpectralMetric, one_score_a_module


def measure(
    metric: Metric, weights: Sequence[jax.Array], gradients: Sequence[jax.Array], mesh: AnyMesh | None = None
) -> jax.Array:
    """Score all modules, float32 ``[n_modules]``.

    Args:
      metric: measures one stack.
      weights: one stack ``[k, m, n]`` for each leaf.
      gradients: the same.
      mesh: devices to measure on; None measures all modules here.

    Raises:
      ValueError: if the metric does not give one score for each module of a stack.
    """
    if not weights:
        return jnp.zeros((0,), jnp.float32)
    if mesh is not None and not isinstance(metric, NormMetric):
        return _measure_sharded(metric, weights, gradients, mesh)
    if isinstance(metric, SpectralMetric):
        return metric.of_stacks(weights)
    return jnp.concatenate([_score(metric, *stacks) for stacks in zip(weights, gradients, strict=True)])


def _measure_sharded(
    metric: Metric, weights: Sequence[jax.Array], gradients: Sequence[jax.Array], mesh: AnyMesh
) -> jax.Array:
    """Score all modules on all devices of the mesh."""
    is_spectral = isinstance(metric, SpectralMetric)
    operands: list[tuple[jax.Array, ...]]
    if is_spectral:
        # Spectra are invariant to transposition and zero padding, so that modules of several shapes share a stack.
        operands = [(_smaller_side_first(stack),) for stack in weights]
    else:
        operands = list(zip(weights, gradients, strict=True))

    def measure_share(share: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        if isinstance(metric, SpectralMetric):
            return [metric.of_stacks(stacks) for stacks in share]
        return [_score(metric, *stacks) for stacks in share]

    def measure_groups(groups: list[list[tuple[jax.Array, ...]]]) -> list[list[jax.Array]]:
        scores = measure_sharded(measure_share, [tuple(zip(*group, strict=True)) for group in groups], mesh)
        sizes = [[len(stacks[0]) for stacks in group] for group in groups]
        return list(map(split, scores, sizes))

    def size_class(stacks: tuple[jax.Array, ...]) -> tuple[Any, ...]:
        # Of one dtype: a stack of several would no longer tell in which ones its matrices were stored.
        size = _size_class(*stacks[0].shape[1:]) if is_spectral else stacks[0].shape[1:]
        return *size, stacks[0].dtype

    return jnp.concatenate(map_groups(measure_groups, operands, key=size_class))


def _size_class(m: int, n: int) -> tuple[int, int]:
    """Return the number of eigenvalues, and the aspect ratio as a power of 8, which bounds the padding."""
    return min(m, n), ((max(m, n) // min(m, n)).bit_length() - 1) // 3


def _smaller_side_first(stack: jax.Array) -> jax.Array:
    return stack if stack.shape[1] <= stack.shape[2] else stack.swapaxes(1, 2)


def _score(metric: Metric, weights: jax.Array, gradients: jax.Array) -> jax.Array:
    return one_score_a_module(metric, metric(weights, gradients), weights.shape)
