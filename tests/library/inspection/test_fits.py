"""Power-law fits against small spectra by hand, and others by their definition."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from optax_alphadecay.inspection.fits import Fit, Fits, fit_all

LN2 = math.log(2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def from_cutoff(values: np.ndarray, at: int) -> Fit:
    """Hill's alpha of the tail from one cutoff on, and its largest gap to the power law, one eigenvalue at a time."""
    tail = [float(value) for value in values[at:]]
    alpha = 1 + len(tail) / sum(math.log(value / tail[0]) for value in tail)
    gaps = [abs(1 - (value / tail[0]) ** (1 - alpha) - rank / len(tail)) for rank, value in enumerate(tail)]
    return Fit(alpha, tail[0], max(gaps))


def by_definition(values: np.ndarray) -> Fits:
    """The three fits, among cutoffs above float32's round-off of the largest eigenvalue and apart from it."""
    largest = values[-1]
    begins = [at for at, value in enumerate(values) if 2**-20 * largest < value < largest - 2**-11.5 * largest]
    counts, edges = np.histogram(np.log10(values[values > 0]), bins=100)
    peak = 10 ** edges[np.argmax(counts)]

    def best(cutoffs: list[int]) -> Fit:
        fits = [from_cutoff(values, at) for at in cutoffs]
        return min(fits, key=lambda fit: fit.ks_distance, default=Fit(math.nan, math.nan, math.nan))

    return Fits(
        best([at for at in begins if at == len(values) // 2]),
        best(begins),
        best([at for at in begins if 0.95 * peak <= values[at] <= 1.5 * peak]),
    )


def check(values: np.ndarray, expected: Fits, dtype: str = "float32") -> None:
    np.testing.assert_allclose(fit_all(values, dtype), expected, rtol=1e-9)


NONE = Fit(math.nan, math.nan, math.nan)


@pytest.mark.parametrize("scale", [1.0, 1 / 1024, 1024.0])
def test_powers_of_two(scale: float) -> None:
    """Cutoffs 1, 2 and 4 have the alphas 1 + 4 / 6 ln 2, 1 + 3 / 3 ln 2 and 1 + 2 / ln 2."""
    of_first = Fit(1 + 2 / (3 * LN2), scale, 0.75 - math.exp(-2 / 3))  # 1 - 2^(1 - alpha) - 1 / 4
    of_third = Fit(1 + 2 / LN2, 4 * scale, 0.5 - math.exp(-2))
    check(scale * np.array([1.0, 2, 4, 8]), Fits(of_third, of_first, of_first))


def test_two_eigenvalues() -> None:
    """The upper half is the largest alone."""
    only = Fit(3, 1, 0.5 - math.exp(-2))
    check(np.array([1, math.e]), Fits(NONE, only, only))
    check(np.array([1.0]), Fits(NONE, NONE, NONE))


def test_the_fullest_bin_may_be_the_last() -> None:
    """That of 7.9 and 8: the left edge is 7.835, and 8 begins no tail."""
    values = np.array([1, 2, 7.9, 8])
    check(values, Fits(from_cutoff(values, 2), from_cutoff(values, 0), from_cutoff(values, 2)))


@pytest.mark.parametrize(
    ("values", "best", "in_window"),
    [
        # The peak is 1, and 1.5 is still in the window; 2 would be better.
        ([1, 1.0001, 1.0002, 1.0003, 1.5, 2, 2.4, 2.5, 2.6, 3.4, 5.9, 22.3], 5, 4),
        # The peak is 1.983, the window 1.884 to 2.975; 0.96 would be better.
        ([0.96, 1.1, 1.15, 1.48, 1.56, 2, 2.0001, 2.0002, 2.01, 2.97, 3.49, 4.22], 0, 9),
    ],
)
def test_the_window_at_the_peak_has_its_bounds(values: list[float], best: int, in_window: int) -> None:
    of = np.array(values)
    check(of, Fits(fit_all(of).median, from_cutoff(of, best), from_cutoff(of, in_window)))


def test_no_tail_begins_in_the_noise_or_at_the_top() -> None:
    """2^-20 of the largest is noise, a little more is not; what differs from it by 2^-12 of it is a tie."""
    for smallest, begins in ((2**-20, False), (1.01 * 2**-20, True)):
        values = 4 * np.array([smallest, 0.5, 1])
        found = fit_all(values).fix_finger
        assert found == (pytest.approx(from_cutoff(values, 0), rel=1e-9) if begins else NONE)
    for span, alpha in ((2**-12, math.nan), (2**-11, 1 - 2 / math.log1p(-(2**-11)))):
        assert fit_all(np.array([0.25, 0.5, 1 - span, 1])).median.alpha == pytest.approx(alpha, nan_ok=True)


def test_flat_upper_halves_have_no_median_alpha() -> None:
    """Equal up to the rounding to bfloat16: they differ by less than twice its epsilon of 2^-7."""
    values = np.array([1, 2, 4, 4.03])
    check(values, by_definition(values))
    check(values, by_definition(values)._replace(median=NONE), "bfloat16")
    check(values[2:], Fits(NONE, NONE, NONE), "bfloat16")


# Of a power law with an alpha of 17 / 7, the largest so that it is Hill's alpha: the distance is less than a 40th.
QUANTILES = (1 - np.arange(40) / 40) ** -0.7
QUANTILES[-1] *= math.exp(0.7 * 40 - np.log(QUANTILES).sum())
SPECTRA = {
    "has an odd number of eigenvalues": rng(1).pareto(1.2, 7) + 0.5,
    "has several blocks of cutoffs": rng(2).pareto(1.5, 201) + 0.3,
    "has its best cutoff late": np.append(rng(3).uniform(0.5, 1, 140), 1.2 * np.geomspace(1, 40, 60)),
    "has its best cutoff in the middle": np.append(rng(9).uniform(0.1, 1, 70), 1 + rng(10).pareto(2, 90)),
    "is a power law above its two smallest": np.append([0.7, 0.8], QUANTILES),
    "has its best cutoff second": np.array([0.01, 1, 2, 4, 8, 16]),
    "is of low rank": np.append(np.zeros(60), rng(4).pareto(1.5, 70) + 0.1),
    "has noise, of either sign": np.concatenate(
        [-1e-12 * rng(5).random(20), 1e-9 * rng(6).random(20), rng(7).random(60)]
    ),
    "has ties at the top": np.append(rng(8).random(50), 2 + 1e-5 * np.arange(5)),
    "is a rank of one": np.array([0.0, 0, 0, 5]),
    "has its peak among small ones": np.append(np.geomspace(0.001, 0.1, 5), [2, 2.0001, 2.0002, 2.3, 2.9, 3.5, 5, 9]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_fits_are_as_defined_where_the_spectrum(name: str) -> None:
    values = np.sort(SPECTRA[name])
    expected = by_definition(values)
    check(values, expected)
    assert fit_all(7 * values).goodness_of_fit.alpha == pytest.approx(
        expected.goodness_of_fit.alpha, rel=1e-9, nan_ok=True
    )


def test_what_is_not_finite_or_positive_has_no_fit() -> None:
    for values in ([1.0, 2, 4, math.inf], [math.nan, 2, 4, 8], [-4.0, -2, -1], [0.0, 0, 0]):
        check(np.array(values), Fits(NONE, NONE, NONE))
