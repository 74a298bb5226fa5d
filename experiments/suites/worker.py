"""One run of a suite, in a process of its own: trains to the end, and leaves a result in the run's folder."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import rich.console

from experiments.config import Config, RunConfig
from experiments.finetune_config import ClassificationConfig, ContinuationConfig, ProbingConfig, SpectraConfig
from experiments.finetuning import inside, spectra
from experiments.finetuning.classification import TEXT_CLASSIFICATION
from experiments.finetuning.continuation import CONTINUATION
from experiments.suites import provenance
from experiments.suites.identity import name_of, settings_that_matter
from experiments.suites.results import Result, from_line, measured, to_line
from experiments.training.checksums import steps_in
from experiments.training.image_classification import IMAGE_CLASSIFICATION
from experiments.training.language_modeling import LANGUAGE_MODELING
from experiments.training.loop import run_to_end
from experiments.training.preemption import Preempted, Preemption
from experiments.training.task import Task
from experiments.training.workdir import Locked
from experiments.vision_config import VisionConfig

_TASKS: dict[type[RunConfig], Task] = {
    VisionConfig: IMAGE_CLASSIFICATION,
    ClassificationConfig: TEXT_CLASSIFICATION,
    ContinuationConfig: CONTINUATION,
    Config: LANGUAGE_MODELING,
}
"""What runs of each kind learn; the first kind that a run is of."""
_MEASUREMENTS: dict[type[RunConfig], Callable[[Any], None]] = {
    ProbingConfig: inside.measure,
    SpectraConfig: spectra.measure,
}
"""What runs without steps do."""
_WITH_BASE = ClassificationConfig | ContinuationConfig | ProbingConfig | SpectraConfig
StartsFromBase = TypeVar("StartsFromBase", bound=_WITH_BASE)
IN_USE = 75
"""Exit code of a process whose run another process is making."""
SECONDS_BETWEEN_LOOKS = 1.0
"""How soon a run notices that its parent is gone."""


def make_run(
    config: RunConfig, workdir: pathlib.Path, left: pathlib.Path, compiled: pathlib.Path, cores: set[int], commit: str
) -> None:
    """Takes a run to its end, or until it is told to stop or its parent ends, and writes what it gave.

    Args:
        config: The run.
        workdir: Its folder.
        left: The file for its result; of this attempt alone, because others may be at the same run.
        compiled: Folder of compiled programs: one serves all seeds.
        cores: CPU cores to run on; empty for all.
        commit: Of the code.
    """
    threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    if cores:
        os.sched_setaffinity(0, cores)
    workdir.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(compiled.resolve()))
    with (workdir / "log.txt").open("a", buffering=1) as log, _printing_to(log), Preemption(patient=True) as preemption:
        try:
            with _timed(workdir):
                _train_to_end(dataclasses.replace(config, workdir=workdir), preemption)
            outcome = {**measured(workdir, _units_per_step(config)), **_times(workdir)}
        except Preempted:
            return
        except Locked as error:
            print(error)
            raise SystemExit(IN_USE) from error
        except Exception as error:
            traceback.print_exc()
            outcome = {"error": f"{type(error).__name__}: {error}".replace(str(workdir), workdir.name)}
        write(describe(config, commit, device=jax.devices()[0].device_kind, cores=_cores(), **outcome), left)


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


def _cores() -> int | None:
    """CPU cores that this process may use; None where that cannot be told."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def write(result: Result, left: pathlib.Path) -> None:
    """Leaves a result for the parent, whole or not at all."""
    partial = left.with_suffix(".partial")
    partial.write_text(to_line(result) + "\n")
    partial.replace(left)


def take(left: pathlib.Path) -> Result | None:
    """Reads the result that was left, and removes the file; None if there is none that can be read."""
    try:
        return from_line(left.read_text(errors="replace"))
    except (FileNotFoundError, ValueError):
        return None
    finally:
        left.unlink(missing_ok=True)


def _stop_without(parent: int) -> None:
    """Preempts this process once its parent is another one: the server that it was forked from has ended."""
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)  # again and again: it is ignored until the run listens


def _train_to_end(config: RunConfig, preemption: Preemption) -> None:
    """Takes a run from wherever its folder is to its end, without figures."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True, force_terminal=False)
    if isinstance(config, _WITH_BASE):
        config = _with_base(config, preemption)
    if type(config) in _MEASUREMENTS:
        _MEASUREMENTS[type(config)](config)
        return
    run_to_end(config, preemption, console, _task_of(config))


def _units_per_step(config: RunConfig) -> int:
    """Tokens, texts or images that a step reads; 0 for a run without steps."""
    return 0 if type(config) in _MEASUREMENTS else _task_of(config).units_per_step(config)


def _task_of(config: RunConfig) -> Task:
    for kind, task in _TASKS.items():
        if isinstance(config, kind):
            return task
    raise TypeError(f"no task has runs like {type(config).__name__}")


def _with_base(config: StartsFromBase, preemption: Preemption) -> StartsFromBase:
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
    """Notes the time of an attempt at a run, however it ends; not if others have begun the run, or are at it."""
    path = workdir / "attempts.jsonl"
    if (workdir / "metrics.jsonl").exists() and not path.exists():
        yield
        return
    began, cpu_began, held = time.monotonic(), time.process_time(), True
    try:
        yield
    except Locked:
        held = False
        raise
    finally:
        if held:
            _add_attempt(path, time.monotonic() - began, time.process_time() - cpu_began)


def _add_attempt(path: pathlib.Path, seconds: float, cpu_seconds: float) -> None:
    """Adds a line, on a line of its own even where a crash has cut the one before."""
    with path.open("ab") as file:
        torn = file.tell() and not path.read_bytes().endswith(b"\n")
        line = json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds})
        file.write(f"{chr(10) if torn else ''}{line}\n".encode())


def _times(workdir: pathlib.Path) -> dict[str, float]:
    """Seconds that all attempts at a run took together; nothing if unknown. Lines cut short by a crash are left out."""
    path = workdir / "attempts.jsonl"
    if not path.exists():
        return {}
    attempts = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            attempt = json.loads(line)
            attempts.append((float(attempt["seconds"]), float(attempt["cpu_seconds"])))
        except (ValueError, TypeError, KeyError):
            print(f"warning: {path}:{number} is not the time of an attempt; it is left out.", file=sys.stderr)
    return {"seconds": round(sum(a for a, _ in attempts), 2), "cpu_seconds": round(sum(b for _, b in attempts), 2)}
