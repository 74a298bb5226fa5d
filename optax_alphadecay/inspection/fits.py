"""The power-law fits of a spectrum, with where their tails begin.

They are those of `optax_alphadecay.spectra.powerlaw` in NumPy and float64, which compile nothing for each new size.
"""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import NamedTuple

import numpy as np

from optax_alphadecay.spectra.powerlaw import CONSTANT_SPAN, NOISE_FLOOR, has_no_tail

_BINS = 100
_CUTOFFS_AT_ONCE = 64


class Fit(NamedTuple):
    """A power law fitted to a tail."""

    alpha: float
    """Its exponent; NaN where the spectrum does not determine one."""
    xmin: float
    """The eigenvalue where the tail begins."""
    ks_distance: float
    """Kolmogorov-Smirnov distance between the tail and the power law."""


class Fits(NamedTuple):
    """The three fits of one spectrum."""

    median: Fit
    """Of the upper half."""
    goodness_of_fit: Fit
    """From the cutoff with the smallest distance."""
    fix_finger: Fit
    """From the best cutoff near the peak of the density."""


_NONE = Fit(math.nan, math.nan, math.nan)


def fit_all(eigenvalues: np.ndarray, dtype: str = "float32") -> Fits:
    """Fit one spectrum in three ways.

    Args:
      eigenvalues: ascending, float64 ``[N]``.
      dtype: that the matrix was stored in.

    Returns:
      The fits that :func:`median`, :func:`goodness_of_fit` and :func:`fix_finger` make.
    """
    if len(eigenvalues) < 2 or not np.isfinite(eigenvalues).all() or eigenvalues[-1] <= 0:
        return Fits(_NONE, _NONE, _NONE)
    if has_no_tail(eigenvalues, dtype):  # type: ignore[arg-type]
        return Fits(_NONE, _NONE, _NONE)
    may_begin = _may_begin_tail(eigenvalues)
    may_begin[-1] = False
    first = int(np.argmax(may_begin)) if may_begin.any() else len(eigenvalues)
    tail = eigenvalues[first:]
    logs = np.log(tail / eigenvalues[-1])
    alphas = _hill(logs)
    distances = _distances(logs, alphas, may_begin[first:])

    def best(eligible: np.ndarray) -> Fit:
        if not eligible.any():
            return _NONE
        at = int(np.argmin(np.where(eligible, distances, np.inf)))
        return Fit(float(alphas[at]), float(tail[at]), float(distances[at]))

    at = np.arange(first, len(eigenvalues))
    half = len(eigenvalues) // 2
    is_flat = bool(has_no_tail(eigenvalues[half:], dtype))  # type: ignore[arg-type]
    is_median = (at == half) & may_begin[first:] & (not is_flat)
    peak = _density_peak(eigenvalues)
    near_peak = (tail >= 0.95 * peak) & (tail <= 1.5 * peak)
    usable = np.isfinite(distances)
    return Fits(best(is_median & usable), best(usable), best(near_peak & usable))


def _may_begin_tail(eigenvalues: np.ndarray) -> np.ndarray:
    """Mark the eigenvalues above the round-off of the largest and apart from it, as the library's fits do."""
    largest = eigenvalues[-1]
    marked: np.ndarray = (eigenvalues > NOISE_FLOOR * largest) & (largest - eigenvalues > CONSTANT_SPAN * largest)
    return marked


def _hill(logs: np.ndarray) -> np.ndarray:
    """Compute the Hill estimate from every cutoff on; infinity for the last."""
    in_tail = np.arange(len(logs), 0, -1)
    sums = np.cumsum(logs[::-1])[::-1] - in_tail * logs
    with np.errstate(divide="ignore"):
        return 1 + in_tail / np.maximum(sums, 0.0)


def _distances(logs: np.ndarray, alphas: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Compute the Kolmogorov-Smirnov distance of each eligible cutoff; infinity for the others."""
    n = len(logs)
    distances = np.full(n, np.inf)
    chosen = np.flatnonzero(eligible)
    for start in range(0, len(chosen), _CUTOFFS_AT_ONCE):
        cutoffs = chosen[start : start + _CUTOFFS_AT_ONCE, None]
        rank = np.arange(cutoffs[0, 0], n)[None] - cutoffs
        fitted = -np.expm1((1 - alphas[cutoffs]) * np.maximum(logs[None, cutoffs[0, 0] :] - logs[cutoffs], 0.0))
        gaps = np.where(rank >= 0, np.abs(fitted - rank / (n - cutoffs)), 0.0)
        distances[cutoffs[:, 0]] = gaps.max(axis=1)
    return distances


def _density_peak(eigenvalues: np.ndarray) -> float:
    """Find the left edge of the fullest of 100 bins in ``log10(lambda)``."""
    logs = np.log10(eigenvalues[eigenvalues > 0])
    low, span = logs[0], logs[-1] - logs[0]
    if span == 0:
        return float(eigenvalues[-1])
    bins = np.clip(np.floor((logs - low) / span * _BINS), 0, _BINS - 1).astype(int)
    fullest = int(np.argmax(np.bincount(bins, minlength=_BINS)))
    return float(10 ** (low + fullest * span / _BINS))
