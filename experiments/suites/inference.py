"""Paired comparisons: intervals, tests, corrections for several of them, and how many seeds they need."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

SIGNIFICANCE = 0.05
"""Probability of calling a difference real that is not."""
MOST_SEEDS = 10_000
"""Where the search for a number of seeds gives up."""


class Contrast(NamedTuple):
    """The difference between two arms that were run with the same seeds."""

    n: int
    """Seeds that both arms have."""
    mean: float
    """Mean of the first arm minus the second."""
    deviation: float
    """Sample standard deviation of the differences (`n - 1` in the denominator); NaN for one seed."""
    low: float
    """Lower end of the confidence interval of the mean; -inf where it is not known."""
    high: float
    """Upper end."""
    p: float
    """Of the two-sided paired t-test; NaN for one seed."""


def contrast(first: Mapping[int, float], second: Mapping[int, float], confidence: float = 1 - SIGNIFICANCE) -> Contrast:
    """Compares two arms by a t-test that pairs their runs by seed.

    Args:
        first: Values by seed.
        second: The same of the other arm; seeds that only one has are left out.
        confidence: Of the interval.

    Returns:
        The contrast. If all differences are equal, the interval is that number, and p is 1 for 0 and else 0.

    Raises:
        ValueError: If no seed is in both.
    """
    seeds = sorted(set(first) & set(second))
    if not seeds:
        raise ValueError(f"no seed is in both arms: {sorted(first)} and {sorted(second)}.")
    differences = np.array([first[seed] - second[seed] for seed in seeds], dtype=np.float64)
    n, mean = len(seeds), float(differences.mean())
    if n == 1:
        return Contrast(n, mean, math.nan, -math.inf, math.inf, math.nan)
    deviation = float(differences.std(ddof=1))
    if deviation == 0:
        return Contrast(n, mean, 0.0, mean, mean, float(mean == 0))
    error = deviation / math.sqrt(n)
    half = error * float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1))
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, n - 1))
    return Contrast(n, mean, deviation, mean - half, mean + half, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p values of a family of tests by Holm's method, which bounds the chance of any false claim.

    Args:
        p_values: Of all tests of the family, in any order; NaN for a test that was not made, which counts as one.

    Returns:
        The corrected values in the same order, at most 1; NaN where the test was not made.

    References:
        Holm, `A simple sequentially rejective multiple test procedure <https://www.jstor.org/stable/4615733>`_, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
            corrected[i] = largest
    return corrected


def power(n: int, effect: float, deviation: float, significance: float = SIGNIFICANCE) -> float:
    """Probability that a two-sided paired t-test finds an effect.

    Args:
        n: Seeds, at least 2.
        effect: True mean of the differences.
        deviation: True standard deviation of the differences, in the same unit.
        significance: Of the test.

    Returns:
        Between `significance` (no effect) and 1.
    """
    freedom, shift = n - 1, abs(effect) / deviation * math.sqrt(n)
    critical = scipy.stats.t.ppf(1 - significance / 2, freedom)
    return float(scipy.stats.nct.sf(critical, freedom, shift) + scipy.stats.nct.cdf(-critical, freedom, shift))


def seeds_needed(effect: float, deviation: float, wanted: float = 0.8, significance: float = SIGNIFICANCE) -> int:
    """Fewest seeds with which a two-sided paired t-test finds an effect often enough.

    Args:
        effect: The smallest effect worth finding, not 0.
        deviation: Standard deviation of the differences between two arms with the same seed, in the same unit.
        wanted: Probability of finding the effect if it is there.
        significance: Of the test.

    Returns:
        At least 2.

    Raises:
        ValueError: If more than `MOST_SEEDS` are needed.
    """
    for n in range(2, MOST_SEEDS + 1):
        if power(n, effect, deviation, significance) >= wanted:
            return n
    raise ValueError(f"an effect of {effect} at a deviation of {deviation} needs more than {MOST_SEEDS} seeds.")
