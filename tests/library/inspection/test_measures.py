"""Spectra, fits and records against the library's own metrics, the recorded data, and float64 SVDs."""
# SPDX-License-Identifier: Apache-2.0

import json
import math
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection import spectra
from optax_alphadecay.inspection.fits import Fits, fit_all
from optax_alphadecay.inspection.ratios import linear_ratios
from optax_alphadecay.inspection.records import record
from optax_alphadecay.inspection.spectra import beyond_edge, measure, measure_product

DATA = pathlib.Path(__file__).parents[2] / "data"
RECORDED = json.loads((DATA / "synthetic_results.json").read_text())
# Where the authors' code and ours differ by design, as tests/library/test_reference.py has it.
DIFFERENT = {"rank10_of_64", "constant_32x32", "near_tied_large_64", "zero_rows_24_of_64"}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", [name for name in RECORDED if name not in DIFFERENT])
def test_alphas_are_those_that_the_authors_code_gave(name: str) -> None:
    with np.load(DATA / "synthetic_matrices.npz") as matrices:
        fits = fit_all(measure(matrices[name], shuffle=None).eigenvalues)
    for fit, recorded in ((fits.median, "median"), (fits.goodness_of_fit, "goodness-of-fit")):
        expected = RECORDED[name][f"{recorded}|filter_zeros=False|xmin_pos=2"].get("alpha", math.nan)
        if math.isfinite(expected):
            assert fit.alpha == pytest.approx(expected, rel=1e-4)


def test_fits_are_the_librarys() -> None:
    values = np.sort(rng(3).pareto(1.5, (12, 64)) + rng(4).uniform(0.1, 1.0, (12, 64)), axis=1)
    fits = [fit_all(row) for row in values]
    for own, of in (
        (oad.median(), "median"),
        (oad.goodness_of_fit(), "goodness_of_fit"),
        (oad.fix_finger(), "fix_finger"),
    ):
        alphas = [getattr(fit, of).alpha for fit in fits]
        np.testing.assert_allclose(alphas, own(jnp.asarray(values, jnp.float32)), rtol=1e-4)


def test_cutoff_and_distance_are_those_of_the_alpha() -> None:
    """Read off the definition, at the cutoff that was found."""
    values = np.sort(rng(5).pareto(1.2, 80) + 0.5)
    for fit in fit_all(values)[1:]:
        tail = values[values >= fit.xmin]
        assert fit.alpha == pytest.approx(1 + len(tail) / np.log(tail / fit.xmin).sum())
        gaps = np.abs(1 - (tail / fit.xmin) ** (1 - fit.alpha) - np.arange(len(tail)) / len(tail))
        assert fit.ks_distance == pytest.approx(gaps.max())


@pytest.mark.parametrize(
    "values",
    [np.ones(64), np.zeros(64), np.full(64, np.nan), np.array([1.0]), np.geomspace(1e-20, 1e-10, 2), np.eye(64)[-1]],
)
def test_spectra_without_an_alpha(values: np.ndarray) -> None:
    expected = float(oad.median()(jnp.asarray(values, jnp.float32))) if len(values) > 1 else math.nan
    assert math.isnan(fit_all(values).median.alpha) and math.isnan(expected)
    assert isinstance(fit_all(values), Fits)


def test_a_matrix_of_zeros_has_no_rank() -> None:
    module = record("w", (64, 96), "float32", measure(np.zeros((64, 96), np.float32), shuffle=rng()))
    undetermined = (module.alpha, module.stable_rank, module.entropy, module.alpha_fix_finger, module.alpha_hat)
    assert all(map(math.isnan, undetermined)), undetermined
    assert (module.frobenius_norm, module.spectral_norm, module.mp_edge) == (0, 0, 0)
    assert (module.beyond_edge, module.traps, module.note) == (0, 0, "")


def test_an_orthogonal_matrix_that_was_rounded_has_no_alpha() -> None:
    orthogonal = np.linalg.qr(rng().standard_normal((64, 64)))[0].astype(jnp.bfloat16)
    module = record("w", (64, 64), "bfloat16", measure(orthogonal, shuffle=None))
    assert math.isnan(module.alpha) and math.isnan(module.alpha_goodness_of_fit)


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (64, 64), (50, 5000)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn])
def test_spectrum_against_an_svd(shape: tuple[int, int], dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "_BLOCK", 3000)  # so that there are several blocks
    matrix: np.ndarray = rng().standard_normal(shape).astype(dtype)
    exact = matrix.astype(np.float64)
    spectrum = measure(matrix.copy(), shuffle=None)
    np.testing.assert_allclose(
        spectrum.eigenvalues, np.linalg.svd(exact, compute_uv=False)[::-1] ** 2, rtol=1e-8, atol=1e-9
    )
    assert spectrum.mean == pytest.approx(exact.mean()) and spectrum.stddev == pytest.approx(exact.std())
    assert spectrum.traps == -1


