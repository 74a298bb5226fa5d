"""The reader of PyTorch's files, over a stand-in for torch; test_torch_files.py has the real one."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import sys
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import optax_alphadecay as oad
from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.summary import sentences
from optax_alphadecay.inspection.tensors import Checkpoint, CheckpointError

RNG = np.random.default_rng(0)


def contents(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.load() for tensor in checkpoint.tensors}


class FakeTensor:
    """What the reader uses of torch.Tensor, over an array of NumPy."""

    layout, is_nested, is_meta = "torch.strided", False, False

    def __init__(self, array: np.ndarray, **other: Any):
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype.name}"
        vars(self).update(other)

    def detach(self) -> "FakeTensor":
        return self

    contiguous = clone = detach

    def view(self, dtype: Any) -> "FakeTensor":
        return FakeTensor(self.array.copy().view(dtype))

    def numpy(self) -> np.ndarray:
        return self.array


def fake_torch(load: Any) -> types.ModuleType:
    torch = types.ModuleType("torch")
    fields = {
        "Tensor": FakeTensor,
        "strided": FakeTensor.layout,
        "load": load,
        "uint8": np.uint8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
    }
    for name, value in fields.items():
        setattr(torch, name, value)
    return torch


def test_what_torch_loads_is_flattened(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.standard_normal((3, 4)).astype(jnp.bfloat16)
    asked: dict[str, Any] = {}

    def load(path: pathlib.Path, **options: Any) -> Any:
        asked.update(options)
        return {
            "model": {"layers.0.up": FakeTensor(array)},
            "epoch": 3,
            "more": [FakeTensor(array[0].astype(np.float64))],
        }

    monkeypatch.setitem(sys.modules, "torch", fake_torch(load))
    (tmp_path / "x.pt").write_bytes(b"what torch reads")
    read = contents(open_checkpoint(tmp_path / "x.pt"))
    assert asked == {"map_location": "cpu", "weights_only": True, "mmap": False}
    assert read.keys() == {"model/layers/0/up", "more/0"}
    np.testing.assert_array_equal(read["model/layers/0/up"], array)


def test_tensors_that_cannot_be_read_are_left_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any = None) -> Any:
        raise RuntimeError("setStorage: sizes do not fit. More of it")

    array = RNG.standard_normal((3, 4)).astype(np.float32)
    state = {
        "dense": FakeTensor(array),
        "quantized": FakeTensor(array, dtype="torch.qint8"),
        "sparse": FakeTensor(array, layout="torch.sparse_coo"),
        "nested": FakeTensor(array, is_nested=True),
        "meta": FakeTensor(array, is_meta=True),
        "torn": FakeTensor(array, detach=fail),
    }
    monkeypatch.setitem(sys.modules, "torch", fake_torch(lambda path, **options: state))
    (tmp_path / "x.pt").write_bytes(b"what torch reads")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert {tensor.name: tensor.reason for tensor in checkpoint.left_out} == {
        "quantized": "NumPy and JAX have no dtype qint8",
        "sparse": "not a dense tensor, but sparse_coo",
        "nested": "not a dense tensor, but nested",
        "meta": "not a dense tensor, but no values",
    }
    dense, torn = checkpoint.tensors
    np.testing.assert_array_equal(dense.load(), array)
    with pytest.raises(CheckpointError, match=r"x\.pt: torch cannot read 'torn': setStorage: sizes do not fit$"):
        torn.load()


def test_what_a_trainer_saves_beside_a_model_is_left_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = RNG.standard_normal((3, 4)).astype(np.float32)
    opened: list[str] = []

    def load(path: pathlib.Path, **options: Any) -> Any:
        opened.append(path.name)
        return {"w": FakeTensor(array)}

    monkeypatch.setitem(sys.modules, "torch", fake_torch(load))
    state = ["optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "rng_state.pth", "rng_state_1.pth"]
    for name in [*state, "optimizer_1.bin", "pytorch_model.bin"]:
        (tmp_path / name).write_bytes(b"what torch reads")
    checkpoint = open_checkpoint(tmp_path)
    assert opened == ["pytorch_model.bin"] and contents(checkpoint).keys() == {"w"}
    assert {file.name: (file.dtype, file.reason) for file in checkpoint.left_out} == dict.fromkeys(
        [*state, "optimizer_1.bin"], ("file", "the state of a trainer")
    )
    assert "7 files were left out: 7 (the state of a trainer)." in sentences(oad.inspect(tmp_path))
    safetensors.numpy.save_file({"w": array}, tmp_path / "model.safetensors")
    reasons = {file.name: file.reason for file in open_checkpoint(tmp_path).left_out}
    assert reasons["pytorch_model.bin"] == "model.safetensors was read instead" and len(reasons) == 8
    opened.clear()
    open_checkpoint(tmp_path / "optimizer.pt")  # named by itself, it is read
    assert opened == ["optimizer.pt"]
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in this folder; .*; optimizer\.pt is the state of"):
        open_checkpoint(tmp_path)


def test_files_that_torch_refuses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    (tmp_path / "x.pt").write_bytes(b"what torch refuses")
    errors: list[tuple[Exception, str]] = [
        (pickle.UnpicklingError("Weights only load failed"), "refused, since loading it would execute a pickle"),
        (RuntimeError("Cannot use ``weights_only=True`` with TorchScript"), "refused, since loading it"),
        (EOFError("Ran out of input"), "not a file of PyTorch, or a damaged one: Ran out of input"),
        (IndexError("pop from empty list"), "not a file of PyTorch, or a damaged one: pop from empty list"),
    ]
    for error, said in errors:

        def load(path: pathlib.Path, error: Exception = error, **options: Any) -> Any:
            raise error

        monkeypatch.setitem(sys.modules, "torch", fake_torch(load))
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(tmp_path / "x.pt")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(lambda path, **options: {"epoch": 3}))
    with pytest.raises(CheckpointError, match="no tensor in this file"):
        open_checkpoint(tmp_path / "x.pt")
    nested: list[Any] = []
    nested.append(nested)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(lambda path, **options: nested))
    with pytest.raises(CheckpointError, match="nested too deeply"):
        open_checkpoint(tmp_path / "x.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match="needs torch, which is not installed: pip install torch"):
        open_checkpoint(tmp_path / "x.pt")
