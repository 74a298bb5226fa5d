"""Questions that are asked before their runs are made: what is compared, with which seeds, and how it is judged."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.config import RunConfig
from experiments.suites.identity import name_of
from experiments.suites.inference import power, seeds_needed
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, base_config, with_optimizer


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things that are compared."""

    about: str
    """What it is, in a line."""
    method: str
    settings: Mapping[str, Any]
    """Of the optimizer."""
    grid: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Settings that were tuned, and the values tried, all combinations; empty for what follows from another arm."""
    waits_for: str = ""
    """What its settings are still to be taken from, in words; empty for an arm that is ready."""

    @property
    def is_ready(self) -> bool:
        """Whether its settings are known: what was to be tuned is tuned, and nothing is waited for."""
        return not self.waits_for and self.grid.keys() <= self.settings.keys()


@dataclasses.dataclass(frozen=True)
class Question:
    """A comparison, fixed before its test runs. One file each, committed before them."""

    title: str
    hypothesis: str
    scale: str
    """A key of `SCALES`."""
    arms: Mapping[str, Arm]
    primary: tuple[str, str]
    """The contrast that answers the question: the loss of the first arm minus that of the second."""
    secondary: tuple[tuple[str, str], ...]
    """Further contrasts; their p values are corrected together by Holm's method."""
    tuning_seeds: tuple[int, ...]
    """Seeds that settings were chosen on; none of them is tested on."""
    test_seeds: tuple[int, ...]
    effect: float
    """The smallest difference worth finding, in nats of validation loss."""
    deviation: float
    """Standard deviation of a paired difference that the number of seeds was planned with, in nats."""
    stopping: str
    """When runs stop being added."""
    norms_every: int = 0
    """Steps between two measurements of norms in test runs; 0: none."""
    options: tuple[str, ...] = ()
    """Words of a command line that change the scale's preset, such as those that name another corpus."""

    def __post_init__(self) -> None:
        """Refuses a question that cannot be answered as it is asked."""
        if shared := set(self.tuning_seeds) & set(self.test_seeds):
            raise ValueError(f"{self.title}: seed {min(shared)} is tuned on and tested on.")
        named = {name for pair in (self.primary, *self.secondary) for name in pair}
        if unknown := named - set(self.arms):
            raise ValueError(f"{self.title}: a contrast names {min(unknown)!r}, which is no arm.")
        if (needed := seeds_needed(self.effect, self.deviation)) > len(self.test_seeds):
            raise ValueError(f"{self.title}: {needed} seeds are needed, and {len(self.test_seeds)} planned.")

    @property
    def power(self) -> float:
        """Probability of finding the smallest effect worth finding."""
        return power(len(self.test_seeds), self.effect, self.deviation)

    @property
    def is_ready(self) -> bool:
        """Whether the settings of every arm are known; before that there are no test runs."""
        return all(arm.is_ready for arm in self.arms.values())

    def tuning_runs(self) -> Iterator[tuple[str, dict[str, float], RunConfig]]:
        """Name of the arm, the settings tried and the run, for all arms that were tuned."""
        for seed, (name, arm) in itertools.product(self.tuning_seeds, self.arms.items()):
            for values in itertools.product(*arm.grid.values()) if arm.grid else ():
                tried = dict(zip(arm.grid, values, strict=True))
                yield name, tried, self._run(arm, seed, tried)

    def test_runs(self) -> Iterator[tuple[str, RunConfig]]:
        """Name of the arm and the run; seeds outermost, so that a part of the runs is a smaller experiment.

        Nothing as long as an arm is not ready.
        """
        if not self.is_ready:
            return
        for seed, (name, arm) in itertools.product(self.test_seeds, self.arms.items()):
            yield name, dataclasses.replace(self._run(arm, seed, {}), norms_every=self.norms_every)

    def every_config(self) -> list[RunConfig]:
        """One config of every arm, ready or not, with the first seed: what a run costs can be told by them."""
        return [self._run(arm, self.test_seeds[0], {}) for arm in self.arms.values()]

    def check_tuning(self, found: Mapping[str, Result]) -> None:
        """Holds the settings of the tuned arms against their tuning runs.

        Args:
            found: Results by name.

        Raises:
            ValueError: If a run is missing, or another cell of the grid has a lower mean loss.
        """
        losses: dict[str, dict[tuple[float, ...], list[float]]] = {}
        for name, tried, config in self.tuning_runs():
            result = found.get(name_of(config))
            if result is None:
                raise ValueError(f"{self.title}: the tuning run {name_of(config)} of {name} was not made.")
            cell = losses.setdefault(name, {}).setdefault(tuple(tried.values()), [])
            cell.append(np.inf if result.failed else result.final["loss"])
        for name, cells in losses.items():
            arm, best = self.arms[name], min(cells, key=lambda cell: float(np.mean(cells[cell])))
            if not arm.is_ready:
                continue
            chosen = tuple(arm.settings[setting] for setting in arm.grid)
            if chosen != best:
                raise ValueError(f"{self.title}: {name} has {chosen} for {', '.join(arm.grid)}, but {best} is better.")

    def on_edge(self) -> list[str]:
        """Arms that have a tuned setting at an end of its grid."""
        return [
            f"{name}: {setting}={arm.settings[setting]:g}"
            for name, arm in self.arms.items()
            for setting, values in arm.grid.items()
            if arm.is_ready and len(values) > 1 and arm.settings[setting] in (min(values), max(values))
        ]

    def _run(self, arm: Arm, seed: int, tried: Mapping[str, float]) -> RunConfig:
        base = dataclasses.replace(base_config(SCALES[self.scale], self.options), seed=seed)
        return with_optimizer(base, arm.method, **{**arm.settings, **tried})
