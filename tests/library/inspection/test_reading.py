"""Folders of Orbax, arrays of NumPy and tensors of PyTorch at the bounds of what is read."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
import sys
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from optax_alphadecay.inspection.adapters import Adapter
from optax_alphadecay.inspection.readers import open_checkpoint, orbax_folders
from optax_alphadecay.inspection.records import Inspection, ModuleRecord
from optax_alphadecay.inspection.spectra import Spectrum
from optax_alphadecay.inspection.table import View
from optax_alphadecay.inspection.tensors import (
    Checkpoint,
    CheckpointError,
    LeftOut,
    Tensor,
    natural_key,
    printable,
    require,
)
from tests.library.inspection.test_malicious_files import npy_bytes
from tests.library.inspection.test_torch_reader import FakeTensor, contents, fake_torch


def folder_with(path: pathlib.Path, *trees: str) -> pathlib.Path:
    path.mkdir()
    for tree in trees:
        (path / tree).mkdir(parents=True, exist_ok=True)
        (path / tree / "_METADATA").touch()
    return path


@pytest.mark.parametrize(
    ("trees", "found"),
    [
        ([".", "params", "5"], "."),
        (["items", "params"], "params"),
        (["model", "checkpoints"], "model"),
        (["checkpoints", "7"], "checkpoints"),
        (["checkpoints/state", "7"], "checkpoints/state"),
        (["9", "10", "8/items"], "10"),
        (["9/items", "10/other"], "9/items"),
        (["checkpoint_9", "checkpoint_10/default"], "checkpoint_10/default"),
        (["checkpoints/3/pytree", "checkpoints/20/pytree"], "checkpoints/20/pytree"),
        (["checkpoints/3/pytree", "2"], "2"),
        (["2/checkpoints/1"], "2/checkpoints/1"),
        (["other", "step"], None),
        ([], None),
    ],
)
def test_the_tree_of_an_orbax_folder_is_found(tmp_path: pathlib.Path, trees: list[str], found: str | None) -> None:
    path = folder_with(tmp_path / "run", *trees)
    (path / "99").touch()  # a file is no step
    assert orbax_folders.find(path) == (None if found is None else path / found)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_of_either_version(tmp_path: pathlib.Path, version: tuple[int, int], shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    path = tmp_path / "w.x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    [tensor] = open_checkpoint(path).tensors
    assert (tensor.name, tensor.shape, tensor.dtype) == ("w/x", shape, np.dtype(np.int16))
    np.testing.assert_array_equal(tensor.load(), array)
    for damaged in (path.read_bytes() + b"\0", path.read_bytes()[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


def test_sizes_of_minus_one_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy_bytes("(-1, -1, 4)", b"\0" * 16))
    with pytest.raises(CheckpointError, match="negative size"):
        open_checkpoint(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, jnp.float8_e5m2, np.float16, np.int32, np.float64, np.complex64, np.complex128]
)
def test_tensors_of_every_size(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    asked: dict[str, Any] = {}

    def load(path: pathlib.Path, **options: Any) -> Any:
        asked.update(options)
        return FakeTensor(array)

    monkeypatch.setitem(sys.modules, "torch", fake_torch(load))
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("data.pkl", "what torch reads")
    read = contents(open_checkpoint(tmp_path / "x.pt"))
    assert asked["mmap"] is True and read["tensor"].dtype == dtype
    np.testing.assert_array_equal(read["tensor"], array)


def test_texts_beside_tensors_are_passed_over(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = FakeTensor(np.ones(2))
    state = {"name": "text", "raw": b"bytes", "none": None, "list": ["a", (one, {"b": one})], 3: one}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(lambda path, **options: state))
    (tmp_path / "x.pt").write_bytes(b"what torch reads")
    assert contents(open_checkpoint(tmp_path / "x.pt")).keys() == {"list/1/0", "list/1/1/b", "3"}


def test_names_are_sorted_as_one_counts() -> None:
    names = ["a10", "a9", "b1", "10", "9", "a", "a9b2", "a9b10"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a9", "a9b2", "a9b10", "a10", "b1"]


def test_messages_are_one_printable_line() -> None:
    assert printable("a\n\x1bé\t") == r"a\n\x1bé\t"
    assert str(CheckpointError(" two\n lines\x07 ")) == r"two lines\x07"
    with pytest.raises(CheckpointError, match=r"^it needs nowhere, which is not installed: pip install 'x'$"):
        require("nowhere.to.be", "it", "'x'")
    assert require("os.path", "it", "x") is __import__("os").path


@pytest.mark.parametrize("kind", [Adapter, Checkpoint, Inspection, LeftOut, ModuleRecord, Spectrum, Tensor, View])
def test_what_was_read_is_not_changed(kind: type) -> None:
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(object.__new__(kind), name, "other")
