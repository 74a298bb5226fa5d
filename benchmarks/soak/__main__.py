"""Trains on two processes under random faults: `python -m benchmarks.soak --minutes N --seed S`."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import tensorflow_datasets as tfds
import tyro

from benchmarks.soak.relay import Relay
from experiments.command_line import ends_in_a_line
from experiments.data import corpus
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.presets import from_command_line
from experiments.training import checksums
from experiments.training.checkpoints import restore_params
from experiments.training.metrics import read_metrics, series

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 120
MOST_FAULTS = 8
"""In one run; after them it is left alone."""
SECONDS_TO_END = 240
"""A process that lives longer after a fault hangs."""
ROUNDING = 1e-2
"""How far losses may be off, relatively, where the mesh changed on the way: training magnifies other roundings."""
MESHES: tuple[list[str], ...] = ([], ["--mesh.fsdp", "2"])


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes runs of seconds until the time is up, breaks each by random faults, and holds it to an unbroken one."""

    minutes: float = 60.0
    """How long; the last run is finished."""
    seed: int = 0
    """Draws the faults, their moments and their victims."""
    workdir: pathlib.Path = pathlib.Path("runs/soak")
    """Where to work; emptied first."""


class Attempt:
    """Two processes, or one, that take a run from its newest checkpoint towards its end."""

    def __init__(self, command: Sequence[str], workdir: pathlib.Path, count: int):
        """Starts them; the second one reaches the coordinator through a relay that can be cut."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.relay, self.workdir, self.processes = Relay(coordinator), workdir, list[subprocess.Popen[bytes]]()
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
        cache = {**compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
        for index in range(count):
            several = {
                "JAX_COORDINATOR_ADDRESS": self.relay.address if index else coordinator,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
            with (workdir.parent / f"{workdir.name}-{index}.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "experiments.train", *command, "--workdir", str(workdir)],
                        cwd=ROOT, env={**os.environ, **cache, **(several if count > 1 else {})}, stdout=log, stderr=log,
                    )
                )  # fmt: skip

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Waits until a step is logged, a process has ended, or the time is up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and all(process.poll() is None for process in self.processes):
            if last_step(self.workdir) >= step:
                return
            time.sleep(0.02)

    def end(self) -> list[int | None]:
        """Waits for the ends of all; kills those that hang, whose code is then None."""
        until, codes = time.monotonic() + SECONDS_TO_END, list[int | None]()
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.0, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append(None)
        self.relay.close()
        return codes


def last_step(workdir: pathlib.Path) -> int:
    """The last step in a run's metrics; 0 if there is none."""
    path = workdir / "metrics.jsonl"
    return int(read_metrics(path)[-1]["step"]) if path.exists() and path.read_bytes().count(b"\n") else 0


def kill(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """SIGKILL to one process."""
    victim.kill()


def preempt(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """SIGTERM to one process."""
    victim.terminate()


def stop(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """SIGSTOP to one process, and SIGCONT three seconds later."""
    victim.send_signal(signal.SIGSTOP)
    time.sleep(3)
    victim.send_signal(signal.SIGCONT)


def fill_disk(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """A limit on the size of files, above which the system refuses to write, as on a full disk."""
    limit = 20_000
    resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def cut_network(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """Closes the connections to the coordinator, and refuses new ones."""
    attempt.relay.cut()


def flip_bit(attempt: Attempt, victim: subprocess.Popen[bytes]) -> None:
    """SIGKILL to one process, and one bit of the newest checkpoint flipped, if there is an older one too."""
    victim.kill()
    attempt.end()
    steps = checksums.steps_in(attempt.workdir / "checkpoints")
    if len(steps) > 1:
        files = [path for path in (attempt.workdir / "checkpoints" / str(steps[-1])).glob("params/**/d/*")]
        path = max(files, key=lambda file: file.stat().st_size, default=None)
        if path is not None:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


FAULTS: tuple[Callable[[Attempt, subprocess.Popen[bytes]], None], ...] = (
    kill, preempt, stop, fill_disk, cut_network, flip_bit,
)  # fmt: skip


def break_run(command: list[str], workdir: pathlib.Path, draw: random.Random, counts: collections.Counter[str]) -> bool:
    """Takes a run to its end through faults.

    Args:
        command: Options of `experiments.train`.
        workdir: The run's folder.
        draw: Decides everything.
        counts: Faults by name; those made here are added.

    Returns:
        Whether the mesh was the same all the time.

    Raises:
        RuntimeError: If a process hangs, or ends with a code that no fault explains.
    """
    changes_mesh, mesh, count = draw.random() < 0.25, MESHES[0], 2
    for number in range(MOST_FAULTS + 1):
        if changes_mesh and number:
            mesh, count = draw.choice(MESHES), draw.choice((1, 2))
            mesh = mesh if count == 2 else MESHES[0]
            counts["other mesh"] += 1
        attempt = Attempt([*command, *mesh], workdir, count)
        fault = None
        if number < MOST_FAULTS:
            if draw.random() < 0.2:
                attempt.wait_for_step(STEPS, draw.uniform(0, 10))  # while it starts
            else:
                attempt.wait_for_step(last_step(workdir) + draw.randrange(1, 40), SECONDS_TO_END)
            victim = draw.choice(attempt.processes)
            if all(process.poll() is None for process in attempt.processes):
                fault = draw.choice(FAULTS)
                fault(attempt, victim)
                counts[fault.__name__] += 1
        codes = attempt.end()
        print(
            f"{workdir.name}: {fault.__name__ if fault else 'no fault'}, codes {codes}, step {last_step(workdir)}",
            flush=True,
        )
        if None in codes:
            raise RuntimeError(f"a process of {workdir} hangs after {fault and fault.__name__}")
        if not any(codes):
            return not changes_mesh
        if fault is None:
            raise RuntimeError(f"{workdir} ended with {codes} though nothing was done to it: see its logs")
    raise RuntimeError(f"{workdir} did not end")


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
    run = f"--optimizer.refresh-every 10 --steps {STEPS} --batch-size 16 --log-every 1 --eval-every 40"
    data = ["--data.dir", str(made.dir), "--data.tokenizer", str(made.tokenizer)]
    sizes = "--model.vocab-size 512 --data.sequence-length 32 --data.eval-tokens 4000 --checkpoint-every 8"
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
    command, draw = small_run(workdir / "corpus"), random.Random(options.seed)
    unbroken, counts, runs, lost = workdir / "unbroken", collections.Counter[str](), 0, list[str]()
    if any(Attempt(command, unbroken, 2).end()):
        print(f"error: the run without faults failed; see {unbroken}-0.log", file=sys.stderr)
        return 1
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until:
        run, runs = workdir / f"run-{runs}", runs + 1
        try:
            exact = break_run(command, run, draw, counts)
            lost += [f"{run}: {what} differ" for what in differences(run, unbroken, command, exact=exact)]
        except RuntimeError as error:
            lost.append(str(error))
    tracebacks = sum(log.read_text(errors="replace").count("Traceback") for log in workdir.glob("run-*.log"))
    outcome = {"seed": options.seed, "runs": runs, "faults": counts.total(), **counts, "tracebacks": tracebacks}
    print(json.dumps(outcome))
    for line in lost:
        print(f"error: lost: {line}", file=sys.stderr)
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
