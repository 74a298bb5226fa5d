"""One run of a suite, in a process of its own: trains to the end, and leaves a result in the run's folder."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import rich.console

from experiments.config import Config, RunConfig
from experiments.finetune_config import ClassificationConfig, ContinuationConfig
from experiments.finetuning.classification import TEXT_CLASSIFICATION
from experiments.finetuning.continuation import CONTINUATION
from experiments.suites import provenance
from experiments.suites.identity import name_of, settings_that_matter
from experiments.suites.results import Result, from_line, measured, to_line
from experiments.training.checksums import steps_in
from experiments.training.image_classification import IMAGE_CLASSIFICATION
from experiments.training.language_modeling import LANGUAGE_MODELING
from experiments.training.lock import Locked
from experiments.training.loop import run_to_end
from experiments.training.preemption import Preempted, Preemption
from experiments.training.task import Task
from experiments.vision_config import VisionConfig

_TASKS: dict[type[RunConfig], Task] = {
    VisionConfig: IMAGE_CLASSIFICATION,
    ClassificationConfig: TEXT_CLASSIFICATION,
    ContinuationConfig: CONTINUATION,
    Config: LANGUAGE_MODELING,
}
"""What runs of each kind learn; the first kind that a run is of."""
IN_USE = 75
"""Exit code of a process whose run another process is making."""
_RESULT = "result.json"


def make_run(config: RunConfig, workdir: pathlib.Path, compiled: pathlib.Path, cores: set[int], commit: str) -> None:
    """Takes a run to its end, or until it is told to stop, and writes what it gave.

    Args:
        config: The run.
        workdir: Its folder.
        compiled: Folder of compiled programs: one serves all seeds.
        cores: CPU cores to run on; empty for all.
        commit: Of the code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    if cores:
        os.sched_setaffinity(0, cores)
    workdir.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(compiled.resolve()))
    with (workdir / "log.txt").open("a", buffering=1) as log, _printing_to(log), Preemption() as preemption:
        try:
            with _timed(workdir):
                _train_to_end(dataclasses.replace(config, workdir=workdir), preemption)
            outcome = {**measured(workdir), **_times(workdir)}
        except Preempted:
            return
        except Locked as error:
            print(error)
            raise SystemExit(IN_USE) from error
        except Exception as error:
            traceback.print_exc()
            outcome = {"error": f"{type(error).__name__}: {error}".replace(str(workdir), workdir.name)}
        write(describe(config, commit, device=jax.devices()[0].device_kind, **outcome), workdir)


def describe(config: RunConfig, commit: str, **outcome: Any) -> Result:
    """The result of a run: what is known before it, and its outcome."""
    return Result(
        name=name_of(config),
        settings=settings_that_matter(config),
        seed=config.seed,
        commit=commit,
        versions=provenance.versions(),
        data=provenance.digests(config),
        **outcome,
    )


def write(result: Result, workdir: pathlib.Path) -> None:
    """Leaves a result in the run's folder, whole or not at all."""
    partial = workdir / f"{_RESULT}.partial"
    partial.write_text(to_line(result) + "\n")
    partial.replace(workdir / _RESULT)


def read(workdir: pathlib.Path) -> Result | None:
    """The result that was left in a run's folder; None if there is none."""
    path = workdir / _RESULT
    return from_line(path.read_text()) if path.exists() else None


def clear(workdir: pathlib.Path) -> None:
    """Takes an earlier result out of the run's folder."""
    (workdir / _RESULT).unlink(missing_ok=True)


def _train_to_end(config: RunConfig, preemption: Preemption) -> None:
    """Takes a run from wherever its folder is to its end, without figures."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True, force_terminal=False)
    if isinstance(config, ClassificationConfig | ContinuationConfig):
        config = _with_base(config, preemption)
    run_to_end(config, preemption, console, _task_of(config))


def _task_of(config: RunConfig) -> Task:
    for kind, task in _TASKS.items():
        if isinstance(config, kind):
            return task
    raise TypeError(f"no task has runs like {type(config).__name__}")


def _with_base(
    config: ClassificationConfig | ContinuationConfig, preemption: Preemption
) -> ClassificationConfig | ContinuationConfig:
    """The run with the folder of its base model beside its own; a base that is not finished there is made first."""
    base = dataclasses.replace(config.base, dir=config.workdir.parent / config.base.run)
    if base.config is not None and base.config.steps not in steps_in(base.dir / "checkpoints"):
        _train_to_end(dataclasses.replace(base.config, workdir=base.dir), preemption)
    return dataclasses.replace(config, base=base)


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
    """Seconds that all attempts at a run took together; nothing if unknown. A line cut short by a crash is left out."""
    path = workdir / "attempts.jsonl"
    if not path.exists():
        return {}
    attempts = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            attempts.append(json.loads(line))
    return {name: round(sum(attempt[name] for attempt in attempts), 2) for name in ("seconds", "cpu_seconds")}
