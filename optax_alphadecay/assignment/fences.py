"""Fences: which scores lie so far from the others that they must not set the scale."""
# SPDX-License-Identifier: Apache-2.0

import numbers

import jax
import jax.numpy as jnp

OF_MAGNITUDE = 1.2
"""How far beyond the others a score must be, in the largest of their magnitudes. At initialisation the alpha of a
matrix of aspect ratio 8 is 2.11 times that of a square one, and both are ordinary."""


def check_fence(name: str, fence: float | None) -> None:
    """Raise a ValueError unless ``fence`` is None or a finite number of at least 1."""
    if fence is not None and not (isinstance(fence, numbers.Real) and 1 <= fence < float("inf")):
        raise ValueError(f"{name}: fence must be None or a finite number of at least 1, got {fence!r}.")


def within_fences(scores: jax.Array, fence: float | None) -> jax.Array:
    """Mark the scores that set the scale.

    Sort the scores by magnitude. A fence may stand behind the smallest ``k`` if each later score is larger in
    magnitude, and further away from all of them than ``fence`` times their span and than 1.2 times the largest of their
    magnitudes. The places of fences cut the scores into groups. The first group is kept. As long as a later group has
    more than half as many scores as are kept, everything up to the first such group is kept too. The rest are beyond
    the fence, unless they are more than a third of all scores: so many are no exception, and all scores are kept.

    Where fences stand, and what is kept, depends on no score beyond them: if ``x`` is beyond a fence, the scores
    without ``x`` keep exactly the same ones. Quartiles do not have this property, since they move with every score. And
    it depends on no order among equal magnitudes: scores of the opposite signs keep the same ones.

    Args:
      scores: float ``[n]``; those that are not finite are left out.
      fence: at least 1, so that groups are nested; None keeps all finite scores.

    Returns:
      bool ``[n]``, False for scores beyond a fence and for those that are not finite.
    """
    finite = jnp.isfinite(scores)
    if fence is None or scores.shape[0] < 3:  # of two groups of one score, neither is the smaller
        return finite
    order = jnp.lexsort((scores, jnp.where(finite, jnp.abs(scores), jnp.inf)))
    ends, sizes = _groups(scores[order], finite[order], fence)

    n = jnp.sum(finite, dtype=ends.dtype)

    def next_large_group(kept: jax.Array) -> jax.Array:
        """The end of the first group that is too large to be an exception; beyond ``n`` if there is none."""
        return jnp.min(ends, where=(ends > kept) & (2 * sizes > kept), initial=scores.shape[0] + 1)

    kept = jax.lax.while_loop(
        lambda kept: next_large_group(kept) <= n,
        next_large_group,
        jnp.min(ends, where=sizes > 0, initial=scores.shape[0]),
    )
    kept = jnp.where(3 * (n - kept) > n, n, kept)
    return finite & jnp.zeros_like(finite).at[order].set(jnp.arange(scores.shape[0]) < kept)


def kept_range(scores: jax.Array, fence: float | None) -> tuple[jax.Array, jax.Array]:
    """The lowest and the highest score within the fences; infinite ones if there is none."""
    within = within_fences(scores, fence)
    lowest = jnp.min(scores, where=within, initial=jnp.inf)
    return lowest, jnp.max(scores, where=within, initial=-jnp.inf)


def _groups(scores: jax.Array, finite: jax.Array, fence: float) -> tuple[jax.Array, jax.Array]:
    """Cut scores at the places of fences.

    Args:
      scores: float ``[n]`` by magnitude, those that are not finite last.
      finite: bool ``[n]``.
      fence: as in :func:`within_fences`.

    Returns:
      Where a fence stands behind a score: the number of scores before the fence, and the size of the group that ends
      there. 0 elsewhere.
    """
    low = jax.lax.cummin(jnp.where(finite, scores, jnp.inf))
    high = jax.lax.cummax(jnp.where(finite, scores, -jnp.inf))
    reach = jnp.maximum(fence * (high - low), OF_MAGNITUDE * jnp.maximum(-low, high))
    # Of the later scores, which are larger in magnitude: the nearest above and below.
    above = _later(jax.lax.cummin(jnp.where(finite & (scores >= 0), scores, jnp.inf), reverse=True), jnp.inf)
    below = _later(jax.lax.cummax(jnp.where(finite & (scores < 0), scores, -jnp.inf), reverse=True), -jnp.inf)
    magnitudes = jnp.abs(scores)
    is_last = finite & ~_later(finite, False)
    is_apart = (_later(magnitudes, jnp.inf) > magnitudes) & (above - high > reach) & (low - below > reach)
    fenced = is_last | (finite & is_apart)
    ends = jnp.where(fenced, jnp.arange(1, scores.shape[0] + 1), 0)
    previous = jnp.concatenate([jnp.zeros(1, ends.dtype), jax.lax.cummax(ends)[:-1]])
    return ends, jnp.where(fenced, ends - previous, 0)


def _later(values: jax.Array, last: float | bool) -> jax.Array:
    """Shift values one place to the front."""
    return jnp.concatenate([values[1:], jnp.full(1, last, values.dtype)])
