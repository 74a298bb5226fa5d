"""Signals at every moment of a run: it saves, says how to go on, and ends as if unbroken."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments import train
from experiments.config import Config
from experiments.training import checksums, language_modeling, loop, metrics
from experiments.training.metrics import read_metrics
from tests.experiments.experiment_fixtures import STEPS, FinishedRun, run_processes
from tests.experiments.runs import after, assert_ended_as_unbroken, terminate


def interrupt_validation(number: int) -> Callable[[Config], Iterator[Any]]:
    """The batches of validation; in the one of this number since the run went on, SIGTERM comes before the second."""
    validations, validation_set = itertools.count(), language_modeling.validation_set

    def interrupted(config: Config) -> Iterator[Any]:
        due = next(validations) == number
        for index, batch in enumerate(validation_set(config)):
            if due and index == 1:
                terminate()
            yield batch

    return interrupted


@pytest.mark.slow
def test_preemption_loses_nothing(
    finished_run: FinishedRun,
    command: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = tmp_path / "checkpoints"

    def preempted(owner: Any, name: str, when: Callable[..., bool]) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, after(getattr(owner, name), terminate, when))
            assert train.main(command) == 143
        return capsys.readouterr().out

    # While it starts, and while it compiles: no step was made.
    for name in ("claim_workdir", "compile_train_step"):
        output = preempted(loop, name, lambda *args: True)
        assert "Preempted (SIGTERM). The same command goes on from the start" in output
        assert checksums.steps_in(steps) == []

    # In a step: it is finished and saved, although no checkpoint is due.
    output = preempted(metrics.MetricsLog, "write", lambda log, step, values: step == 11)
    step = checksums.steps_in(steps)[-1]
    assert step in (11, 12), "the step after the one that is logged is under way"
    assert f"The same command goes on from {steps}/{step}." in output
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == step

    # In a validation, a made-up one and the last one too: it is left off, and the next run makes it first.
    for number, step in ((0, 30), (0, 30), (1, STEPS)):
        with monkeypatch.context() as patch:
            patch.setattr(language_modeling, "validation_set", interrupt_validation(number))
            assert train.main(command) == 143
        assert f"step {step}/{STEPS} | validation" not in capsys.readouterr().out
        assert checksums.steps_in(steps)[-1] == step

    assert train.main(command) == 0
    assert f"step {STEPS}/{STEPS} | validation" in capsys.readouterr().out
    assert_ended_as_unbroken(tmp_path, finished_run)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PREEMPTED_PROCESS = """
import os, signal, socket, threading, time
import jax
from experiments.parallel import distributed
from experiments.training.preemption import Preemption

distributed.SECONDS_TO_WAIT = 3

def reach(host):
    try:
        socket.create_connection((host, int(os.environ["JAX_COORDINATOR_ADDRESS"].split(":")[1]))).close()
        return True
    except OSError:
        return False

@distributed.ends_together
def main():
    with Preemption() as preemption:
        distributed.join_processes()
        index, last = jax.process_index(), jax.process_count() - 1
        print("coordinator at", [host for host in ("127.0.0.1", "127.0.0.2") if reach(host)])
        try:
            distributed.check_agreement({"seed": index, "steps": 5, "mesh": ["data"]})
        except ValueError as error:
            print(error)
        if index == last:
            os.kill(os.getpid(), signal.SIGTERM)
        for step in range(200, 210):
            if preemption.at(step):
                print("stopped at", step, flush=True)
                break
        if index == last == 0:
            # Waits as in a collective, where Python calls no handler, until a second signal comes.
            threading.Thread(target=lambda: (time.sleep(1.5), os.kill(os.getpid(), signal.SIGTERM))).start()
            jax.block_until_ready(jax.jit(lambda: jax.pure_callback(wait, jax.ShapeDtypeStruct((), "f4")))())
        if index == 0:
            time.sleep(6)  # hangs; the other process gives up and ends, and this one finds it gone
        distributed.from_all_processes({})
    return 0

def wait():
    time.sleep(60)

main()
"""


def test_processes_stop_together_and_wait_for_each_other_in_bounds() -> None:
    # A run that goes on, told to stop before its first step; one process has a coordinator, too.
    [alone] = run_processes(1, "-c", PREEMPTED_PROCESS)
    assert alone.stdout == "coordinator at ['127.0.0.1']\nstopped at 200\n", alone.stderr
    assert (alone.returncode, alone.stderr) == (143, "Ended by a second SIGTERM. What was saved is intact.\n")
    first, second = run_processes(2, "-c", PREEMPTED_PROCESS)
    for process in (first, second):
        assert "different settings:\n  seed: 0 in process 0, 1 in process 1\nStart all" in process.stdout
        assert process.stdout.endswith("stopped at 201\n"), process.stderr
        assert (process.returncode, len(process.stderr.splitlines())) == (1, 1), process.stderr
    assert "error: process 1 has waited 3 seconds for the others (an agreement): one of them hangs" in second.stderr
    assert "error: process 0 cannot go on: of its 2 processes, 1 ended or cannot be reached" in first.stderr


@pytest.fixture
def heeding_interrupts() -> Iterator[None]:
    """Ctrl-C raises, also where tests run in the background of a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["claim_workdir", "print_summary", "compile_train_step"])
def test_interrupt_while_starting_is_no_traceback(
    name: str,
    command: list[str],
    heeding_interrupts: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt = after(getattr(loop, name), lambda: os.kill(os.getpid(), signal.SIGINT), lambda *args: True)
    monkeypatch.setattr(loop, name, interrupt)
    assert train.main(command) == 130
    assert capsys.readouterr().out.endswith("Interrupted. The same command goes on from the newest checkpoint.\n")
