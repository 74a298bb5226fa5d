"""Two processes train one model, and their checkpoint is finished by a single one."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from experiments import partitioning, train
from experiments.metrics_log import read_metrics, series
from tests.experiment_fixtures import FinishedRun

ROOT = pathlib.Path(__file__).parents[1]
STOPPED_RUN = """
import sys
from experiments import checkpoints, train

class Stop(BaseException):
    pass

save = checkpoints.Checkpoints.save

def save_and_stop(self, step, *state):
    save(self, step, *state)
    if step == int(sys.argv[1]):
        raise Stop

checkpoints.Checkpoints.save = save_and_stop
try:
    train.main(sys.argv[2:])
except Stop:
    pass
"""


def two_processes(script: list[str]) -> list[str]:
    """Runs a Python script in two processes that know of each other by the environment; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {**os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, *script],
            cwd=ROOT,
            env={**variables, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    printed = [process.communicate(timeout=300) for process in running]
    for process, (_, errors) in zip(running, printed, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in printed]


def test_two_processes_train_as_one_and_one_goes_on(
    finished_run: FinishedRun, tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*tiny_command, "--workdir", str(tmp_path)]
    first, second = two_processes(["-c", STOPPED_RUN, "32", *command, "--mesh.fsdp", "2"])
    assert "Compiling the step" in first and "step 30/60 | validation loss" in first
    assert "step" not in second, "only the first process prints"

    assert train.main(command) == 0
    assert f"Going on from step 32: {tmp_path}/checkpoints/32" in capsys.readouterr().out
    ours, unbroken = (read_metrics(workdir / "metrics.jsonl") for workdir in (tmp_path, finished_run.workdir))
    for name in ("train/loss", "validation/loss"):
        steps, losses = series(ours, name)
        expected_steps, expected_losses = series(unbroken, name)
        np.testing.assert_array_equal(steps, expected_steps)
        # Sums of other lengths round otherwise, and training magnifies it: 2e-6 after 20 steps.
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
        np.testing.assert_allclose(losses[steps <= 20], expected_losses[steps <= 20], rtol=1e-5)


@pytest.mark.parametrize(
    "environment", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}, {"JAX_PROCESS_ID": "0"}]
)
def test_nothing_starts_without_several_processes(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: pytest.fail("started"))
    partitioning.join_processes(environment)


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, (None, None, None)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, (None, None, None)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, ("a:1", 2, 0)),
    ],
)
def test_environment_says_where_the_others_are(
    environment: dict[str, str], arguments: tuple[str | int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given: calls.append(given))
    partitioning.join_processes(environment)
    assert calls == [arguments]


def test_half_an_environment_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: str | int | None) -> None:
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr("jax.distributed.initialize", refuse)
    with pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES \(now None\) and JAX_PROCESS_ID \(now 1\)"):
        partitioning.join_processes({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "1"})
