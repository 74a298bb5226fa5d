"""Trains on two processes under random faults: `python -m benchmarks.soak --minutes N --seed S`."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import tensorflow_datasets as tfds
import tyro

from benchmarks.report import conditions
from benchmarks.soak.attempt import Attempt, last_step
from benchmarks.soak.faults import FAULTS, cut_connections, cut_from_coordinator
from experiments.command_line import ends_in_a_line
from experiments.data import corpus
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.presets import from_command_line
from experiments.training.checkpoints import restore_params
from experiments.training.metrics import read_metrics, series

STEPS = 40
MOST_FAULTS = 12
"""In one run; after them it is left alone."""
MOST_STEPS_BETWEEN = 6
SECONDS_TO_GO_ON = 20
"""A run that makes no further step in this time after a fault is left alone, and should end."""
ROUNDING = 1e-2
"""How far losses may be off, relatively, where the mesh changed on the way: training magnifies other roundings."""
MESHES: tuple[list[str], ...] = ([], ["--mesh.fsdp", "2"])
CODES = (0, 1, 128 + signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)
"""With which a process may end: those of the table of exit codes; by the signal that it was sent, SIGTERM if it was not
listening yet; SIGABRT, by which JAX ends it where the coordinator is gone."""
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "EXPERIMENTS_SECONDS_TO_WAIT": "60",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Variables of all processes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes runs of seconds until the time is up, breaks each by random faults, and holds it to an unbroken one."""

    minutes: float = 60.0
    """How long; then the last run is left alone, and ends."""
    seed: int = 0
    """Draws the faults, their moments and their victims."""
    workdir: pathlib.Path = pathlib.Path("runs/soak")
    """Where to work; emptied first."""


