"""Writes a run's numbers to metrics.jsonl, TensorBoard and, if asked, Weights & Biases; reads them back."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import importlib
import json
import pathlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from experiments.config import RunConfig, settings_of
from experiments.training.workdir import locked

SECONDS_BETWEEN_FLUSHES = 10.0
"""How stale TensorBoard may be."""


class MetricsLog(contextlib.AbstractContextManager["MetricsLog"]):
    """The numbers of one run. A resumed run goes on where its checkpoint was: what came after is cut off."""

    def __init__(self, config: RunConfig, *, start: int):
        """Opens the logs in `config.workdir`; only the first process writes.

        Args:
            config: The run.
            start: Steps already made; lines of later steps are dropped, because they will be made again.

        Raises:
            OSError: If the logs cannot be written, as from the other methods.
        """
        self._workdir = config.workdir
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        with self._explained(), contextlib.ExitStack() as stack:
            config.workdir.mkdir(parents=True, exist_ok=True)
            path = config.workdir / "metrics.jsonl"
            _truncate(path, start)
            self._file = stack.enter_context(path.open("a", buffering=1))
            self._tensorboard = stack.enter_context(
                contextlib.closing(_TensorBoard(config.workdir / "tensorboard", start=start))
            )
            self._wandb = _start_wandb(config) if config.wandb else None
            if self._wandb is not None:
                stack.callback(self._wandb.finish)
            self._opened = stack.pop_all()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of one step, everywhere.

        Args:
            step: Optimizer steps made, counted from 1.
            values: Number by name; a slash in a name groups it.
        """
        if not self._writes:
            return
        with self._explained():
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._tensorboard.write(step, values)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Writes out what is buffered."""
        if not self._writes:
            return
        with self._explained():
            self._opened.close()

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of the disk into one that names the folder."""
        try:
            yield
        except OSError as error:
            raise OSError(f"Cannot write the metrics in {self._workdir}: {error}") from error


class _TensorBoard:
    """A TensorBoard event file. tensorboardX's SummaryWriter hangs the run once its thread has died of a full disk."""

    def __init__(self, directory: pathlib.Path, *, start: int):
        directory.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(str(directory / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"))
        self._flushed = -SECONDS_BETWEEN_FLUSHES
        self._add(file_version="brain.Event:2")
        # TensorBoard hides what an interrupted run has left from this step on.
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of one step."""
        for name, value in values.items():
            self._add(step=step, summary=summary.scalar(name, value))
        if time.monotonic() - self._flushed >= SECONDS_BETWEEN_FLUSHES:
            self._records.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes out what is buffered."""
        self._records.close()

    def _add(self, **fields: Any) -> None:
        """Adds one event."""
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())


def write_measured(workdir: pathlib.Path, measure: Callable[[], Iterable[dict[str, float]]]) -> None:
    """Writes the metrics.jsonl of a run that measures and takes no steps, whole or not at all.

    Args:
        workdir: The run's folder.
        measure: Gives the lines.

    Raises:
        Locked: Another process is at it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir / "lock"):
        partial = workdir / "metrics.partial"
        partial.write_text("".join(json.dumps(line) + "\n" for line in measure()))
        partial.replace(workdir / "metrics.jsonl")


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads a metrics.jsonl.

    Args:
        path: The file. A last line cut short by a kill is left out.

    Returns:
        One dictionary a line, in the order written, each with its `step`.

    Raises:
        OSError: If another line is no such dictionary; names the file and the line.
    """
    return [_numbers(line, path, number) for number, line in enumerate(_whole_lines(path), start=1)]


def lacks(path: pathlib.Path, step: int, name: str) -> bool:
    """Whether a metrics.jsonl is there, but without this number at this step."""
    return path.exists() and not any(name in line for line in read_metrics(path) if line["step"] == step)


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
    return [line + "\n" for line in path.read_text(errors="replace").split("\n")[:-1]]


def _numbers(line: str, path: pathlib.Path, number: int) -> dict[str, float]:
    """Reads one line."""
    try:
        numbers = json.loads(line)
        if isinstance(numbers, dict) and isinstance(numbers.get("step"), int):
            return numbers
        cause = "it has no step"
    except ValueError as error:
        cause = str(error)
    raise OSError(f"{path}:{number} is not a line of metrics ({cause}): take the line out, or restore the file.")


def _truncate(path: pathlib.Path, start: int) -> None:
    """Drops the lines of the steps after `start`, atomically."""
    if path.exists():
        partial = path.with_suffix(".partial")
        kept = zip(_whole_lines(path), read_metrics(path), strict=True)
        partial.write_text("".join(line for line, numbers in kept if numbers["step"] <= start))
        partial.replace(path)


def _start_wandb(config: RunConfig) -> Any:
    """Starts a Weights & Biases run named after the working directory."""
    wandb = importlib.import_module("wandb")
    return wandb.init(
        project="optax-alphadecay",
        name=config.workdir.name,
        config=settings_of(config),
        dir=str(config.workdir),
    )
