"""What suites are made of: runs, and where each belongs in its table or figure."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from experiments.config import RunConfig
from experiments.suites.results import Result
from experiments.suites.scales import Scale

Labels = Mapping[str, str | float]
"""Where a run belongs in its table or figure, by the names of the axes."""


class PlannedRun(NamedTuple):
    """One run and where it belongs in its table or figure; several seeds share a cell."""

    labels: Labels
    config: RunConfig


Runs = Callable[[Any, Scale, Mapping[str, Result]], Iterable[PlannedRun]]
"""`(base config, scale, results so far) -> runs`."""


class Suite(NamedTuple):
    """A table or figure."""

    about: str
    """What it shows, in a line."""
    runs: Runs
    vision: bool = False
    """Whether the runs are a Vision Transformer's."""
