"""Makes the runs of a suite, each in a process of its own, and keeps one JSON file of each."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any

import jax
import rich.console

from experiments import train, train_vit
from experiments.config import RunConfig
from experiments.suites import results
from experiments.training.preemption import Preempted, Preemption
from experiments.vision_config import VisionConfig

SECONDS_BETWEEN_LOOKS = 0.5


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a suite works."""

    results: pathlib.Path
    """One JSON file a run."""
    scratch: pathlib.Path
    """One folder a run: checkpoints, metrics and `log.txt`."""

    def result(self, config: RunConfig) -> pathlib.Path:
        """The file of a run's result."""
        return self.results / f"{results.name_of(config)}.json"

    def workdir(self, config: RunConfig) -> pathlib.Path:
        """The folder of a run."""
        return self.scratch / results.name_of(config)


def make_runs(
    configs: Sequence[RunConfig], places: Places, *, jobs: int, report: Callable[[RunConfig, dict[str, Any]], None]
) -> bool:
    """Makes runs, several side by side; what an earlier call has begun goes on from its newest checkpoint.

    Ctrl-C and SIGTERM are passed on: the runs under way save a checkpoint and end.

    Args:
        configs: The runs, in the order to begin them.
        places: Where to put what they give.
        jobs: Runs side by side; each gets an equal share of the CPU cores where the system can bind processes.
        report: Called with each run that has ended and its result, which may be a failure.

    Returns:
        Whether all have ended; otherwise it was asked to stop.
    """
    context = multiprocessing.get_context("forkserver")
    # Imports take seconds: the server has them, and every run is forked from it.
    context.set_forkserver_preload(["experiments.suites.runner", "experiments.suites.fork_server"])
    commit = results.commit()  # of the code that the server has loaded, whatever is committed meanwhile
    free, waiting, running = list(range(jobs)), list(configs), dict[ForkServerProcess, tuple[int, RunConfig]]()
    with _Stop() as stop:
        while running or (waiting and not stop):
            while free and waiting and not stop:
                slot, config = free.pop(0), waiting.pop(0)
                places.result(config).unlink(missing_ok=True)
                process = context.Process(target=_make_run, args=(config, places, _cores(slot, jobs), commit))
                process.start()
                running[process] = slot, config
            for process in running if stop else ():
                process.terminate()
            multiprocessing.connection.wait([process.sentinel for process in running], SECONDS_BETWEEN_LOOKS)
            for process in [process for process in running if not process.is_alive()]:
                slot, config = running.pop(process)
                process.join()
                free.append(slot)
                result = _result(config, places, None if stop else process.exitcode)
                if result:
                    report(config, result)
    return not stop


def _result(config: RunConfig, places: Places, exit_code: int | None) -> dict[str, Any] | None:
    """What a process that ended has left: its result, the record of its death, or nothing if it was told to stop."""
    path = places.result(config)
    if path.exists():
        return dict(json.loads(path.read_text()))
    if exit_code is None:
        return None
    error = f"The process ended with code {exit_code} and left no result; see {places.workdir(config) / 'log.txt'}."
    result = results.describe(config, commit=results.commit(), versions=results.versions(), error=error)
    results.write(result, places.results)
    return result


def _make_run(config: RunConfig, places: Places, cores: set[int], commit: str) -> None:
    """In a process of its own: takes a run to its end, or until it is told to stop, and writes what it gave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    if cores:
        os.sched_setaffinity(0, cores)
    workdir = places.workdir(config)
    workdir.mkdir(parents=True, exist_ok=True)
    # One compiled program serves all seeds.
    jax.config.update("jax_compilation_cache_dir", str((places.scratch / "compiled").resolve()))
    with (workdir / "log.txt").open("a", buffering=1) as log, _printing_to(log), Preemption() as listening:
        facts = {"commit": commit, "versions": results.versions(), "device": jax.devices()[0].device_kind}
        try:
            with _timed(workdir):
                train_to_end(dataclasses.replace(config, workdir=workdir), listening)
            outcome = {**results.measured(workdir), **_times(workdir)}
        except Preempted:
            return
        except Exception as error:
            traceback.print_exc()
            outcome = {"error": f"{type(error).__name__}: {error}".replace(str(workdir), workdir.name)}
        results.write(results.describe(config, **facts, **outcome), places.results)


def train_to_end(config: RunConfig, listening: Preemption) -> None:
    """Takes a run from wherever its folder is to its end, without figures."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True, force_terminal=False)
    if isinstance(config, VisionConfig):
        train_vit.run_to_end(config, listening, console)
    else:
        train.run_to_end(config, listening, console)


def _cores(slot: int, jobs: int) -> set[int]:
    """The CPU cores of one of the runs side by side; none where processes cannot be bound, or there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot::jobs])


@contextlib.contextmanager
def _printing_to(log: Any) -> Iterator[None]:
    """Sends all that is printed, by libraries written in C++ too, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


@contextlib.contextmanager
def _timed(workdir: pathlib.Path) -> Iterator[None]:
    """Notes the time that an attempt at a run has taken, however it ends; not if others have begun the run."""
    if (workdir / "metrics.jsonl").exists() and not (workdir / "attempts.jsonl").exists():
        yield
        return
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
        with (workdir / "attempts.jsonl").open("a") as file:
            file.write(json.dumps(spent) + "\n")


def _times(workdir: pathlib.Path) -> dict[str, float]:
    """Seconds that all attempts at a run took together, compiling and validating included; nothing if unknown."""
    path = workdir / "attempts.jsonl"
    if not path.exists():
        return {}
    attempts = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: round(sum(attempt[name] for attempt in attempts), 2) for name in ("seconds", "cpu_seconds")}


class _Stop:
    """True once Ctrl-C or SIGTERM has come."""

    def __enter__(self) -> "_Stop":
        self._asked = False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: object) -> None:
        if not self._asked:
            print("Stopping: the runs under way finish their step and save a checkpoint.", file=sys.stderr)
        self._asked = True
