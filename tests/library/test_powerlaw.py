"""The three fits against plain float64 loops, and on samples of known power laws."""
# SPDX-License-Identifier: Apache-2.0

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.spectra.powerlaw import _density_peak, has_no_tail


def hill(values: np.ndarray, cutoff: int) -> float:
    tail = values[cutoff:]
    return 1 + len(tail) / sum(math.log(value / values[cutoff]) for value in tail)


def best(values: np.ndarray, cutoffs: list[int]) -> float:
    """Scan over cutoffs with the Kolmogorov-Smirnov distance, written out."""
    distance = {}
    for i in cutoffs:
        alpha, n = hill(values, i), len(values) - i
        distance[i] = max(abs(1 - (values[i + j] / values[i]) ** (1 - alpha) - j / n) for j in range(n))
    return hill(values, min(distance, key=distance.__getitem__))


def spectra(count: int = 4, n: int = 61) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.sort(rng.pareto(1.5, (count, n)) + rng.uniform(0.1, 1.0, (count, n)), axis=1)


def test_median_against_a_loop() -> None:
    values = spectra()
    expected = [hill(row, len(row) // 2) for row in values]
    np.testing.assert_allclose(oad.median()(jnp.asarray(values, jnp.float32)), expected, rtol=1e-5)


def test_goodness_of_fit_against_a_loop() -> None:
    values = spectra()
    expected = [best(row, list(range(len(row) - 1))) for row in values]
    np.testing.assert_allclose(oad.goodness_of_fit()(jnp.asarray(values, jnp.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize("authors_bound", [False, True])
@pytest.mark.parametrize("scale", [0.05, 1.0, 300.0])
def test_fix_finger_against_a_loop(authors_bound: bool, scale: float) -> None:
    values = spectra() * scale
    expected = []
    for row in values:
        counts, edges = np.histogram(np.log10(row), bins=100)
        peak = 10 ** edges[np.argmax(counts)]
        lowest = math.log10(0.95 * peak) if authors_bound else 0.95 * peak
        expected.append(best(row, [i for i in range(len(row) - 1) if lowest <= row[i] <= 1.5 * peak]))
    fit = oad.fix_finger(authors_bound=authors_bound)
    np.testing.assert_allclose(fit(jnp.asarray(values, jnp.float32)), expected, rtol=1e-4)


def test_authors_bound_lets_cutoffs_below_the_peak_in() -> None:
    """With 0.95 x <= 1 the logarithm is negative and bounds nothing; the two options then differ."""
    values = jnp.asarray(spectra(8) * 0.05, jnp.float32)
    assert (oad.fix_finger()(values) != oad.fix_finger(authors_bound=True)(values)).any()


@pytest.mark.parametrize("alpha", [1.8, 3.0, 5.0])
def test_fits_recover_a_pure_power_law(alpha: float) -> None:
    n = 400
    quantiles = (np.arange(n) + 0.5) / n
    values = jnp.asarray((1 - quantiles) ** (-1 / (alpha - 1)), jnp.float32)
    assert float(oad.median()(values)) == pytest.approx(alpha, rel=0.03)
    assert float(oad.goodness_of_fit()(values)) == pytest.approx(alpha, rel=0.03)


@pytest.mark.parametrize(
    "fit", [oad.median(), oad.goodness_of_fit(), oad.fix_finger()], ids=["median", "gof", "finger"]
)
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(8),
        np.full(8, 3.0),
        np.r_[np.zeros(7), 1.0],
        np.r_[np.ones(7), np.nan],
        np.r_[np.ones(7), np.inf],
        [2.0],
    ],
    ids=["zero", "constant", "rank one", "nan", "inf", "single"],
)
def test_spectra_without_a_tail_have_no_alpha(fit: oad.Fit, values: np.ndarray) -> None:
    assert math.isnan(float(fit(jnp.asarray(values, jnp.float32))))


def test_round_off_around_a_constant_is_no_tail() -> None:
    values = jnp.asarray(np.sort(1 + 2e-7 * np.random.default_rng(0).normal(size=64)), jnp.float32)
    assert math.isnan(float(oad.median()(values)))


def test_leading_axes_are_kept_and_jit_agrees() -> None:
    values = jnp.asarray(spectra(6), jnp.float32).reshape(2, 3, -1)
    for fit in (oad.median(), oad.goodness_of_fit(), oad.fix_finger()):
        alphas = jax.jit(fit)(values)
        assert alphas.shape == (2, 3)
        np.testing.assert_allclose(alphas[1, 2], fit(values[1, 2]), rtol=1e-6)


EPSILON = 2.0**-23


def median_of(*values: float) -> float:
    return float(oad.median()(jnp.array(values, jnp.float32)))


def test_a_tail_begins_above_eight_epsilons_of_the_largest_eigenvalue() -> None:
    assert math.isnan(median_of(0, 0, 8 * EPSILON, 1))
    assert median_of(0, 0, 8.1 * EPSILON, 1) == pytest.approx(1 + 2 / -math.log(8.1 * EPSILON), rel=1e-5)


def test_a_tail_spreads_more_than_the_root_of_epsilon() -> None:
    span = math.sqrt(EPSILON)
    assert math.isnan(median_of(0, 0, 4 - 3.9 * span, 4))
    assert median_of(0, 0, 4 - 4.1 * span, 4) == pytest.approx(1 + 2 / (1.025 * span), rel=2e-3)


@pytest.mark.parametrize(("dtype", "epsilon"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10), ("float32", 2.0**-23)])
def test_rounding_spreads_equal_eigenvalues_over_two_epsilons(dtype: str, epsilon: float) -> None:
    spectra = jnp.array([[4, 4], [4 - 8 * epsilon, 4], [4 - 16 * epsilon, 4], [0, 0]], jnp.float32)
    np.testing.assert_array_equal(has_no_tail(spectra, dtype), [True, True, False, True])


def test_density_has_its_peak_at_the_left_edge_of_the_fullest_bin() -> None:
    """With eigenvalues from 1 to 100 a bin is as wide as a factor of 10^0.02; those that are not positive have none."""
    spectra = [[1, 1, 1, 1, 100], [1, 2, 99, 100, 100], [1, 2, 10.2, 10.3, 100], [-1, 0, 1, 1, 100]]
    peaks = _density_peak(jnp.array(spectra, jnp.float32))
    np.testing.assert_allclose(peaks, [1, 10**1.98, 10, 1], rtol=1e-5)


def test_fix_finger_may_cut_at_the_upper_end_of_its_window() -> None:
    """The fullest bin begins at 1, exactly, so the window ends at 1.5, where a Pareto tail of alpha 3 begins."""
    tail = 1.5 * np.linspace(1, 0, 40, endpoint=False) ** -0.5
    spectrum = np.concatenate([np.linspace(1, 1.02, 30), np.linspace(1.03, 1.45, 8), tail])
    assert float(oad.fix_finger()(jnp.asarray(spectrum, jnp.float32))) == pytest.approx(
        1 + len(tail) / np.log(tail / 1.5).sum(), rel=1e-4
    )


@pytest.mark.parametrize("fit", [oad.goodness_of_fit(), oad.fix_finger()], ids=["gof", "finger"])
def test_eigenvalues_that_are_not_positive_change_nothing(fit: oad.Fit) -> None:
    values = spectra(2)
    with_zeros = np.concatenate([np.full((2, 1), -1e-7), np.zeros((2, 2)), values], axis=1)
    found = fit(jnp.asarray(with_zeros, jnp.float32))
    np.testing.assert_allclose(found, fit(jnp.asarray(values, jnp.float32)), rtol=1e-5)
