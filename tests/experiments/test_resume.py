"""A killed run, started again, ends as if nothing had happened."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments import train
from experiments.presets import from_command_line
from experiments.training.metrics import MetricsLog, read_metrics
from tests.experiments.experiment_fixtures import STEPS, FinishedRun
from tests.experiments.runs import arrays_of, without_speed

KILLED_RUN = """
import os, signal, sys
from experiments import train
from experiments.training import metrics

write = metrics.MetricsLog.write

def write_or_die(log, step, values):
    write(log, step, values)
    if step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

metrics.MetricsLog.write = write_or_die
train.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_killed_run_goes_on_bit_for_bit(
    finished_run: FinishedRun,
    command: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = [sys.executable, "-c", KILLED_RUN, "37", *command]
    killed = subprocess.run(script, cwd=pathlib.Path(__file__).parents[2], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 37

    assert train.main(command) == 0
    output = capsys.readouterr().out
    assert f"Going on from step 32: {tmp_path}/checkpoints/32" in output or "Going on from step 24" in output
    for item in ("params", "opt_state"):
        for ours, theirs in zip(arrays_of(tmp_path, item), arrays_of(finished_run.workdir, item), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    # The losses tell the order of the data; no step is there twice, and none is missing.
    lines, unbroken = (without_speed(workdir) for workdir in (tmp_path, finished_run.workdir))
    assert lines == unbroken
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))


def test_finished_run_is_not_trained_again(finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    log = (finished_run.workdir / "metrics.jsonl").read_bytes()
    assert train.main(finished_run.command) == 0
    output = capsys.readouterr().out
    assert f"Finished before, at step {STEPS}" in output
    assert "Compiling" not in output
    results = finished_run.output[finished_run.output.index("validation perplexity") :]
    assert output.endswith(results)
    assert (finished_run.workdir / "metrics.jsonl").read_bytes() == log


def test_other_settings_are_refused(finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    changed = [
        "--optimizer.weight-decay",
        "0.5",
        "--seed",
        "7",
        "--log-every",
        "3",
        "--checkpoint-every",
        "9",
    ]
    assert train.main([*finished_run.command, *changed]) == 1
    output = capsys.readouterr().err
    assert "optimizer.weight_decay: 1e-05 there, 0.5 now" in output
    assert "seed: 0 there, 7 now" in output
    assert "log_every" not in output and "checkpoint_every" not in output


def test_log_drops_later_steps_and_a_line_cut_short(tiny_command: list[str], tmp_path: pathlib.Path) -> None:
    config = from_command_line([*tiny_command, "--workdir", str(tmp_path)])
    with MetricsLog(config, start=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"train/loss": step / 3})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    with MetricsLog(config, start=2) as log:
        log.write(3, {"train/loss": 1.5})
    expected = [
        {"step": 1, "train/loss": 1 / 3},
        {"step": 2, "train/loss": 2 / 3},
        {"step": 3, "train/loss": 1.5},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected
