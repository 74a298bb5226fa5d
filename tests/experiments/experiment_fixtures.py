"""What tests of the experiments share: a small corpus, and one small run that has ended."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

STEPS = 60


class FinishedRun(NamedTuple):
    """A run that has ended."""

    command: list[str]
    workdir: pathlib.Path
    output: str


def run_processes(number: int, *script: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs a Python script in processes that know of each other by the environment, and waits for their ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {**os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number)}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *script],
                    cwd=pathlib.Path(__file__).parents[2],
                    env={**variables, "JAX_PROCESS_ID": str(index)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for index in range(number)
        ]
        for process in running:
            stack.callback(process.kill)
        printed = [process.communicate(timeout=300) for process in running]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        for process, (output, errors) in zip(running, printed, strict=True)
    ]


@contextlib.contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[pathlib.Path]:
    """Gives one worker of pytest-xdist after the other a folder that all of them have; the first finds it empty."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def tiny_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run of seconds, but for its --workdir: a few addresses, a two-block model."""
    from experiments.data import corpus  # takes seconds to import, and most tests do without

    texts = [address for address in corpus.addresses() if 1800 <= int(address.date[:4]) <= 1812]
    with shared_folder(tmp_path_factory, "corpus") as folder:
        made = corpus.prepare(folder, 512, texts=texts)
    options = {
        "data.dir": made.dir,
        "data.tokenizer": made.tokenizer,
        "data.sequence-length": 32,
        "data.eval-tokens": 4_000,
        "model.hidden-size": 64,
        "model.intermediate-size": 96,
        "model.num-heads": 2,
        "model.num-layers": 2,
        "model.vocab-size": 512,
        "optimizer.refresh-every": 10,
        "steps": STEPS,
        "batch-size": 16,
        "log-every": 1,
        "eval-every": 30,
        "checkpoint-every": 8,
    }
    return ["nano", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="session")
def finished_run(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The run, from its first step to its last without a break; made once, and each worker has a copy."""
    from experiments import train

    with shared_folder(tmp_path_factory, "finished") as folder:
        original, printed = folder / "run", folder / "output.txt"
        if not printed.exists():
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                assert train.main([*tiny_command, "--norms-every", "20", "--workdir", str(original)]) == 0
            printed.write_text(output.getvalue())
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(original, workdir)
    command = [*tiny_command, "--workdir", str(workdir)]
    return FinishedRun(command, workdir, printed.read_text().replace(str(original), str(workdir)))


@pytest.fixture
def command(tiny_command: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of the small run, in the test's own directory; in this process it draws no figures."""
    from experiments.training import figures

    monkeypatch.setattr(figures, "draw", lambda *args: [])
    return [*tiny_command, "--workdir", str(tmp_path)]
