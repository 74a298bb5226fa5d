"""Makes the runs of a suite, each in a process of its own, and gathers their results in one file."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess

from experiments.config import RunConfig
from experiments.suites import provenance, store, worker
from experiments.suites.identity import name_of
from experiments.suites.results import Result
from experiments.training import preemption
from experiments.training.workdir import Locked, locked

SECONDS_BETWEEN_CHECKS = 0.5
_SERVER_DIED = 255
"""What multiprocessing gives as exit code of a run when the server that it was forked from is gone."""


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

    def left_by(self, config: RunConfig) -> pathlib.Path:
        """The file in which a run leaves its result for this process."""
        return self.workdir(config) / f"result-{socket.gethostname()}-{os.getpid()}.json"


def make_runs(
    configs: Sequence[RunConfig], paths: Paths, *, jobs: int, report: Callable[[RunConfig, Result | None], None]
) -> bool:
    """Makes runs, several side by side; what an earlier call has begun goes on from its newest checkpoint.

    Ctrl-C and SIGTERM are passed on: the runs under way save a checkpoint and end. A second one ends them at once.
    Others may make the same runs at the same time: each is made by one of them.

    Args:
        configs: The runs, in the order to begin them.
        paths: Where to put what they give.
        jobs: Runs side by side; each gets an equal share of the CPU cores where the system can bind processes.
        report: Called with each run that has ended and its result, which may be a failure; with None for a run that
            another process is making.

    Returns:
        Whether all have ended; otherwise it was asked to stop.
    """
    context = fork_context()
    commit = provenance.commit()  # of the code that the server has loaded, whatever is committed meanwhile
    free, waiting, running = list(range(jobs)), list(configs), dict[ForkServerProcess, tuple[int, RunConfig]]()
    orphaned: list[RunConfig] = []
    with _Stop() as stop:
        while running or (waiting and not stop):
            while free and waiting and not stop:
                config = waiting.pop(0)
                if made := _made_meanwhile(config, paths):
                    report(config, made)
                    continue
                slot = free.pop(0)
                process = context.Process(target=worker.make_run, args=_arguments(config, paths, slot, jobs, commit))
                process.start()
                running[process] = slot, config
            for process in running if stop else ():
                (process.kill if stop.at_once else process.terminate)()
            multiprocessing.connection.wait([process.sentinel for process in running], SECONDS_BETWEEN_CHECKS)
            for process in [process for process in running if not process.is_alive()]:
                slot, config = running.pop(process)
                process.join()
                free.append(slot)
                if process.exitcode == _SERVER_DIED and config not in orphaned:
                    orphaned.append(config)
                    waiting.insert(0, config)
                    _wait_until_free(paths.workdir(config), stop)
                    continue
                _gather(config, paths, commit, None if stop else process.exitcode, report)
    return not stop


def fork_context() -> multiprocessing.context.ForkServerContext:
    """Forks from a server that has the imports, which take seconds. The first process of all starts the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.suites.worker", "experiments.suites.fork_server"])
    return context


def _arguments(
    config: RunConfig, paths: Paths, slot: int, jobs: int, commit: str
) -> tuple[RunConfig, pathlib.Path, pathlib.Path, pathlib.Path, set[int], str]:
    """The arguments of `worker.make_run`, whose folder is made here: an error is then told by this process."""
    workdir = paths.workdir(config)
    workdir.mkdir(parents=True, exist_ok=True)
    return config, workdir, paths.left_by(config), paths.scratch / "compiled", _cores(slot, jobs), commit


def _made_meanwhile(config: RunConfig, paths: Paths) -> Result | None:
    """The result of a run that another process has made, and that has not failed."""
    result = store.find(name_of(config), paths.results)
    return None if result is None or result.failed else result


def _wait_until_free(workdir: pathlib.Path, stop: "_Stop") -> None:
    """Waits for a run that has lost its parent to save and end, as long as nobody asks to stop."""
    while not stop:
        try:
            with locked(workdir / "lock"):
                return
        except Locked:
            time.sleep(SECONDS_BETWEEN_CHECKS)


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
    result = worker.take(paths.left_by(config))
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
    """True once Ctrl-C or SIGTERM has come; `at_once` after a second one."""

    def __enter__(self) -> "_Stop":
        self._asked, self.at_once = -math.inf, False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._asked > -math.inf

    def _ask(self, number: int, frame: object) -> None:
        if not self:
            print("Stopping: the runs under way finish their step and save a checkpoint.", file=sys.stderr)
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked > preemption.SECONDS_OF_ONE_SIGNAL:
            self.at_once = True
