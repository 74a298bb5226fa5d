"""Garbage in the files of a run, and another run in its folder, are told in a line."""
# SPDX-License-Identifier: Apache-2.0

import errno
import fcntl
import os
import pathlib
import shutil
import socket
from collections.abc import Callable
from typing import Any

import pytest

from experiments import train
from experiments.training import checksums, workdir
from tests.experiments.experiment_fixtures import STEPS, FinishedRun

GARBAGE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "no settings": ("config.json", lambda text: "[]", "does not tell the settings of the run (no settings are in it)"),
    "empty settings": (
        "config.json",
        lambda text: "",
        "does not tell the settings of the run (Expecting value: line 1",
    ),
    "torn settings": ("config.json", lambda text: text[:99], "does not tell the settings of the run ("),
    "numbers": (
        "metrics.jsonl",
        lambda text: text.replace("\n", "\n{]\n", 1),
        ":2 is not a line of metrics (Expecting",
    ),
    "no step": ("metrics.jsonl", lambda text: "{}\n" + text, ":1 is not a line of metrics (it has no step)"),
    "zeros": ("metrics.jsonl", lambda text: text + "\0\0\n", " is not a line of metrics (Expecting value: line 1"),
}


def test_garbage_in_a_file_is_named(
    finished_run: FinishedRun, tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run.workdir, tmp_path, dirs_exist_ok=True)
    command = [*tiny_command, "--workdir", str(tmp_path)]
    for name, spoil, message in GARBAGE.values():
        path = tmp_path / name
        text = path.read_text()
        path.write_text(spoil(text))
        assert train.main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}") and message in error and "Traceback" not in error
        path.write_text(text)

    step = tmp_path / "checkpoints" / str(STEPS)
    (step / "batches" / "metadata").write_text('{"next_index": 3}')
    (step / checksums.NAME).unlink()
    checksums.seal(step)
    assert train.main(command) == 1
    assert f"error: {step}/batches is not a state of this data iterator: KeyError" in capsys.readouterr().err


def test_a_second_run_in_the_folder_is_refused(
    command: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with workdir.owned(tmp_path):
        assert train.main(command) == 1
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    advice = "wait for it to end, end it, or work in another folder."
    assert capsys.readouterr().err == f"error: {tmp_path} is in use by {owner}: {advice}\n"
    assert not list(tmp_path.glob("[!l]*")), "nothing is made there"

    def unsupported(*args: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with workdir.owned(tmp_path):
        assert capsys.readouterr().err.startswith(f"warning: {tmp_path} is on a file system without locks (")
