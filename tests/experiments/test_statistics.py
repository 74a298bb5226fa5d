"""Means, deviations and paired t-tests, against the textbook; runs grouped over seeds, failures and gaps included."""
# SPDX-License-Identifier: Apache-2.0

import math
import statistics as textbook

import pytest

from experiments.report.statistics import (
    ACCURACY,
    PERPLEXITY,
    Cell,
    Comparison,
    Measure,
    best_of,
    compare,
    group,
    summarise,
    verdict,
)
from experiments.suites.identity import name_of
from experiments.suites.scales import SCALES
from tests.experiments.invented_results import invent, outcome, runs_of


def cell(label: str, *losses: float | None) -> Cell:
    finals = {
        seed: outcome(final={} if loss is None else {"loss": loss, "perplexity": loss})
        for seed, loss in enumerate(losses)
    }
    return Cell({"method": label}, {seed: f"{label}-{seed}" for seed in finals}, finals)


def test_a_summary_is_the_mean_and_the_sample_deviation() -> None:
    values = {0: 3.25, 1: 3.5, 4: 3.125}
    summary = summarise(values)
    assert summary is not None and summary.n == 3
    assert summary.mean == pytest.approx(textbook.mean(values.values()))
    assert summary.std == pytest.approx(textbook.stdev(values.values()))
    assert summarise({3: 2.0}) == (1, 2.0, None)
    assert summarise({}) is None


def test_a_t_test_pairs_runs_by_seed() -> None:
    ours = {0: 2.0, 1: 4.0, 2: 9.0, 7: 100.0}
    others = {2: 6.0, 1: 2.0, 0: 1.0, 8: -100.0}
    comparison = compare(ours, others)
    assert comparison is not None and comparison.p is not None
    # Differences 1, 2, 3: t = 2 sqrt(3) with two degrees of freedom, whose distribution has a closed form.
    t = 2 * math.sqrt(3)
    assert (comparison.n, comparison.difference) == (3, 2.0)
    assert comparison.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    # Its 97.5 % quantile is 4.302653 (any table of t); the standard error of the mean difference is 1 / sqrt(3).
    half = 4.302653 / math.sqrt(3)
    assert comparison.interval == pytest.approx((2 - half, 2 + half), rel=1e-6)


@pytest.mark.parametrize(
    ("ours", "others", "expected"),
    [
        ({0: 1.0}, {0: 3.0}, Comparison(1, -2.0, None)),
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, Comparison(2, 0.0, None)),
        ({0: 1.0}, {1: 3.0}, None),
        ({}, {}, None),
    ],
)
def test_what_cannot_be_tested_has_no_p(
    ours: dict[int, float], others: dict[int, float], expected: Comparison | None
) -> None:
    assert compare(ours, others) == expected


@pytest.mark.parametrize(
    ("difference", "p", "measure", "word"),
    [
        (-0.1, 0.01, PERPLEXITY, "better"),
        (0.1, 0.01, PERPLEXITY, "worse"),
        (0.1, 0.01, ACCURACY, "better"),
        (-0.1, 0.01, ACCURACY, "worse"),
        (-0.1, 0.05, PERPLEXITY, "not told apart"),
        (-0.1, None, PERPLEXITY, "not tested"),
        (0.0, None, PERPLEXITY, "the same"),
    ],
)
def test_the_verdict_says_which_way_and_only_below_five_percent(
    difference: float, p: float | None, measure: Measure, word: str
) -> None:
    assert verdict(Comparison(5, difference, p), measure) == word


def test_the_best_place_has_the_best_mean() -> None:
    low, high, empty = cell("low", 3.0, 3.4), cell("high", 3.1, 3.5), cell("empty", None)
    assert best_of([high, empty, low], PERPLEXITY) is low
    assert best_of([high, low], PERPLEXITY._replace(lower_is_better=False)) is high
    assert best_of([empty], PERPLEXITY) is None


def test_cells_keep_failures_and_gaps() -> None:
    runs = runs_of("figure-5", "nano")
    rates = [decay.rate for decay in SCALES["nano"].ablations.decays]
    linear = [config for labels, config in runs if labels == {"assignment": "linear", "weight decay": rates[0]}]
    assert len(linear) == SCALES["nano"].ablation_seeds
    found = {name_of(linear[0]): invent(linear[0], 3.0),
             name_of(linear[2]): outcome(linear[2], error="ValueError: no")}  # fmt: skip
    grouped = group(runs, found)
    assert [cell.labels["assignment"] for cell in grouped] == ["linear", "sqrt", "log2", "sigmoid"] * 3
    assert [cell.labels["weight decay"] for cell in grouped] == [rate for rate in rates for _ in range(4)]
    assert grouped[0].names == {config.seed: name_of(config) for config in linear}
    assert (len(grouped[0].results), grouped[0].failures) == (2, 1)
    assert grouped[0].values("loss") == {0: 3.0}
    assert grouped[1].results == {} and grouped[1].values("loss") == {}
