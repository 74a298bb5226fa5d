"""The paper's assignment, with fences around what sets its scale."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optax_alphadecay.assignment.fences import check_fence, kept_range, within_fences
from optax_alphadecay.assignment.protocol import Assignment, By, check_by, check_scores, over_mean
from optax_alphadecay.decay import check_positive


def linear(
    lo: float = 2 / 3,
    hi: float = 3.0,
    *,
    mean: float | None = None,
    by: By = "modules",
    fence: float | None = 2.0,
) -> Assignment:
    """Map scores linearly to ``[lo, hi]``, the paper's assignment.

    The lowest and the highest score set the scale, apart from scores beyond a fence: at most a third of all, which are
    further from all others than ``fence`` times the others' span, and than 1.2 times the largest of their magnitudes. A
    positive score is thus beyond it only if it is more than 2.2 times as large as all others. It gets the nearest end
    of the scale, and moves no other module's ratio: the others have, to the bit, the ratios that they have without that
    module.

    Args:
      lo: ratio of the module with the lowest score, the heaviest tail.
      hi: ratio of the module with the highest score, the lightest tail.
      mean: if given, all ratios are multiplied by one factor so that this is their mean; 1.0 decays as strongly as
        uniform decay. The ratios may then leave ``[lo, hi]``.
      by: what ``mean`` is over, ``"modules"`` or ``"weights"``, where each module counts by its size.
      fence: how far beyond the others a score must be, in spans of the others, at least 1. None: the paper's own rule,
        by which the lowest and the highest score always set the scale.

    Returns:
      An assignment. All ratios are 1 if all scores are equal, or only one is finite.

    Raises:
      ValueError: unless ``0 <= lo <= hi`` and both are finite; for a ``mean`` that is not positive, an unknown ``by``,
        ``by="weights"`` without a mean, or a fence below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.linear(0.5, 2.0)(jnp.array([2.0, 3.0, 4.0])))
      [0.5  1.25 2.  ]
      >>> print(oad.linear(0.5, 2.0)(jnp.array([2.0, 3.0, 4.0, 501.0])))
      [0.5  1.25 2.   2.  ]

    References:
      `AlphaDecay <https://arxiv.org/abs/2506.14562>`_, eq. 3.
    """
    if not all(isinstance(ratio, numbers.Real) for ratio in (lo, hi)):
        raise ValueError(f"linear: lo and hi must be numbers, got lo={lo!r} and hi={hi!r}; pass assign=linear().")
    if not (math.isfinite(lo) and math.isfinite(hi) and 0 <= lo <= hi):
        raise ValueError(f"linear: ratios must satisfy 0 <= lo <= hi and be finite, got lo={lo!r} and hi={hi!r}.")
    if mean is not None:
        check_positive("linear", "mean", mean)
        if hi == 0:
            raise ValueError(f"linear: no factor makes the mean of ratios of 0 mean={mean!r}; raise hi, got hi={hi!r}.")
    elif by == "weights":
        raise ValueError("linear: by='weights' says what a mean is over; give mean too, for instance mean=1.0.")
    check_by("linear", by)
    check_fence("linear", fence)
    return _Linear(lo, hi, mean, by, fence)


@dataclasses.dataclass(frozen=True)
class _Linear:
    lo: float
    hi: float
    mean: float | None
    by: By
    fence: float | None

    def __call__(self, scores: jax.Array, sizes: Sequence[int] | None = None) -> jax.Array:
        check_scores("linear", scores)
        lowest, highest = kept_range(scores, self.fence)
        span = highest - lowest
        share = (jnp.clip(scores, lowest, highest) - lowest) / jnp.where(span > 0, span, 1.0)
        ratios = share * (self.hi - self.lo) + self.lo
        end = jnp.where(scores > highest, self.hi, jnp.where(scores < lowest, self.lo, 1.0))
        ratios = jnp.where((span > 0) | ~jnp.isfinite(scores), ratios, end)
        return ratios if self.mean is None else self.mean * over_mean(ratios, self.by, sizes)

    def fenced(self, scores: jax.Array) -> jax.Array:
        """Mark the scores beyond a fence, bool ``[n]``."""
        return jnp.isfinite(scores) & ~within_fences(scores, self.fence)