class Soak:
    """Draws faults, and counts what came of them."""

    def __init__(self, command: Sequence[str], seed: int, until: float):
        """Begins to count.

        Args:
            command: Options of `experiments.train`.
            seed: Draws everything.
            until: When to leave runs alone, by `time.monotonic`.
        """
        self.command, self.until, self._draw = list(command), until, random.Random(seed)
        self.faults, self.codes = collections.Counter[str](), collections.Counter[str]()

    def break_run(self, workdir: pathlib.Path) -> bool:
        """Takes a run to its end through faults.

        Args:
            workdir: The run's folder.

        Returns:
            Whether the mesh was the same all the time.

        Raises:
            RuntimeError: If a process hangs, or ends with a code that no fault explains.
        """
        left, changes_mesh, mesh, count = MOST_FAULTS, self._draw.random() < 0.25, MESHES[0], 2
        for number in range(MOST_FAULTS + 1):
            if changes_mesh and number:
                count = self._draw.choice((1, 2))
                mesh = self._draw.choice(MESHES) if count == 2 else MESHES[0]
                self.faults["other mesh"] += 1
            began, attempt = time.monotonic(), Attempt([*self.command, *mesh], workdir, count)
            done = self._break_attempt(attempt, left)
            left, codes = left - len(done), attempt.end()
            self.faults.update(done)
            self.codes.update(map(str, codes))
            print(
                f"{workdir.name}: {' and '.join(done) or 'no fault'}, codes {codes}, step {last_step(workdir)}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            if None in codes:
                raise RuntimeError(f"a process of {workdir} hangs after {done}")
            if not any(codes):
                return not changes_mesh
            if not done or not set(codes) <= set(CODES):
                raise RuntimeError(f"{workdir} ended with {codes} after {done or 'no fault'}: see its logs")
        raise RuntimeError(f"{workdir} did not end")

    def _break_attempt(self, attempt: Attempt, most: int) -> list[str]:
        """Does faults to an attempt while it makes steps; names them."""
        done = list[str]()
        if self._draw.random() < 0.2:
            attempt.wait_for_step(STEPS, self._draw.uniform(0, 5))  # while it starts
        else:
            attempt.wait_for_step(self._next_step(attempt), 10 * SECONDS_TO_GO_ON)
        while len(done) < most and time.monotonic() < self.until and attempt.alive:
            alone = len(attempt.processes) == 1
            fault = self._draw.choice(
                [each for each in FAULTS if not (alone and each in (cut_from_coordinator, cut_connections))]
            )
            fault(attempt, self._draw.choice(attempt.processes))
            done.append(fault.__name__)
            attempt.wait_for_step(step := self._next_step(attempt), SECONDS_TO_GO_ON)
            if last_step(attempt.workdir) < step:
                break
        return done

    def _next_step(self, attempt: Attempt) -> int:
        """The step to wait for before the next fault."""
        return last_step(attempt.workdir) + self._draw.randint(1, MOST_STEPS_BETWEEN)


def differences(workdir: pathlib.Path, unbroken: pathlib.Path, command: list[str], *, exact: bool) -> list[str]:
    """Says in what a run's end differs from the unbroken one's: in nothing, or within rounding if not `exact`."""
    found = []
    for name in ("train/loss", "validation/loss"):
        (steps, losses), (expected_steps, expected) = (
            series(read_metrics(path / "metrics.jsonl"), name) for path in (workdir, unbroken)
        )
        if not np.array_equal(steps, expected_steps):
            found.append(f"{name} at other steps")
        elif not np.allclose(losses, expected, rtol=0 if exact else ROUNDING, atol=0):
            found.append(f"{name} by {np.abs(losses / expected - 1).max():.1e}")
    if exact:
        config = from_command_line(command)
        shapes = sharding.abstract(abstract_model(config.model, Llama)[1], sharding.make_mesh(config), Llama.spec_of)
        ours, theirs = (restore_params(path / "checkpoints", shapes) for path in (workdir, unbroken))
        leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        found += ["parameters"] if not all(np.array_equal(a, b) for a, b in leaves) else []
    return found


def small_run(folder: pathlib.Path) -> list[str]:
    """Writes a small corpus, and gives the options of a run of seconds on it."""
    texts = [address for address in corpus.addresses() if 1800 <= int(address.date[:4]) <= 1812]
    tfds.disable_progress_bar()
    made = corpus.prepare(folder, 512, texts=texts)
    model = "--model.hidden-size 64 --model.intermediate-size 96 --model.num-heads 2 --model.num-layers 2"
    run = f"--optimizer.refresh-every 10 --steps {STEPS} --batch-size 16 --log-every 1 --eval-every 20"
    data = ["--data.dir", str(made.dir), "--data.tokenizer", str(made.tokenizer)]
    sizes = "--model.vocab-size 512 --data.sequence-length 32 --data.eval-tokens 2000 --checkpoint-every 4"
    return ["nano", *data, *model.split(), *run.split(), *sizes.split()]


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Soaks.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 if a run was lost.
    """
    options = tyro.cli(Options, args=args, prog="python -m benchmarks.soak")
    shutil.rmtree(options.workdir, ignore_errors=True)
    workdir = options.workdir.resolve()
    command = small_run(workdir / "corpus")
    os.environ.update({**SETTINGS, "JAX_COMPILATION_CACHE_DIR": str(workdir / "compiled")})
    where, unbroken = conditions(sys.argv[1:] if args is None else args, module="benchmarks.soak"), workdir / "unbroken"
    if any(Attempt(command, unbroken, 2).end()):
        print(f"error: the run without faults failed; see {unbroken}-0.log", file=sys.stderr)
        return 1
    soak, runs, lost = Soak(command, options.seed, time.monotonic() + 60 * options.minutes), 0, list[str]()
    while time.monotonic() < soak.until:
        run, runs = workdir / f"run-{runs}", runs + 1
        try:
            exact = soak.break_run(run)
            lost += [f"{run}: {what} differ" for what in differences(run, unbroken, command, exact=exact)]
        except RuntimeError as error:
            lost.append(str(error))
    tracebacks = sum(log.read_text(errors="replace").count("Traceback") for log in workdir.glob("run-*.log"))
    counts = {"runs": runs, "faults": soak.faults.total(), "tracebacks": tracebacks, "lost": len(lost)}
    print(json.dumps({**where, **counts, "by kind": soak.faults, "exit codes": soak.codes}, indent=1))
    for line in lost:
        print(f"error: lost: {line}", file=sys.stderr)
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
