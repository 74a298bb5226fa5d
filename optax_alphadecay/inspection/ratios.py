"""The default assignment, `linear()`, in NumPy: compiling it for each number of modules costs more than all else."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from optax_alphadecay.assignment.fences import OF_MAGNITUDE


def linear_ratios(scores: np.ndarray, lo: float = 2 / 3, hi: float = 3.0, fence: float = 2.0) -> np.ndarray:
    """Compute the ratios that :func:`linear` gives.

    Args:
      scores: float ``[n]``, in any order; those that are not finite get NaN.
      lo: ratio of the lowest score.
      hi: ratio of the highest.
      fence: how far beyond the others a score must be not to set the scale.

    Returns:
      float32 ``[n]``.
    """
    scores = scores.astype(np.float32)
    kept = scores[np.isfinite(scores)] if len(scores) < 3 else _kept(scores[np.isfinite(scores)], fence)
    ratios = np.full(len(scores), np.nan, np.float32)
    if len(kept) == 0:
        return ratios
    lowest, highest = kept.min(), kept.max()
    if highest > lowest:
        share = (np.clip(scores, lowest, highest) - lowest) / (highest - lowest)
        ratios = share * np.float32(hi - lo) + np.float32(lo)
    else:
        ratios = np.where(scores > highest, hi, np.where(scores < lowest, lo, 1.0)).astype(np.float32)
    return np.where(np.isfinite(scores), ratios, np.float32(np.nan))


def _kept(scores: np.ndarray, fence: float) -> np.ndarray:
    """Leave out finite scores beyond a fence, as :func:`optax_alphadecay.assignment.fences.within_fences` does."""
    n = len(scores)
    if n == 0:
        return scores
    scores = scores[np.lexsort((scores, np.abs(scores)))]
    low, high = np.minimum.accumulate(scores), np.maximum.accumulate(scores)
    reach = np.maximum(np.float32(fence) * (high - low), np.float32(OF_MAGNITUDE) * np.maximum(-low, high))
    above, below = np.where(scores >= 0, scores, np.inf), np.where(scores < 0, scores, -np.inf)
    above = np.append(np.minimum.accumulate(above[::-1])[::-1][1:], np.inf)
    below = np.append(np.maximum.accumulate(below[::-1])[::-1][1:], -np.inf)
    is_larger = np.diff(np.abs(scores), append=np.inf) > 0
    fenced = is_larger & (above - high > reach) & (low - below > reach)
    fenced[-1] = True
    ends = np.flatnonzero(fenced) + 1
    sizes = np.diff(ends, prepend=0)
    kept = int(ends[0])
    while len(large := ends[(ends > kept) & (2 * sizes > kept)]):
        kept = int(large[0])
    return scores if 3 * (n - kept) > n else scores[:kept]
