"""Contrasts, Holm's correction and power, against SciPy and statsmodels."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from experiments.suites.inference import contrast, holm, power, seeds_needed


@pytest.mark.parametrize("n", [2, 5, 24])
def test_contrast_is_the_paired_t_test(n: int) -> None:
    first, second = np.random.default_rng(n).normal(size=(2, n)) * 0.02 + 3
    found = contrast(dict(enumerate(first)), dict(enumerate(second)))
    expected = scipy.stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.n == n
    np.testing.assert_allclose(found.mean, np.mean(first) - np.mean(second), rtol=1e-9)
    np.testing.assert_allclose((found.p, found.low, found.high), (expected.pvalue, *interval), rtol=1e-9)
    np.testing.assert_allclose(found.deviation, np.std(first - second, ddof=1), rtol=1e-9)


def test_contrast_pairs_by_seed_and_leaves_out_the_rest() -> None:
    found = contrast({3: 1.0, 1: 2.0, 9: 50.0}, {1: 1.5, 3: 0.4, 7: -50.0})
    assert found.n == 2
    np.testing.assert_allclose(found.mean, 0.55)


def test_contrast_without_spread() -> None:
    assert contrast({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1
    apart = contrast({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0})
    assert (apart.p, apart.low, apart.high) == (0, 0.5, 0.5)
    alone = contrast({0: 1.5}, {0: 1.0})
    assert alone.mean == 0.5
    assert math.isnan(alone.p)
    assert (alone.low, alone.high) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match=r"no seed is in both arms: \[0\] and \[1\]"):
        contrast({0: 1.0}, {1: 1.0})


def test_holm_is_that_of_statsmodels() -> None:
    p_values = np.random.default_rng(0).uniform(0, 0.2, 7).tolist()
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)


def test_a_test_that_was_not_made_still_counts_in_holm() -> None:
    corrected = holm([0.04, math.nan, 0.01])
    np.testing.assert_allclose(corrected, [0.08, math.nan, 0.03])


@pytest.mark.parametrize(("n", "effect"), [(2, 0.01), (5, 0.026), (24, 0.01), (60, 0.0)])
def test_power_is_that_of_statsmodels(n: int, effect: float) -> None:
    expected = TTestPower().power(effect / 0.027, n, 0.05)
    np.testing.assert_allclose(power(n, effect, 0.027), expected, rtol=1e-7)


@pytest.mark.parametrize("deviation", [0.027, 0.015, 0.006])
def test_seeds_needed_are_the_fewest(deviation: float) -> None:
    n = seeds_needed(0.01, deviation)
    assert n == math.ceil(TTestPower().solve_power(0.01 / deviation, power=0.8, alpha=0.05))


def test_an_effect_too_small_to_find_is_refused() -> None:
    with pytest.raises(ValueError, match="effect of 1e-06 at a deviation of 1 needs more than"):
        seeds_needed(1e-6, 1)
