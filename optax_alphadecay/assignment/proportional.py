"""Assignments with mean 1: ratios in proportion to a function of the scores."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optax_alphadecay.assignment.fences import check_fence, kept_range, within_fences
from optax_alphadecay.assignment.protocol import Assignment, By, check_by, check_scores, over_mean


def proportional(power: float = 1.0, *, by: By = "modules", fence: float | None = 2.0) -> Assignment:
    """Make ratios proportional to a power of the scores, with mean 1.

    Nearly equal scores get nearly equal ratios: 2.00, 2.01 and 2.02 get 0.995, 1 and 1.005, where :func:`linear`
    spreads whatever differs, be it noise, over its whole range.

    Args:
      power: the larger, the further apart the ratios; negative gives low scores the high ratios.
      by: what the mean is over, ``"modules"`` or ``"weights"``, where each module counts by its size.
      fence: see :func:`linear`. A score beyond it counts as the nearest one within.

    Returns:
      An assignment. A score of 0 or less refuses its module.

    Raises:
      ValueError: for a power that is not finite, an unknown ``by`` or a fence below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.proportional()(jnp.array([2.0, 3.0, 4.0])).round(4))
      [0.6667 1.     1.3333]
    """
    if not isinstance(power, numbers.Real) or not math.isfinite(power):
        raise ValueError(f"proportional: power must be finite, got {power!r}.")
    check_by("proportional", by)
    check_fence("proportional", fence)
    return _Proportional(power, by, fence)


@dataclasses.dataclass(frozen=True)
class _Proportional:
    power: float
    by: By
    fence: float | None

    def __call__(self, scores: jax.Array, sizes: Sequence[int] | None = None) -> jax.Array:
        check_scores("proportional", scores)
        scores = _positive(scores)
        lowest, highest = kept_range(scores, self.fence)
        # Over the highest, so that no power leaves the range of float32.
        relative = jnp.clip(scores, lowest, highest) / highest
        return over_mean(relative**self.power, self.by, sizes)

    def fenced(self, scores: jax.Array) -> jax.Array:
        """Mark the scores beyond a fence, bool ``[n]``."""
        scores = _positive(scores)
        return jnp.isfinite(scores) & ~within_fences(scores, self.fence)


def sqrt() -> Assignment:
    """Make ratios proportional to the square root of the scores, with mean 1.

    Returns:
      An assignment: ``n sqrt(s_i) / sum_j (sqrt(s_j) + 1e-8)``. A negative score refuses its module.
    """
    return lambda scores: _one_if_all_equal(scores, _share(jnp.sqrt(scores)))


def log2() -> Assignment:
    """Make ratios proportional to the binary logarithm of the scores, with mean 1.

    Returns:
      An assignment: ``n log2(s_i) / sum_j (log2(s_j) + 1e-8)``. Scores below 1 get a negative ratio, that is growth
      instead of decay; a score of 0 or less refuses its module.
    """
    return lambda scores: _one_if_all_equal(scores, _share(jnp.log2(scores)))


def _positive(scores: jax.Array) -> jax.Array:
    return jnp.where(scores > 0, scores, jnp.nan)


def _share(values: jax.Array) -> jax.Array:
    """Divide values by the mean of the finite ones; 1e-8 as in the authors' code."""
    values = jnp.where(jnp.isfinite(values), values, jnp.nan)
    return values / jnp.nanmean(values + 1e-8)


def _one_if_all_equal(scores: jax.Array, ratios: jax.Array) -> jax.Array:
    """Replace ratios by 1, the base decay, if all scores are equal."""
    all_equal = jnp.nanmax(scores) == jnp.nanmin(scores)
    return jnp.where(all_equal & jnp.isfinite(scores), 1.0, ratios)
