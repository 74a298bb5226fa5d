"""Runs that differ only in their seed: means, standard deviations, and t-tests paired by seed."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments.suites.identity import name_of
from experiments.suites.plan import Labels, PlannedRun
from experiments.suites.results import Result

SIGNIFICANCE = 0.05


class Measure(NamedTuple):
    """What tables and figures show of a run, and what t-tests compare."""

    shown: str
    """Name in a result's `final`, and in words."""
    tested: str
    """Name in `final` of what t-tests compare."""
    unit: str
    """Of what t-tests compare."""
    factor: float = 1.0
    """What `final` is multiplied by."""
    lower_is_better: bool = True


PERPLEXITY = Measure("perplexity", "loss", "nats")
ACCURACY = Measure("accuracy", "accuracy", "percentage points", factor=100.0, lower_is_better=False)


class Summary(NamedTuple):
    """Several seeds in short."""

    n: int
    mean: float
    std: float | None
    """Of the sample (`n - 1` in the denominator); None for one run."""


class Comparison(NamedTuple):
    """Two settings run with the same seeds."""

    n: int
    """Seeds that both have."""
    difference: float
    """Mean over those seeds of the first minus the second."""
    p: float | None
    """Of the two-sided paired t-test; None for one pair, and if all pairs differ by the same."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the difference, by the same test."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table or figure: the same settings, run with several seeds."""

    labels: Labels
    names: Mapping[int, str]
    """Names of its runs by seed."""
    results: Mapping[int, Result]
    """Those that were made, failures included, by seed."""

    def values(self, name: str, factor: float = 1.0) -> dict[int, float]:
        """A number of `final` by seed, for the runs that have it."""
        finals = {seed: result.final.get(name) for seed, result in self.finished.items()}
        return {seed: factor * value for seed, value in finals.items() if value is not None}

    @property
    def finished(self) -> dict[int, Result]:
        """Results that are not failures, by seed."""
        return {seed: result for seed, result in self.results.items() if not result.failed}

    @property
    def failures(self) -> int:
        """How many runs have failed."""
        return len(self.results) - len(self.finished)


def group(runs: Iterable[PlannedRun], found: Mapping[str, Result]) -> list[Cell]:
    """Groups the runs of a suite by what they have in common.

    Args:
        runs: The suite's.
        found: Results by the name of the run.

    Returns:
        One cell for each set of labels, in the order of the suite.
    """
    grouped: dict[tuple[tuple[str, str | float], ...], Cell] = {}
    for labels, config in runs:
        cell = grouped.setdefault(tuple(labels.items()), Cell(labels, {}, {}))
        name = name_of(config)
        grouped[tuple(labels.items())] = dataclasses.replace(
            cell,
            names={**cell.names, config.seed: name},
            results={**cell.results, **({config.seed: found[name]} if name in found else {})},
        )
    return list(grouped.values())


def summarise(values: Mapping[int, float]) -> Summary | None:
    """The mean and the sample standard deviation over seeds; None without a run."""
    if not values:
        return None
    sample = np.array(list(values.values()), dtype=np.float64)
    return Summary(len(sample), float(sample.mean()), float(sample.std(ddof=1)) if len(sample) > 1 else None)


def compare(ours: Mapping[int, float], others: Mapping[int, float]) -> Comparison | None:
    """Compares two settings by a t-test that pairs their runs by seed.

    Args:
        ours: Values by seed.
        others: The same of the other setting; seeds that only one has are left out.

    Returns:
        The comparison, or None if they have no seed in common.
    """
    seeds = sorted(set(ours) & set(others))
    if not seeds:
        return None
    first, second = (np.array([values[seed] for seed in seeds], dtype=np.float64) for values in (ours, others))
    differences = first - second
    if len(seeds) == 1 or np.ptp(differences) == 0:
        return Comparison(len(seeds), float(differences.mean()), None)
    test = scipy.stats.ttest_rel(first, second)
    interval = test.confidence_interval(1 - SIGNIFICANCE)
    return Comparison(
        len(seeds), float(differences.mean()), float(test.pvalue), (float(interval.low), float(interval.high))
    )


def compare_cells(ours: Cell, others: Cell, measure: Measure) -> Comparison | None:
    """Compares two cells by what the measure says to test."""
    return compare(ours.values(measure.tested, measure.factor), others.values(measure.tested, measure.factor))


def verdict(comparison: Comparison, measure: Measure) -> str:
    """Says in a word or two how the first setting did."""
    if comparison.p is None:
        return "not tested" if comparison.difference else "the same"
    if comparison.p >= SIGNIFICANCE:
        return "not told apart"
    return "better" if (comparison.difference < 0) == measure.lower_is_better else "worse"


def best_of(candidates: Iterable[Cell], measure: Measure) -> Cell | None:
    """The cell with the best mean; None if none has a run."""
    means = [(summary.mean, cell) for cell in candidates if (summary := summarise(cell.values(measure.shown)))]
    if not means:
        return None
    return (min if measure.lower_is_better else max)(means, key=lambda pair: pair[0])[1]
