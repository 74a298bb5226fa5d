"""The default assignment in NumPy against examples by hand; test_measures.py holds it to `linear()`."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from optax_alphadecay.inspection.ratios import linear_ratios

# From the lowest ratio, 2 / 3, to the highest, 3, how far a ratio of 1 lies.
ONE = 1 / 7

# Scores, and how far from the lowest ratio to the highest theirs lie.
EXAMPLES: dict[str, tuple[list[float], list[float]]] = {
    "none": ([], []),
    "all not finite": ([math.nan, -math.inf, math.nan], [math.nan, math.nan, math.nan]),
    "one": ([2.0], [ONE]),
    "two, however far apart": ([1, 10], [0, 1]),
    "equal": ([2, 2, 2], [ONE, ONE, ONE]),
    "between lowest and highest": ([3, 1, 2], [1, 0, 1 / 2]),
    "of two signs": ([-1, 1, 0], [0, 1, 1 / 2]),
    "not finite": ([1, math.nan, 2, math.inf], [0, math.nan, 1, math.nan]),
    "two finite of four, far apart": ([1, math.nan, 10, math.inf], [0, math.nan, 1, math.nan]),
    # A fence stands behind 3 at twice the span or 1.2 times 3, which is 3.6.
    "just within the fence by magnitude": ([2, 2.5, 3, 6.59], [0, 0.5 / 4.59, 1 / 4.59, 1]),
    "just beyond the fence by magnitude": ([2, 2.5, 3, 6.61], [0, 1 / 2, 1, 1]),
    # Behind 1 at twice the span from -1 to 1, which is 4.
    "just within the fence by span": ([-1, 0, 1, 4.9], [0, 1 / 5.9, 2 / 5.9, 1]),
    "just beyond the fence by span": ([-1, 0, 1, 5.1], [0, 1 / 2, 1, 1]),
    "below the fence": ([-1, 0, 1, -5.1], [0, 1 / 2, 1, 0]),
    "negative, beyond the fence": ([-2, -2.5, -3, -6.61], [1, 1 / 2, 0, 0]),
    "negative, within the fence": ([-2, -2.5, -3, -6.59], [1, 4.09 / 4.59, 3.59 / 4.59, 0]),
    "beyond the fence below small ones": ([0.1, 0.11, -0.9], [0, 1, 0]),
    "beyond on both sides": ([2, 2, 2, 2, 9, -9], [ONE, ONE, ONE, ONE, 1, 0]),
    # A group of more than half as many as are kept is kept too; one of just half is not.
    "in a group of half as many": ([1, 2, 100], [0, 1, 1]),
    "in large groups": ([1, 2, 100, 101, 10_000], [0, 0.01, 0.99, 1, 1]),
    # If more than a third are beyond the fence, all are kept.
    "a third": ([1, 2, 1.5, 2, 100, 101], [0, 1, 1 / 2, 1, 1, 1]),
    "more than a third": (
        [0, 2, 1, 2, 2, 100, 1000, 10_000],
        [0, 0.0002, 0.0001, 0.0002, 0.0002, 0.01, 0.1, 1],
    ),
    "as large with the other sign": ([2.1, 2.2, 2.3, -2.3], [4.4 / 4.6, 4.5 / 4.6, 1, 0]),
}


def ratios_at(shares: list[float], lo: float = 2 / 3, hi: float = 3.0) -> np.ndarray:
    return lo + np.array(shares) * (hi - lo)


@pytest.mark.parametrize("name", EXAMPLES)
def test_ratios_of_scores_that_are(name: str) -> None:
    scores, shares = EXAMPLES[name]
    for order in (slice(None), slice(None, None, -1)):
        found = linear_ratios(np.array(scores)[order])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, ratios_at(shares)[order], rtol=1e-5)


def test_settings_of_ones_own() -> None:
    """With a fence at three times the span, 5.1 is not beyond it."""
    scores = np.array([-1, 0, 1, 5.1])
    np.testing.assert_allclose(
        linear_ratios(scores, 0.5, 2.5, 3.0), ratios_at([0, 1 / 6.1, 2 / 6.1, 1], 0.5, 2.5), rtol=1e-5
    )
