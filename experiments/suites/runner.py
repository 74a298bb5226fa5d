"""Makes the runs of a suite, each in a process of its own, and gathers their results in one file."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess

from experiments.config import RunConfig
from experiments.suites import provenance, store, worker
from experiments.suites.identity import name_of
from experiments.suites.results import Result

SECONDS_BETWEEN_CHECKS = 0.5


@dataclasses.dataclass(frozen=True)
class Paths:
    """Where a suite works."""

    results: pathlib.Path
    """`SCALE.jsonl`, one line a run."""
    scratch: pathlib.Path
    """One folder a run: checkpoints, metrics and `log.txt`."""

    def workdir(self, config: RunConfig) -> pathlib.Path:
        """The folder of a run."""
        return self.scratch / name_of(config)


def make_runs(
    configs: Sequence[RunConfig], paths: Paths, *, jobs: int, report: Callable[[RunConfig, Result | None], None]
) -> bool:
    """Makes runs, several side by side; what an earlier call has begun goes on from its newest checkpoint.

    Ctrl-C and SIGTERM are passed on: the runs under way save a checkpoint and end.

    Args:
        configs: The runs, in the order to begin them.
        paths: Where to put what they give.
        jobs: Runs side by side; each gets an equal share of the CPU cores where the system can bind processes.
        report: Called with each run that has ended and its result, which may be a failure; with None for a run that
            another process is making.

    Returns:
        Whether all have ended; otherwise it was asked to stop.
    """
    context = multiprocessing.get_context("forkserver")
    # Imports take seconds: the server has them, and every run is forked from it.
    context.set_forkserver_preload(["experiments.suites.worker", "experiments.suites.fork_server"])
    commit = provenance.commit()  # of the code that the server has loaded, whatever is committed meanwhile
    free, waiting, running = list(range(jobs)), list(configs), dict[ForkServerProcess, tuple[int, RunConfig]]()
    with _Stop() as stop:
        while running or (waiting and not stop):
            while free and waiting and not stop:
                slot, config = free.pop(0), waiting.pop(0)
                process = context.Process(target=worker.make_run, args=_prepare(config, paths, slot, jobs, commit))
                process.start()
                running[process] = slot, config
            for process in running if stop else ():
                process.terminate()
            multiprocessing.connection.wait([process.sentinel for process in running], SECONDS_BETWEEN_CHECKS)
            for process in [process for process in running if not process.is_alive()]:
                slot, config = running.pop(process)
                process.join()
                free.append(slot)
                _gather(config, paths, commit, None if stop else process.exitcode, report)
    return not stop


def _prepare(
    config: RunConfig, paths: Paths, slot: int, jobs: int, commit: str
) -> tuple[RunConfig, pathlib.Path, pathlib.Path, set[int], str]:
    """Takes away what an earlier attempt has left, and gives the arguments of `worker.make_run`."""
    workdir = paths.workdir(config)
    worker.clear(workdir)
    return config, workdir, paths.scratch / "compiled", _cores(slot, jobs), commit


def _gather(
    config: RunConfig,
    paths: Paths,
    commit: str,
    exit_code: int | None,
    report: Callable[[RunConfig, Result | None], None],
) -> None:
    """Adds what a process that ended has left to the results: its result, or the record of its death.

    Nothing, if it was told to stop (no exit code) before it had a result, or another process is making the run.
    """
    workdir = paths.workdir(config)
    result = worker.read(workdir)
    if result is None and exit_code == worker.IN_USE:
        report(config, None)
    elif result is None and exit_code is not None:
        error = f"The process ended with code {exit_code} and left no result; see {workdir / 'log.txt'}."
        result = worker.describe(config, commit, error=error)
    if result is not None:
        store.add(result, paths.results)
        report(config, result)


def _cores(slot: int, jobs: int) -> set[int]:
    """The CPU cores of one of the runs side by side; none where processes cannot be bound, or there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[slot::jobs])


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
