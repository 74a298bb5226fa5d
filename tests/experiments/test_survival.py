"""Kills and damaged files, each injected: nothing saved is lost, and the run ends as if unbroken."""
# SPDX-License-Identifier: Apache-2.0

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from experiments import evaluate, train
from experiments.training import checksums
from experiments.training.checkpoints import Checkpoints, restore_params
from tests.experiments.experiment_fixtures import STEPS, FinishedRun
from tests.experiments.runs import assert_ended_as_unbroken, numbers, state_after

ROOT = pathlib.Path(__file__).parents[2]

KILLED_WHILE_SAVING = """
import os, pathlib, signal, sys
import orbax.checkpoint as ocp
from experiments import train

point, step = sys.argv[1:3]
Folder = ocp.path.atomicity.AtomicRenameTemporaryPath
finalize, replace = Folder.finalize, pathlib.Path.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def finalize_or_die(self):
    final = self.get_final()
    if point == "files" and final.name == "opt_state" and final.parent.name.startswith(step + "."):
        die()
    if point == "rename" and final.name == step:
        die()
    await finalize(self)

def replace_or_die(self, target):
    if point == "manifest" and self.name == "manifest.partial" and self.parent.name == step:
        die()
    return replace(self, target)

Folder.finalize, pathlib.Path.replace = finalize_or_die, replace_or_die
train.main(sys.argv[3:])
"""


