"""Writes a run's numbers to metrics.jsonl, TensorBoard and, if asked, Weights & Biases; reads them back."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
import json
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorboardX

from experiments.config import Config


class MetricsLog:
    """The numbers of one run. A resumed run goes on where its checkpoint was: what came after is cut off."""

    def __init__(self, config: Config, *, start: int):
        """Opens the logs in `config.workdir`.

        Args:
            config: The run.
            start: Steps already made; lines of later steps are dropped, because they will be made again.
        """
        config.workdir.mkdir(parents=True, exist_ok=True)
        path = config.workdir / "metrics.jsonl"
        _truncate(path, start)
        self._file = path.open("a", buffering=1)
        # TensorBoard hides what an interrupted run has left from the purge step on.
        directory = str(config.workdir / "tensorboard")
        self._tensorboard = tensorboardX.SummaryWriter(directory, purge_step=start + 1, flush_secs=10)
        self._wandb = _start_wandb(config) if config.wandb else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of one step, everywhere.

        Args:
            step: Optimizer steps made, counted from 1.
            values: Number by name; a slash in a name groups it.
        """
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads a metrics.jsonl.

    Args:
        path: The file. A last line cut short by a kill is left out.

    Returns:
        One dictionary a line, in the order written, each with its `step`.
    """
    return [json.loads(line) for line in _whole_lines(path)]


def series(metrics: list[dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Picks one number out of the lines that have it.

    Args:
        metrics: Lines as `read_metrics` returns them.
        name: Which number.

    Returns:
        Steps, int64 `[n]`, and values, float64 `[n]`.
    """
    lines = [line for line in metrics if name in line]
    return np.array([line["step"] for line in lines], np.int64), np.array([line[name] for line in lines], np.float64)


def _whole_lines(path: pathlib.Path) -> list[str]:
    """The lines of a file that end in a newline."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _truncate(path: pathlib.Path, start: int) -> None:
    """Drops the lines of the steps after `start`, atomically."""
    if path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= start))
        partial.replace(path)


def _start_wandb(config: Config) -> Any:
    """Starts a Weights & Biases run named after the working directory."""
    wandb = importlib.import_module("wandb")
    return wandb.init(
        project="optax-alphadecay",
        name=config.workdir.name,
        config=dataclasses.asdict(config),
        dir=str(config.workdir),
    )
