"""What tests of the experiments share: a small corpus, and one small run that has ended."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import io
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

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


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled programs on disk, because runs compile the same ones, in child processes too."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tiny_command(compiled_once: None, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run of seconds, but for its --workdir: a few addresses, a two-block model."""
    from experiments.data import corpus  # takes seconds to import, and most tests do without

    texts = [address for address in corpus.addresses() if 1800 <= int(address.date[:4]) <= 1812]
    made = corpus.prepare(tmp_path_factory.mktemp("corpus"), 512, texts=texts)
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
    """The run, from its first step to its last without a break."""
    from experiments import train

    workdir = tmp_path_factory.mktemp("finished")
    command = [*tiny_command, "--workdir", str(workdir)]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert train.main(command) == 0
    return FinishedRun(command, workdir, output.getvalue())