@pytest.mark.slow
def test_kill_while_saving_takes_the_checkpoint_before(
    finished_run: FinishedRun, command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = tmp_path / "checkpoints"
    errors = ""
    for point, step in (("files", 16), ("rename", 24), ("manifest", 32)):
        script = [sys.executable, "-c", KILLED_WHILE_SAVING, point, str(step), *command]
        killed = subprocess.run(script, cwd=ROOT, capture_output=True, check=False, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert (step == 16) or f"Going on from step {step - 16}: {steps}/{step - 16}\n" in killed.stdout
        assert list((steps / f"{step}.orbax-checkpoint-tmp").glob("**/d/*")) or point == "manifest"
        assert (steps / str(step)).exists() == (point == "manifest")
        errors += killed.stderr
    assert "unusable" not in errors, "what was never renamed is only cleared away"

    assert train.main(command) == 0
    output = capsys.readouterr()
    assert f"Going on from step 24: {steps}/24\n" in output.out
    assert output.err == (
        f"warning: {steps}/32 is unusable, it has no manifest.json: its save was interrupted. "
        f"It is now {steps}/32.damaged; using {steps}/24.\n"
    )
    assert_ended_as_unbroken(tmp_path, finished_run)


def largest_array_file(step: pathlib.Path) -> pathlib.Path:
    return max(step.glob("params/**/d/*"), key=lambda path: path.stat().st_size)


def truncate(step: pathlib.Path) -> None:
    path = largest_array_file(step)
    os.truncate(path, path.stat().st_size // 2)


def flip(step: pathlib.Path) -> None:
    path = largest_array_file(step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(step: pathlib.Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def name_outside(step: pathlib.Path) -> None:
    manifest = step / "manifest.json"
    (step.parent / "outside").write_text("1")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "../outside": entry}))


def make_unreadable(step: pathlib.Path) -> None:
    (step / "manifest.json").unlink()
    (step / "manifest.json").mkdir()


DAMAGES: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "truncated array": (truncate, r"params/(\S+/)?d/\w+ has \d+ bytes instead of \d+"),
    "flipped bit": (flip, r"params/(\S+/)?d/\w+ does not hold the bytes that were written"),
    "missing array": (lambda step: largest_array_file(step).unlink(), r"params/(\S+/)?d/\w+ is missing"),
    "missing metadata": (lambda step: (step / "params" / "_METADATA").unlink(), "params/_METADATA is missing"),
    "empty folder": (empty, r"it has no manifest.json: its save was interrupted"),
    "corrupt manifest": (lambda step: (step / "manifest.json").write_text('{"pa'), "its manifest.json is corrupt"),
    "empty manifest": (lambda step: (step / "manifest.json").write_text("{}"), "its manifest.json is corrupt"),
    "foreign manifest": (name_outside, r"its manifest.json names \S+/3/\.\./outside, which is not in its folder"),
    "unreadable manifest": (make_unreadable, r"it cannot be read: \[Errno 21\] Is a directory: \S+"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_named_and_the_previous_one_used(
    name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    batches = numbers()
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2, 3):
            next(batches)
            saved.save(step, *state_after(step), batches)
    damage(tmp_path / "3")

    step, params = restore_params(tmp_path, state_after(0)[0])
    assert re.fullmatch(rf"warning: skipped {tmp_path}/3: {message}\.\n", capsys.readouterr().err)
    assert checksums.steps_in(tmp_path) == [2, 3], "a reader moves nothing"

    for aside in ("3.damaged", "3.damaged-2"):
        batches = numbers()
        with Checkpoints(tmp_path) as opened:
            step, *restored = opened.restore(*state_after(0), batches) or pytest.fail("nothing restored")
            error = capsys.readouterr().err
            assert re.search(rf"^warning: {tmp_path}/3 is unusable, {message}\. It is now {tmp_path}/{aside};", error)
            assert step == 2
            for ours, theirs in zip(jax.tree.leaves([*restored, params]), leaves_after(2), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            next(batches)
            opened.save(3, *state_after(3), batches)
        assert (tmp_path / aside).is_dir()
        assert checksums.newest_intact(tmp_path) == (3, {})
        damage(tmp_path / "3")


def test_a_read_error_is_damage(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("1", "2"):
        (tmp_path / step).mkdir()
        (tmp_path / step / "array").write_text(step)
        checksums.seal(tmp_path / step)
    digest = checksums._sha256

    def broken_disk(path: pathlib.Path) -> str:
        if path.parent.name == "2":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return digest(path)

    monkeypatch.setattr(checksums, "_sha256", broken_disk)
    fault = f"it cannot be read: [Errno 5] Input/output error: '{tmp_path}/2/array'"
    assert checksums.newest_intact(tmp_path) == (1, {2: fault})


def leaves_after(step: int) -> list[jax.Array]:
    params, opt_state = state_after(step)
    return jax.tree.leaves([params, opt_state, params])


def test_no_intact_checkpoint_is_an_error(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, *state_after(step), numbers())
    truncate(tmp_path / "1")
    flip(tmp_path / "2")
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            Checkpoints(tmp_path)
        first, two, one, advice = str(caught.value).splitlines()
        assert first == f"Every checkpoint in {tmp_path} is damaged:"
        assert two.startswith(f"  {tmp_path}/2: params/") and one.startswith(f"  {tmp_path}/1: params/")
        assert advice == "Restore one of them from a copy, or start again in another --workdir."


def test_damaged_last_checkpoint_of_a_run(
    finished_run: FinishedRun, command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    flip(workdir / "checkpoints" / str(STEPS))
    command = [*command, "--workdir", str(workdir)]
    assert evaluate.main(command) == 0
    output = capsys.readouterr()
    assert output.out.startswith("step 56: validation perplexity")
    assert f"warning: skipped {workdir}/checkpoints/{STEPS}: params/" in output.err
    assert train.main(command) == 0
    output = capsys.readouterr()
    assert f"Going on from step 56: {workdir}/checkpoints/56\n" in output.out
    assert f"It is now {workdir}/checkpoints/{STEPS}.damaged; using {workdir}/checkpoints/56.\n" in output.err
    assert_ended_as_unbroken(workdir, finished_run)


def test_unreadable_shard_is_named(
    finished_run: FinishedRun, command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A corpus of its own, because all other tests read the other one.
    corpus = pathlib.Path(command[command.index("--data.dir") + 1])
    directory = pathlib.Path(shutil.copytree(corpus, tmp_path / "data"))
    command = [*command, "--data.dir", str(directory)]
    shutil.copytree(finished_run.workdir, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "config.json"
    settings.write_text(settings.read_text().replace(f'"{corpus}"', f'"{directory}"'))
    shutil.move(tmp_path / "checkpoints" / str(STEPS), tmp_path / "later")
    train_shard, validation_shard = (next(directory.rglob(f"c4-{split}.*")) for split in ("train", "validation"))
    content = train_shard.read_bytes()

    def flipped(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes(byte ^ 1 for byte in content[middle : middle + 2000]) + content[middle + 2000 :]

    for damaged in (content[: len(content) // 2], b"", flipped(content)):
        train_shard.write_bytes(damaged)
        assert train.main(command) == 1
        error = capsys.readouterr().err
        assert re.search(rf"error: Cannot read record \d+ of train, in {train_shard}: \S+", error), error
        assert "Traceback" not in error
        assert checksums.newest_intact(tmp_path / "checkpoints") == (56, {})
    train_shard.write_bytes(content)

    content = validation_shard.read_bytes()
    validation_shard.write_bytes(content[: len(content) // 2])
    for main in (evaluate.main, train.main):
        assert main(command) == 1
        assert f"error: Cannot read record 0 of validation, in {validation_shard}: " in capsys.readouterr().err
    validation_shard.write_bytes(content)

    assert train.main(command) == 0
    assert_ended_as_unbroken(tmp_path, finished_run)
