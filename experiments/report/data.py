"""What the report reads: the results of every scale by table and figure, and what can be told from one of them."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.report.statistics import Place, places
from experiments.suites import results
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.scales import SCALES, base_config

REPORTED = tuple(scale for scale in SCALES if scale != "tiny")
"""The scales of the report: all but the one to try suites out with."""
SHOWN_FROM = 0.5
"""A table or figure is drawn for a scale once more than this share of its places have a run."""


class Progress(NamedTuple):
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

    found: dict[str, dict[str, dict[str, Any]]]
    """Scale, name of the run, result."""
    placed: dict[tuple[str, str], list[Place]]
    """Table or figure and scale, and its places; none while it waits for the results of another."""
    base_names: dict[str, str]
    """Scale, and the name of the run that its ablations vary: AlphaDecay as in the paper, the first seed."""

    def progress(self, suite: str, scale: str) -> Progress:
        """Counts runs; one that has several places counts once."""
        planned = {name for place in self.placed[suite, scale] for name in place.names.values()}
        made = {name: self.found[scale][name] for name in planned if name in self.found[scale]}
        return Progress(len(made), sum(map(results.failed, made.values())), len(planned))

    def scales(self, suite: str) -> list[str]:
        """The scales that a table or figure is drawn for: enough of its places have a run."""
        return [scale for scale in REPORTED if self._is_drawn(self.placed[suite, scale])]

    def strays(self, scale: str) -> list[str]:
        """Results that belong to no table or figure, such as those of settings that have changed since."""
        planned = {name for suite in SUITES for place in self.placed[suite, scale] for name in place.names.values()}
        return [name for name in self.found[scale] if name not in planned]

    def every_result(self) -> list[dict[str, Any]]:
        """All results of all scales."""
        return [result for found in self.found.values() for result in found.values()]

    @staticmethod
    def _is_drawn(found: list[Place]) -> bool:
        return sum(bool(place.results) for place in found) > SHOWN_FROM * len(found)


def read(directory: pathlib.Path) -> Book:
    """Reads `DIRECTORY/SCALE/*.json` of every scale; a scale without a folder has no results."""
    found = {scale: results.read_all(directory / scale) for scale in REPORTED}
    placed = {
        (suite, scale): places(runs_of(suite, SCALES[scale], found[scale]), found[scale])
        for suite, scale in itertools.product(SUITES, REPORTED)
    }
    return Book(found, placed, {scale: results.name_of(base_config(SCALES[scale])) for scale in REPORTED})


def last_refresh(result: dict[str, Any]) -> list[Reading]:
    """The modules of a run at its last refresh."""
    refreshes = result["refreshes"]
    readings = []
    for name, score, ratio in zip(
        refreshes["modules"], refreshes["scores"][-1], refreshes["ratios"][-1], strict=True
    ):  # fmt: skip
        *_, kind, _, block = name.split("/")
        readings.append(Reading(kind, int(block), np.nan if score is None else score, ratio))
    return readings


def first_and_last_agree(result: dict[str, Any]) -> float:
    """Correlation over modules of alpha at the first refresh, of the initial weights, and at the last."""
    first, last = (np.array(result["refreshes"]["scores"][index], np.float64) for index in (0, -1))
    good = np.isfinite(first) & np.isfinite(last)
    return float(np.corrcoef(first[good], last[good])[0, 1])


def mean_ratio(result: dict[str, Any], *, of_weights: bool = False) -> float:
    """A run's weight decay over its base rate: the mean over all its steps, and over its modules or their weights."""
    refreshes, model = result["refreshes"], result["config"]["model"]
    in_force = np.diff([*refreshes["steps"], result["config"]["steps"] + 1])
    width = {"mlp": model["intermediate_size"]}  # the other side of every matrix is the model's width
    sizes = [width.get(name.split("/")[1], model["hidden_size"]) if of_weights else 1 for name in refreshes["modules"]]
    return float(np.average(np.average(refreshes["ratios"], axis=1, weights=sizes), weights=in_force))


def training_seconds(result: dict[str, Any]) -> float:
    """Time that a run has spent in its steps, refreshes included; compiling and validating are not.

    A speed is logged again until a new one has been measured, over a second or more: it holds for the steps before it
    was first logged.
    """
    config, curve = result["config"], result["curve"]["train/tokens_per_second"]
    tokens_per_step = config["batch_size"] * config["data"]["sequence_length"]
    seconds, measured_to = 0.0, 0
    for step, speed, before in zip(curve["steps"], curve["values"], [None, *curve["values"]], strict=False):
        if speed != before:
            seconds += (step - measured_to) * tokens_per_step / speed
            measured_to = step
    return float(seconds + (config["steps"] - measured_to) * tokens_per_step / curve["values"][-1])
