"""What the report reads: the results of every scale by table and figure, and what can be told from one of them."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.report.statistics import Cell, group
from experiments.suites import store
from experiments.suites.identity import name_of
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.results import Refreshes, Result
from experiments.suites.scales import SCALES, base_config

REPORTED = tuple(scale for scale in SCALES if scale != "tiny")
"""The scales of the report: all but the one to try suites out with."""
SHOWN_FROM = 0.5
"""A table or figure is drawn for a scale once more than this share of its cells have a run."""


class Tally(NamedTuple):
    """How much of a suite was made."""

    made: int
    """Runs with a result, failures included."""
    failed: int
    planned: int
    """Runs of the suite; 0 while it waits for the results of another."""


class Reading(NamedTuple):
    """One module at a refresh."""

    kind: str
    """Name of its layer, such as `q_proj`."""
    block: int
    score: float
    """Not a number where it could not be measured."""
    ratio: float
    """Its weight decay over the base rate."""


@dataclasses.dataclass(frozen=True)
class Book:
    """The results of every scale."""

    found: dict[str, dict[str, Result]]
    """Scale, name of the run, result."""
    cells: dict[tuple[str, str], list[Cell]]
    """Table or figure and scale, and its cells; none while it waits for the results of another."""
    base_names: dict[str, str]
    """Scale, and the name of the run that its ablations vary: AlphaDecay as in the paper, the first seed."""

    def tally(self, suite: str, scale: str) -> Tally:
        """Counts runs; one that has several cells counts once."""
        planned = {name for cell in self.cells[suite, scale] for name in cell.names.values()}
        made = {name: self.found[scale][name] for name in planned if name in self.found[scale]}
        return Tally(len(made), sum(result.failed for result in made.values()), len(planned))

    def scales(self, suite: str) -> list[str]:
        """The scales that a table or figure is drawn for: enough of its cells have a run."""
        return [scale for scale in REPORTED if self._is_drawn(self.cells[suite, scale])]

    def strays(self, scale: str) -> list[str]:
        """Results that belong to no table or figure, such as those of settings that have changed since."""
        planned = {name for suite in SUITES for cell in self.cells[suite, scale] for name in cell.names.values()}
        return [name for name in self.found[scale] if name not in planned]

    def every_result(self) -> list[Result]:
        """All results of all scales."""
        return [result for found in self.found.values() for result in found.values()]

    @staticmethod
    def _is_drawn(found: list[Cell]) -> bool:
        return sum(bool(cell.results) for cell in found) > SHOWN_FROM * len(found)


def read_results(directory: pathlib.Path) -> Book:
    """Reads `DIRECTORY/SCALE.jsonl` of every scale; a scale without a file has no results.

    Raises:
        ValueError: If a line is no result; names each. A report of the others would not say what it lacks.
    """
    contents = {scale: store.read(directory / f"{scale}.jsonl") for scale in REPORTED}
    if faults := [fault for each in contents.values() for fault in each.faults]:
        raise ValueError("\n".join([*faults, "Mend or delete these lines, and make their runs again."]))
    found = {scale: each.results for scale, each in contents.items()}
    of_suites = {
        (suite, scale): group(runs_of(suite, SCALES[scale], found[scale]), found[scale])
        for suite, scale in itertools.product(SUITES, REPORTED)
    }
    return Book(found, of_suites, {scale: name_of(base_config(SCALES[scale])) for scale in REPORTED})


def last_refresh(result: Result) -> list[Reading]:
    """The modules of a run at its last refresh."""
    refreshes = _refreshes_of(result)
    readings = []
    for name, score, ratio in zip(
        refreshes.modules, refreshes.scores[-1], refreshes.ratios[-1], strict=True
    ):  # fmt: skip
        *_, kind, _, block = name.split("/")
        readings.append(Reading(kind, int(block), *(np.nan if value is None else value for value in (score, ratio))))
    return readings


def first_and_last_agree(result: Result) -> float:
    """Correlation over modules of alpha at the first refresh, of the initial weights, and at the last."""
    first, last = (np.array(_refreshes_of(result).scores[index], np.float64) for index in (0, -1))
    good = np.isfinite(first) & np.isfinite(last)
    return float(np.corrcoef(first[good], last[good])[0, 1])


def mean_ratio(result: Result, *, of_weights: bool = False) -> float:
    """A run's weight decay over its base rate: the mean over all its steps, and over its modules or their weights."""
    refreshes, model = _refreshes_of(result), result.settings["model"]
    in_force = np.diff([*refreshes.steps, result.steps + 1])
    width = {"mlp": model["intermediate_size"]}  # the other side of every matrix is the model's width
    sizes = [width.get(name.split("/")[1], model["hidden_size"]) if of_weights else 1 for name in refreshes.modules]
    ratios = np.average(np.array(refreshes.ratios, np.float64), axis=1, weights=sizes)
    return float(np.average(ratios, weights=in_force))


def _refreshes_of(result: Result) -> Refreshes:
    """The refreshes of a run with modules.

    Raises:
        ValueError: If its method has none.
    """
    if result.refreshes is None:
        raise ValueError(f"{result.name} has no modules, and no refreshes to report.")
    return result.refreshes