def test_an_accelerator_uses_the_librarys_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = rng().standard_normal((32, 48)).astype(np.float32)
    here = measure(matrix.copy(), shuffle=None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = measure(matrix.copy(), shuffle=None)
    np.testing.assert_allclose(there.eigenvalues, here.eigenvalues, rtol=1e-4)


def test_what_is_not_finite_is_nan() -> None:
    matrix = rng().standard_normal((32, 48))
    matrix[3, 4] = np.nan
    spectrum = measure(matrix, shuffle=rng())
    assert np.isnan(spectrum.eigenvalues).all() and math.isnan(spectrum.stddev) and spectrum.traps == -1
    module = record("w", (32, 48), "float64", spectrum)
    assert module.note == "holds NaN or infinity"
    assert all(math.isnan(value) for value in (module.alpha, module.alpha_hat, module.stable_rank, module.entropy))
    assert math.isnan(module.frobenius_norm) and module.beyond_edge == -1


def test_no_random_matrix_has_spikes_and_a_planted_one_is_found() -> None:
    """At most one in a thousand has one; the seeds are fixed."""
    counts = [measure(rng(seed).standard_normal((64, 96)), shuffle=rng(seed)) for seed in range(40)]
    assert [beyond_edge(one.eigenvalues, 64, 96, one.stddev) for one in counts] == [0] * 40
    assert [one.traps for one in counts] == [0] * 40

    noise = rng().standard_normal((64, 96))
    planted = noise + 4 * np.outer(rng(1).standard_normal(64), rng(2).standard_normal(96)) / math.sqrt(96)
    spectrum = measure(planted.copy(), shuffle=rng())
    assert beyond_edge(spectrum.eigenvalues, 64, 96, spectrum.stddev) == 1
    assert spectrum.traps == 0  # shuffled, the direction is gone

    noise[3, 4] = 60.0  # a single large entry survives the shuffling
    assert measure(noise, shuffle=rng()).traps == 1


def test_spread_of_the_edge_is_tracy_widoms() -> None:
    """Of white Wishart matrices, the largest eigenvalues have the tabulated 95 % and 99 % points 0.979 and 2.023."""
    m, n, draws = 32, 48, 2000
    largest = np.linalg.svd(rng(7).standard_normal((draws, m, n)), compute_uv=False)[:, 0] ** 2
    smaller, larger = math.sqrt(m), math.sqrt(n - 1)
    centre, spread = (smaller + larger) ** 2, (smaller + larger) * (1 / smaller + 1 / larger) ** (1 / 3)
    assert (largest > centre + 0.979 * spread).mean() == pytest.approx(0.05, abs=0.02)
    assert (largest > centre + 2.023 * spread).mean() == pytest.approx(0.01, abs=0.008)
    assert sum(beyond_edge(np.array([value]), m, n, 1.0) for value in largest) <= 10


def test_edges_of_vectors_are_not_crossed() -> None:
    assert beyond_edge(np.array([1e9]), 1, 1, 1.0) == 0


METRICS: dict[str, tuple[oad.Metric, Callable[[float], float]]] = {
    "alpha": (oad.pl_alpha_hill(), lambda value: value),
    "alpha_hat": (oad.alpha_hat(), lambda value: value),
    "spectral_norm": (oad.spectral_norm(), math.sqrt),
    "frobenius_norm": (oad.frobenius_norm(), math.sqrt),
    "stable_rank": (oad.stable_rank(), lambda value: value),
    "entropy": (oad.spectral_entropy(), lambda value: value),
}


@pytest.mark.parametrize("name", METRICS)
def test_records_agree_with_the_metrics(name: str) -> None:
    metric, of = METRICS[name]
    matrix = rng(8).standard_normal((64, 96)).astype(np.float32) / 8
    module = record("w", (64, 96), "float32", measure(matrix.copy(), shuffle=None))
    score = float(metric(jnp.asarray(matrix)[None], jnp.asarray(matrix)[None])[0])
    assert getattr(module, name) == pytest.approx(of(score), rel=1e-5)


def test_records_know_what_a_random_matrix_has() -> None:
    module = record("w", (64, 256), "float32", measure(rng().standard_normal((64, 256)), shuffle=rng()))
    assert module.random_alpha == oad.random_matrix_alpha(64, 256)
    assert module.mp_edge == pytest.approx(576, rel=0.02)
    assert (module.beyond_edge, module.traps) == (0, 0)


def test_product_of_factors_without_making_it() -> None:
    left, right = rng(1).standard_normal((40, 6)), rng(2).standard_normal((6, 30))
    spectrum = measure_product(left, right, 0.5)
    exact = np.linalg.svd(0.5 * left @ right, compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(spectrum.eigenvalues, exact[-6:], rtol=1e-9)
    assert math.isnan(spectrum.stddev) and spectrum.traps == -1


def test_ratios_are_those_of_the_assignment() -> None:
    """Among scores with groups far from the others, on either side, ties, and scores that are not finite."""
    assign, draw, fenced = jax.jit(oad.linear()), rng(), 0
    for size in (1, 2, 3, 4, 9):
        for _ in range(120):
            scores = draw.uniform(1.5, 3, size)
            far = draw.random(size) < draw.choice([0.0, 0.2, 0.4])
            scores[far] *= draw.choice([1.0, 2.1, 4.0, 30.0, -9.0], far.sum())
            scores[draw.random(size) < 0.1] = -scores[0]
            scores[draw.random(size) < 0.1] = draw.choice([np.nan, np.inf, -np.inf, 2.0])
            if draw.random() < 0.2:
                scores[draw.random(size) < 0.8] = 2.0  # with ties: one score between the fences, and others beyond
            found, expected = linear_ratios(scores), np.asarray(assign(jnp.array(scores, jnp.float32)))
            fenced += int(((expected == 3) | (expected == np.float32(2 / 3))).sum() > 2)
            np.testing.assert_allclose(found, np.where(np.isfinite(scores), expected, np.nan), rtol=2e-6)
    assert fenced > 20
    assert linear_ratios(np.array([])).shape == (0,)
    assert np.isnan(linear_ratios(np.full(4, np.nan))).all()
