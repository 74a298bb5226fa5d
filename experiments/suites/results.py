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

_CURVES = ("train/", "validation/", "norm/", "norms/mean/", "relative_decay/", "spectrum/", "alpha/")
_SPEEDS = "_per_second"
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
    training_seconds: float | None = None
    """In its steps, refreshes included, compiling and validating not; None if unknown."""
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


def to_line(result: Result) -> str:
    """The result as one line of JSON, without what is not known; curves with the same steps share one list of them."""
    required = {field.name for field in dataclasses.fields(result) if field.default is field.default_factory}
    words = {**dataclasses.asdict(result), "curve": _by_steps(result.curve)}
    known = {name: words[name] for name in words if name in required or words[name] not in (None, "", {}, [])}
    return json.dumps(known, separators=(",", ":"))


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
    if isinstance(words.get("curve"), dict):
        raise ValueError("its curves are in the form of an earlier version")
    try:
        words["curve"] = {
            name: Curve(shared["steps"], values)
            for shared in words.get("curve", [])
            for name, values in shared["values"].items()
        }
        words["refreshes"] = Refreshes(**words["refreshes"]) if words.get("refreshes") else None
        return Result(**words)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _by_steps(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    groups: dict[tuple[int, ...], dict[str, list[float | None]]] = {}
    for name, curve in sorted(curves.items()):
        groups.setdefault(tuple(curve.steps), {})[name] = curve.values
    return [{"steps": list(steps), "values": values} for steps, values in groups.items()]


def measured(workdir: pathlib.Path, units_per_step: int) -> dict[str, Any]:
    """What a finished run's metrics.jsonl says, with six significant digits.

    Args:
        workdir: The run's folder.
        units_per_step: Tokens, texts or images that one step reads: what the logged speeds count.

    Returns:
        The fields `curve`, `final`, `refreshes` and `training_seconds` of its result.
    """
    metrics = read_metrics(workdir / "metrics.jsonl")
    names = sorted({name for line in metrics for name in line if name.startswith(_CURVES) and _SPEEDS not in name})
    curve = {}
    for name in names:
        steps, values = series(metrics, name)
        curve[name] = Curve(steps.tolist(), _short(values))
    final = {name.removeprefix("validation/"): curve[name].values[-1] for name in names if "validation/" in name}
    seconds = _training_seconds(metrics, units_per_step)
    return {"curve": curve, "final": final, "refreshes": _refreshes(metrics), "training_seconds": seconds}


def _training_seconds(metrics: list[dict[str, float]], units_per_step: int) -> float | None:
    """A speed is logged again until a new one is measured: it holds for the steps before it was first logged."""
    seconds, measured_to, before = 0.0, 0.0, 0.0
    for line in metrics:
        speed = next((line[name] for name in line if name.endswith(_SPEEDS)), before)
        if speed != before:
            seconds += (line["step"] - measured_to) * units_per_step / speed
            measured_to, before = line["step"], speed
    if not before:
        return None
    return round(seconds + (metrics[-1]["step"] - measured_to) * units_per_step / before, 3)


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
