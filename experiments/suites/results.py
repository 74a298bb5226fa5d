"""What is kept of a run: a typed result, one line of JSON."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from experiments.training.metrics import read_metrics, series

MOST_REFRESHES = 200
"""A run with more refreshes keeps an even share of them, its first and its last."""

_CURVES = ("train/", "validation/", "norm/", "norms/mean/", "relative_decay/")
_SCORE, _RATIO = "alphadecay/score/", "alphadecay/ratio/"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A number over a run."""

    steps: list[int]
    values: list[float | None]
    """None where it was not finite."""


@dataclasses.dataclass(frozen=True)
class Refreshes:
    """What a method with modules measured."""

    modules: list[str]
    """Names, `[n_modules]`."""
    made: int
    """How many refreshes there were; an even share of more than `MOST_REFRESHES` is kept."""
    steps: list[int]
    """`[r]`."""
    scores: list[list[float | None]]
    """`[r, n_modules]`; None where not finite."""
    ratios: list[list[float | None]]
    """`[r, n_modules]`."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A run that has ended, well or not."""

    name: str
    """By `identity.name_of`."""
    settings: dict[str, Any]
    """By `identity.settings_that_matter`."""
    seed: int
    commit: str
    """The code's, with `+changes` if code differed from it."""
    versions: dict[str, str]
    """Of Python and of the packages whose code ran."""
    device: str = "unknown"
    cores: int | None = None
    """CPU cores it could use; sums may be taken in another order with another number. None if unknown."""
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    """Digests of the data set and of the tokenizer; see `provenance.digests`."""
    error: str = ""
    """Why it failed; empty for a run that reached its end."""
    seconds: float | None = None
    """All attempts at it together, compiling and validating included; None if unknown."""
    cpu_seconds: float | None = None
    final: dict[str, float] = dataclasses.field(default_factory=dict)
    """The last validation: `loss`, with `perplexity` or `accuracy`."""
    curve: dict[str, Curve] = dataclasses.field(default_factory=dict)
    """By the name of the number, such as `validation/loss`."""
    refreshes: Refreshes | None = None

    @property
    def failed(self) -> bool:
        """Whether this is the record of a failure."""
        return bool(self.error)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self.settings["steps"])

    @property
    def tokens_per_step(self) -> int:
        """Of a language model."""
        return int(self.settings["batch_size"] * self.settings["data"]["sequence_length"])


def to_line(result: Result) -> str:
    """The result as one line of JSON, without what is not known."""
    required = {field.name for field in dataclasses.fields(result) if field.default is field.default_factory}
    words = dataclasses.asdict(result)
    return json.dumps({name: words[name] for name in words if name in required or words[name] not in (None, "", {})})


def from_line(line: str) -> Result:
    """Reads what `to_line` writes.

    Raises:
        ValueError: If it is not such a line; says what is wrong.
    """
    words = json.loads(line)
    if not isinstance(words, dict):
        raise ValueError("it is not a JSON object")
    if unknown := words.keys() - {field.name for field in dataclasses.fields(Result)}:
        raise ValueError(f"it has a field {sorted(unknown)[0]!r} that a result does not have")
    try:
        words["curve"] = {name: Curve(**curve) for name, curve in words.get("curve", {}).items()}
        words["refreshes"] = Refreshes(**words["refreshes"]) if words.get("refreshes") else None
        return Result(**words)
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def measured(workdir: pathlib.Path) -> dict[str, Any]:
    """What a finished run's metrics.jsonl says, with six significant digits.

    Args:
        workdir: The run's folder.

    Returns:
        The fields `curve`, `final` and `refreshes` of its result.
    """
    metrics = read_metrics(workdir / "metrics.jsonl")
    names = sorted({name for line in metrics for name in line if name.startswith(_CURVES)})
    curve = {}
    for name in names:
        steps, values = series(metrics, name)
        curve[name] = Curve(steps.tolist(), _short(values))
    final = {name.removeprefix("validation/"): curve[name].values[-1] for name in names if "validation/" in name}
    return {"curve": curve, "final": final, "refreshes": _refreshes(metrics)}


def _refreshes(metrics: list[dict[str, float]]) -> Refreshes | None:
    lines = [line for line in metrics if any(name.startswith(_SCORE) for name in line)]
    if not lines:
        return None
    modules = [name.removeprefix(_SCORE) for name in lines[0] if name.startswith(_SCORE)]
    kept = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), MOST_REFRESHES)).round().astype(int))
    return Refreshes(
        modules=modules,
        made=len(lines),
        steps=[int(lines[i]["step"]) for i in kept],
        scores=[_short([lines[i][_SCORE + name] for name in modules]) for i in kept],
        ratios=[_short([lines[i][_RATIO + name] for name in modules]) for i in kept],
    )


def _short(values: Any) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
