"""Meshes: weights are cut on the width, batches by rows, and what cannot be cut is refused."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import os
import pathlib
import re

import jax
import numpy as np
import pytest

from experiments.config import Config, MeshConfig
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import distributed, sharding
from experiments.presets import PRESETS

NANO = PRESETS["nano"].config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": MeshConfig(fsdp=3)}, r"mesh\.fsdp=3 does not divide the 8 devices"),
        ({"mesh": MeshConfig(fsdp=0)}, r"mesh\.fsdp=0 does not divide the 8 devices"),
        ({"mesh": MeshConfig(data=2, fsdp=2)}, r"mesh\.data=2 times mesh\.fsdp=2 .* 8 devices .* --mesh\.data 4"),
        ({"mesh": MeshConfig(data=0)}, r"mesh\.data=0 times mesh\.fsdp=1 .* --mesh\.data 8"),
        (
            {"mesh": MeshConfig(fsdp=8), "model": dataclasses.replace(NANO.model, hidden_size=132)},
            r"mesh\.fsdp=8 does not divide model\.hidden_size=132",
        ),
        ({"batch_size": 36}, r"batch_size=36 in accumulate=1 pieces makes 36 .* a multiple of 8"),
        ({"accumulate": 8}, r"batch_size=32 in accumulate=8 pieces makes 4 .* a multiple of 8"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax.device_count", lambda: 8)
    config: Config = dataclasses.replace(NANO, **changes)
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_cut_on_its_width(preset: str) -> None:
    config = PRESETS[preset].config.model
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_model(config, Llama)[1]):
        cut = [size for size, axis in zip(leaf.shape, Llama.spec_of(path, leaf), strict=False) if axis]
        assert cut == ([config.hidden_size] if path[-1].key in ("kernel", "embedding") else [])


def test_pieces_keep_the_rows_of_a_device() -> None:
    mesh = sharding.make_mesh(NANO)
    rows = np.arange(12, dtype=np.int32)[:, None] * np.ones(5, np.int32)
    pieces = np.asarray(sharding.to_devices(rows, mesh, accumulate=3))
    assert pieces.shape == (3, 4, 5)
    np.testing.assert_array_equal(pieces[:, :, 0].T.ravel(), np.arange(12))
    np.testing.assert_array_equal(sharding.rows_of_process(mesh, 12), np.arange(12))


def test_no_run_waits_for_other_processes_without_a_bound() -> None:
    folder, unbounded = pathlib.Path(distributed.__file__).parents[1], re.compile("device_get|process_allgather")
    # Figures are drawn from arrays that the first process has whole.
    passed = {folder / "parallel" / "distributed.py", folder / "training" / "figures.py"}
    paths = [path for path in folder.rglob("*.py") if path not in passed]
    assert not [path for path in paths if unbounded.search(path.read_text())], "use distributed.fetch or to_host"


def test_a_broken_connection_between_processes_that_live_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "get_barrier_sync_fn", lambda: lambda **named: None)  # the other one answers
    monkeypatch.setattr(os, "_exit", end)

    @distributed.ends_together
    def main() -> int:
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:27525")

    with pytest.raises(SystemExit, match="1"):
        main()
    errors = capsys.readouterr().err
    assert errors.startswith("error: process 0 cannot go on: all of its 2 processes answer, but a connection between")
    assert "[127.0.0.1]:27525). The same command goes on" in errors and errors.count("\n") == 1
