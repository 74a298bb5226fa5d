"""A full disk, wherever it is noticed: nothing saved is lost, and the error says what to do."""
# SPDX-License-Identifier: Apache-2.0

import errno
import os
import pathlib
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.serialization import serialization
from tensorboardX.record_writer import RecordWriter

from experiments import train
from experiments.training import checksums, metrics
from experiments.training.checkpoints import Checkpoints
from tests.experiments.experiment_fixtures import FinishedRun
from tests.experiments.runs import after, assert_ended_as_unbroken, numbers, state_after, terminate


def full(*args: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_arrays(patch: pytest.MonkeyPatch) -> None:
    """TensorStore's own error of a full disk, which is no OSError."""

    async def full_array(*args: Any, **named: Any) -> Any:
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 618583 bytes: No space left on device")

    patch.setattr(serialization, "async_serialize_from_host", full_array)


def fill_metrics(patch: pytest.MonkeyPatch) -> None:
    start = metrics.MetricsLog.__init__

    def start_full(self: metrics.MetricsLog, *args: Any, **named: Any) -> None:
        start(self, *args, **named)
        self._file = self._opened.enter_context(open("/dev/full", "a", buffering=1))

    patch.setattr(metrics.MetricsLog, "__init__", start_full)


FULL_DISKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], object], str]] = {
    "arrays": (fill_arrays, "Cannot save step 16 in {workdir}/checkpoints: RESOURCE_EXHAUSTED: "),
    "metrics": (fill_metrics, "Cannot write the metrics in {workdir}: [Errno 28] "),
    "TensorBoard": (
        lambda patch: patch.setattr(RecordWriter, "flush", full),
        "Cannot write the metrics in {workdir}: [Errno 28] ",
    ),
    "settings": (lambda patch: patch.setattr(pathlib.Path, "write_bytes", full), "[Errno 28] "),
}


@pytest.mark.parametrize(
    ("owner", "name"), [(ocp.path.atomicity.AtomicRenameTemporaryPath, "finalize"), (checksums, "seal")]
)
def test_full_disk_behind_the_training(
    owner: Any, name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path) as opened:
        opened.save(1, *state_after(1), numbers())
        opened.check()
        assert opened.latest() == tmp_path / "1"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            opened.save(2, *state_after(2), numbers())
            with pytest.raises(
                OSError, match=rf"^Cannot save step 2 in {tmp_path}: \[Errno 28\] No space left on device"
            ):
                opened.latest()
    assert not [record for record in caplog.records if record.exc_info]
    assert checksums.newest_intact(tmp_path)[0] == 1
    with Checkpoints(tmp_path) as opened:
        opened.save(2, *state_after(2), numbers())
    assert checksums.newest_intact(tmp_path) == (2, {})


@pytest.mark.slow
def test_full_disk_loses_nothing(
    finished_run: FinishedRun,
    command: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(
            Checkpoints, "save", after(Checkpoints.save, terminate, lambda checkpoints, step, *rest: step == 8)
        )
        assert train.main(command) == 143
    capsys.readouterr()
    for fill, message in FULL_DISKS.values():
        with monkeypatch.context() as patch:
            fill(patch)
            assert train.main(command) == 1
        error = capsys.readouterr().err
        assert "error: " + message.format(workdir=tmp_path) in error
        assert "No space left on device" in error and "Traceback" not in error
        assert error.endswith(
            f"What was saved in {tmp_path} is intact. Free space on the disk, or mend what the message names: "
            "the same command then goes on from the newest checkpoint.\n"
        )
        assert checksums.newest_intact(steps)[0] == 8
    assert train.main(command) == 0
    assert_ended_as_unbroken(tmp_path, finished_run)
