"""Two processes train one model, their checkpoint is finished by a single one, and neither outlives the other."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import pathlib

import numpy as np
import pytest

from experiments import train
from experiments.parallel import distributed
from experiments.training.metrics import read_metrics, series
from tests.experiments.experiment_fixtures import STEPS, FinishedRun, run_processes

STOPPED_RUN = """
import sys
from experiments import train
from experiments.training import checkpoints

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


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(
    finished_run: FinishedRun, command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run_processes(2, "-c", STOPPED_RUN, "32", *command, "--mesh.fsdp", "2")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "Compiling the step" in first.stdout and "step 30/60 | validation loss" in first.stdout
    assert "step" not in second.stdout, "only the first process prints"

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


FAULTY_PROCESS = """
import errno, os, pathlib, sys
import jax
from experiments import evaluate, train
from experiments.parallel import distributed
from experiments.training import checkpoints, checksums, loop

damaged, finished, workdir, *command = sys.argv[1:]

def full(step):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

distributed.join_processes()
if jax.process_index() == 0:
    checksums.seal = full
else:  # it must not look for itself at files that may change
    checksums.newest_intact = evaluate.find_run = loop.claim_workdir = loop.lacks = None
try:
    checkpoints.Checkpoints(pathlib.Path(damaged))
except ValueError as error:
    print(error)
evaluate.main([*command, "--workdir", finished])
train.main([*command, "--workdir", workdir])
"""


@pytest.mark.slow
def test_processes_look_and_fail_together(
    finished_run: FinishedRun, tiny_command: list[str], tmp_path: pathlib.Path
) -> None:
    damaged = tmp_path / "damaged"
    (damaged / "5").mkdir(parents=True)
    (damaged / "5" / "manifest.json").write_text("{}")
    first, second = run_processes(
        2, "-c", FAULTY_PROCESS, str(damaged), str(finished_run.workdir), str(tmp_path), *tiny_command
    )
    for process in (first, second):
        assert f"{damaged}/5: its manifest.json is corrupt" in process.stdout, process.stderr
    results = finished_run.output[finished_run.output.index("validation perplexity") :].splitlines()[0]
    assert f"step {STEPS}: {results}" in first.stdout

    assert first.returncode == 1
    assert f"error: Cannot save step 8 in {tmp_path}/checkpoints: [Errno 28] No space left on device" in first.stderr
    assert f"What was saved in {tmp_path} is intact." in first.stderr
    assert second.returncode, "nor does the other one wait for ever"


FULL_DISK = """
import pathlib, resource, sys
import jax
from experiments.parallel import distributed
from experiments.training.checkpoints import Checkpoints

class Batches:
    get_state = dict

@distributed.ends_together
def main():
    distributed.join_processes()
    here = jax.sharding.NamedSharding(jax.make_mesh((2,), ("processes",)), jax.P("processes"))
    params = jax.jit(lambda: jax.random.normal(jax.random.key(0), (2, 50_000)), out_shardings=here)()
    if jax.process_index() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
            checkpoints.save(1, {"w": params}, {"w": params}, Batches())
            checkpoints.latest()
    except OSError as error:
        print(str(error).splitlines()[0][:150])
        return 1

sys.exit(main())
"""


@pytest.mark.slow
def test_arrays_that_one_process_cannot_write_end_both(tmp_path: pathlib.Path) -> None:
    first, second = run_processes(2, "-c", FULL_DISK, str(tmp_path))
    assert second.returncode == 1
    assert f"Cannot save step 1 in {tmp_path}: OUT_OF_RANGE: Error writing" in second.stdout, second.stderr
    assert first.returncode, "nor does the other one wait until Orbax gives up"
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    "environment", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}, {"JAX_PROCESS_ID": "0"}]
)
def test_nothing_starts_without_several_processes(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: pytest.fail("started"))
    distributed.join_processes(environment)


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, (None, None, None, None)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, (None, None, None, None)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, ("a:1", 2, 0, "a:1")),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_COORDINATOR_BIND_ADDRESS": "b:1"}, ("a:1", None, None, "b:1")),
    ],
)
def test_environment_says_where_the_others_are(
    environment: dict[str, str], arguments: tuple[str | int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "jax.distributed.initialize",
        lambda *given, coordinator_bind_address, initialization_timeout: calls.append(
            (*given, coordinator_bind_address)
        ),
    )
    distributed.join_processes(environment)
    assert calls == [arguments]


ALONE = """
import os, sys
os.environ.update(JAX_NUM_PROCESSES="2", EXPERIMENTS_SECONDS_TO_WAIT="2")
from experiments import train
sys.exit(train.main(["nano"]))
"""


def test_a_process_whose_others_never_come_ends_in_a_line() -> None:
    [alone] = run_processes(1, "-c", ALONE)
    assert alone.returncode == 1
    assert "error: a process has waited 2 seconds for the others to start: one of them hangs" in alone.stderr
    assert "Traceback" not in alone.stderr


@pytest.mark.parametrize(("variables", "seconds"), [({}, 300), ({"EXPERIMENTS_SECONDS_TO_WAIT": "7200.5"}, 7200.5)])
def test_the_start_waits_as_long_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float
) -> None:
    waited: list[float] = []

    def within(bound: float, complaint: str) -> contextlib.AbstractContextManager[None]:
        assert f"{seconds:g} seconds" in complaint
        waited.append(bound)
        return contextlib.nullcontext()

    monkeypatch.setattr(distributed, "_within", within)
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *given, **named: waited.append(named["initialization_timeout"])
    )
    distributed.join_processes({"JAX_COORDINATOR_ADDRESS": "localhost:1", **variables})
    bound, of_jax = waited
    assert bound == seconds and isinstance(of_jax, int) and of_jax >= seconds + 60, "JAX aborts without a word of ours"


def test_half_an_environment_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: str | int | None, **named: str | int | None) -> None:
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr("jax.distributed.initialize", refuse)
    with pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES \(now None\) and JAX_PROCESS_ID \(now 1\)"):
        distributed.join_processes({"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "1"})
