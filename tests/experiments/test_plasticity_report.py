"""The report on weight decay and plasticity: rankings against brute force, rates, and what decay does inside."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from experiments.finetune_config import ClassificationConfig
from experiments.report.data import Book
from experiments.report.plasticity import comparison, inside, ranking, rates
from experiments.report.statistics import group
from experiments.suites.identity import name_of
from experiments.suites.paper import runs_of
from experiments.suites.plasticity import (
    DECAYS,
    PRETRAINING,
    RATES,
    TASKS,
    pretraining_seed,
)
from experiments.suites.results import Curve, Result
from experiments.suites.scales import SCALES
from tests.experiments.invented_results import outcome

RUNS = runs_of("plasticity", SCALES["nano"], {})
ARMS = 1 + 2 * len(DECAYS)


def invent(noise: float, *, made: int = 3) -> dict[str, Result]:
    """Pre-training likes a decay of 0.5, and tasks one of 1; noise is that of seeds."""
    rng = np.random.default_rng(1)
    found = {}
    for run in RUNS:
        decay, task = float(run.labels["weight decay"]), run.labels["task"]
        seed = run.config.seed if task == PRETRAINING else pretraining_seed(run.config.seed)
        if seed < made:
            best = 0.5 if task == PRETRAINING else 1.0
            loss = 2 + math.log((decay + 0.05) / best) ** 2 / 50 + noise * rng.normal()
            loss += 0.01 * (run.labels["method"] == "AlphaDecay")
            final = {"loss": loss, "perplexity": math.exp(loss)}
            if isinstance(run.config, ClassificationConfig):
                final = {"loss": 9.0, "accuracy": 0.1, "test_loss": loss, "test_accuracy": 1 - loss / 4}
            found[name_of(run.config)] = outcome(run.config, final=final)
    return found


def part_of(found: dict[str, Result]) -> Any:
    cells = group(RUNS, found)
    return comparison._part(Book({"nano": found}, {("plasticity", "nano"): cells}, {}), "nano")


def test_what_each_criterion_chooses_and_what_that_costs() -> None:
    found = part_of(invent(0.0))
    assert found.line.startswith("Pre-training loss chooses Uniform 0.5; half-century more decay (1)")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in found.table.splitlines() if " | " in line}
    price = math.log(0.55 / 1.0) ** 2 / 50 - math.log(1.05 / 1.0) ** 2 / 50
    loss = math.log(1.05 / 0.5) ** 2 / 50 - math.log(0.55 / 0.5) ** 2 / 50
    last = [line for line in found.table.splitlines() if line.startswith("| books")]
    assert f"| Uniform 0.5 | Uniform 1 | {price:.4f} | {loss:.4f} | 0.0000 |" in last[0]
    assert f"| books | 3 of {ARMS} | +0.0100 (+0.0100 to +0.0100) |" == last[1]
    assert "**" in rows["Uniform 0.5"][1] and "not made" not in found.table
    figure = found.draw()
    assert [axes.get_title() for axes in figure.axes] == list(TASKS)


def test_what_was_not_made_is_told() -> None:
    kept = {"embedded", None}
    every = invent(0.01, made=1)
    some = {
        name: result
        for name, result in every.items()
        if result.settings["data"].get("source") in kept and "books" not in result.settings["data"]["corpus"]
    }
    found = part_of(some)
    assert "Not made: subjectivity, sentence_polarity, movie_reviews, books." in found.line
    assert "| books | not made |" in found.table and "one seed" in found.table
    assert part_of({}).line == "Not made yet."


def test_a_seed_that_some_base_model_lacks_is_left_out() -> None:
    two, three = invent(0.1, made=2), invent(0.1)
    lacking = {
        name_of(run.config)
        for run in RUNS
        if run.labels == {"task": "books", "method": "Uniform", "weight decay": 0.5} and run.config.seed == 21
    }
    cells = group(RUNS, {name: result for name, result in three.items() if name not in lacking})
    whole, kept = ranking.scores(group(RUNS, three), "books"), ranking.scores(cells, "books")
    expected = {arm: {**seeds, 2: {20: seeds[2][20], 22: seeds[2][22]}} for arm, seeds in whole.values.items()}
    assert len(lacking) == 1 and kept.values == expected
    base = ranking.scores(cells, PRETRAINING)
    assert base.of_seeds({0, 1}) == ranking.scores(group(RUNS, two), PRETRAINING)
    found = ranking.agreement(base, kept.of_seeds({0, 1}), np.random.default_rng(0))
    assert found == ranking.agreement(base.of_seeds({0, 1}), whole.of_seeds({0, 1}), np.random.default_rng(0))


def test_tau_is_scipys_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(5, size=(2, 20, 9)).astype(float)
    expected = [scipy.stats.kendalltau(*rows).statistic for rows in zip(first, second, strict=True)]
    np.testing.assert_allclose(ranking.kendall(first, second), expected, rtol=1e-12)
    assert np.isnan(ranking.kendall(np.ones((1, 4)), np.arange(4.0)[None]))


def test_the_interval_of_tau_widens_with_noise_and_is_a_point_without() -> None:
    widths = []
    for noise in (0.0, 0.003, 0.05):
        cells = group(RUNS, invent(noise))
        base, task = ranking.scores(cells, PRETRAINING), ranking.scores(cells, "books")
        found = ranking.agreement(base, task, np.random.default_rng(0))
        assert found and found.arms == ARMS and -1 <= found.low <= found.high <= 1
        expected = scipy.stats.kendalltau(*([part.mean(arm) for arm in base.values] for part in (base, task)))
        assert found.tau == pytest.approx(expected.statistic)
        widths.append(found.high - found.low)
    assert widths[0] == pytest.approx(0) and widths[1] < widths[2]


def test_resolution_is_that_of_a_two_way_layout() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    arms = [("Uniform", float(decay)) for decay in range(4)]
    found, shifted = (
        ranking.Scores(
            {
                arm: {seed: {0: value + shift * seed} for seed, value in enumerate(row)}
                for arm, row in zip(arms, values, strict=True)
            }
        )
        for shift in (0, 5)
    )
    cells = itertools.product(range(4), range(3))
    design = np.array([[1, *(i == a for i in range(1, 4)), *(j == b for j in range(1, 3))] for a, b in cells], float)
    _, [squares], *_ = np.linalg.lstsq(design, values.ravel(), rcond=None)
    expected = scipy.stats.t.ppf(0.975, 6) * math.sqrt(squares / 6) * math.sqrt(2 / 3)
    assert ranking.resolution(found, arms) == pytest.approx(expected)
    assert ranking.resolution(shifted, arms) == pytest.approx(expected)
    assert math.isnan(ranking.resolution(ranking.Scores({arm: {0: {0: 1.0}} for arm in arms}), arms))


def test_the_best_rate_of_a_row_is_bold_and_only_whole_rows_are_counted() -> None:
    runs = runs_of("plasticity-rates", SCALES["nano"], {})
    rng = np.random.default_rng(0)
    made = [run for run in runs if (run.labels["task"], run.labels["learning rate"]) != ("books", RATES[0])]
    found = {name_of(run.config): outcome(run.config, final={"loss": float(rng.normal())}) for run in made}
    book = Book({"nano": found}, {("plasticity-rates", "nano"): group(runs, found)}, {})
    part = rates._part(book, "nano")
    rows: dict[tuple[Any, Any], dict[float, float]] = {
        (run.labels["task"], run.labels["weight decay"]): {} for run in runs
    }
    for run in made:
        row = rows[run.labels["task"], run.labels["weight decay"]]
        row[float(run.labels["learning rate"])] = found[name_of(run.config)].final["loss"]
    lines = part.table.splitlines()[2:]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        best = min(row, key=row.__getitem__)
        assert f"**{row[best]:.4f}**" in line and line.count("**") == 2
        assert ("not made" in line) == (len(row) < len(RATES))
    best_of_whole = [min(row, key=row.__getitem__) for row in rows.values() if len(row) == len(RATES)]
    told = ", ".join(f"{rate:g} in {best_of_whole.count(rate)}" for rate in RATES if rate in best_of_whole)
    assert (
        part.line == f"Best of {len(RATES)} rates, in {len(best_of_whole)} of {len(rows)} rows that are whole: {told}."
    )


def test_what_decay_does_inside_is_compared_with_no_decay() -> None:
    looks = runs_of("plasticity-inside", SCALES["nano"], {})
    assert len({name_of(run.config) for run in looks}) == len(looks) == 3 * ARMS * 4
    assert {run.config.base.run for run in looks} == {  # type: ignore[attr-defined]
        name_of(run.config) for run in RUNS if run.labels["task"] == PRETRAINING
    }
    rng, found = np.random.default_rng(0), {}
    noise = {run: float(rng.normal(scale=1e-3)) for run in map(lambda each: name_of(each.config), looks)}
    for run in looks:
        decay, name = float(run.labels["weight decay"]), name_of(run.config)
        ranks = {f"validation/pseudo_rank_{each}": Curve([1, 2], [0.5, 0.7 - 0.1 * decay]) for each in ("qk", "vo")}
        final = {"probe_test_accuracy": 0.6 + 0.1 * decay + noise[name]}
        found[name] = dataclasses.replace(outcome(run.config, final=final), curve=ranks)
    for run in RUNS:
        if isinstance(run.config, ClassificationConfig):
            final = {"loss": 0.5, "seen_loss": 0.3 + 0.05 * float(run.labels["weight decay"])}
            found[name_of(run.config)] = outcome(run.config, final=final)
    cells = {
        (suite, "nano"): group(runs, found) for suite, runs in (("plasticity-inside", looks), ("plasticity", RUNS))
    }
    part = inside._part(Book({"nano": found}, cells, {}), "nano")
    rows = {line.split(" | ")[0].strip("| "): line for line in part.table.splitlines()}
    assert rows["Uniform 1"].endswith("| 0.550 ± 0.000 | 0.550 ± 0.000 | 0.1500 ± 0.0000 |")
    one, none = (
        [noise[name_of(r.config)] for r in looks if (r.labels["task"], r.labels["method"]) == ("half-century", method)
         and r.labels["weight decay"] in (0.0, 1.0)]
        for method in ("Uniform", "No decay")
    )  # fmt: skip
    expected = scipy.stats.ttest_rel(0.1 + np.array(one), none)
    low, high = expected.confidence_interval()
    told = f"**{0.1 + np.mean(one) - np.mean(none):+.4f} ({low:+.4f} to {high:+.4f})**"
    assert rows["Uniform 1 - No decay"].split(" | ")[1] == told
    assert "not made" not in part.table and "gap, nats: No decay" in part.line
    assert [axes.get_title() for axes in part.draw().figure.axes][-1] == "gap, nats"  # type: ignore[misc]
    alone = inside._part(Book({"nano": found}, {("plasticity-inside", "nano"): group(looks, {})}, {}), "nano")
    assert "not made" in alone.table and alone.line == "Highest for each number: not made."
