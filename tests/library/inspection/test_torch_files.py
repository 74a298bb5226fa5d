"""Files of the real torch, where it is installed: it is not among the packages of the tests."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import types
import zipfile
from typing import Any

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.tensors import CheckpointError

torch: Any = pytest.importorskip("torch", reason="torch is not installed; it is not among the packages of the tests")


def test_tensors_of_every_dtype_and_view(tmp_path: pathlib.Path) -> None:
    weights = torch.randn(3, 4)
    types_ = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool)
    torch.save({"state": {str(at): weights.to(dtype) for at, dtype in enumerate(types_)}}, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    for at, (tensor, dtype) in enumerate(zip(checkpoint.tensors, types_, strict=True)):
        assert tensor.name == f"state/{at}"
        np.testing.assert_array_equal(tensor.load().astype(np.float64), weights.to(dtype).double().numpy())
    views = {"t": weights.T, "part": weights[:, 1:3], "p": torch.nn.Parameter(weights), "one": weights[:1].expand(5, 4)}
    views |= {"scalar": torch.tensor(2.0), "complex": torch.randn(2, 2, dtype=torch.complex128)}
    for legacy in (False, True):
        torch.save(views, tmp_path / "y.pt", _use_new_zipfile_serialization=not legacy)
        assert zipfile.is_zipfile(tmp_path / "y.pt") is not legacy
        for tensor in open_checkpoint(tmp_path / "y.pt").tensors:
            np.testing.assert_array_equal(tensor.load(), views[tensor.name].detach().numpy())


def test_a_module_of_torch_gives_its_singular_values(tmp_path: pathlib.Path) -> None:
    module = torch.nn.TransformerEncoderLayer(64, 4, 96)
    torch.save(module.state_dict(), tmp_path / "model.bin")
    (tmp_path / "training_args.bin").write_bytes(b"of a trainer")
    inspection = oad.inspect(tmp_path, shuffle=False)
    assert {record.name for record in inspection} >= {"linear1/weight", "linear2/weight"}
    for record in inspection:
        weight = module.get_parameter(record.name.replace("/", "."))
        norm = torch.linalg.matrix_norm(weight.double(), 2).item()
        assert record.spectral_norm == pytest.approx(norm)
    assert "training_args.bin" in [left.name for left in inspection.left_out]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*in beta state:UserWarning", "ignore:.*prototype stage:UserWarning")
def test_what_is_no_dense_array_is_left_out(tmp_path: pathlib.Path) -> None:
    weights = torch.randn(3, 4)
    state = {
        "dense": weights,
        "quantized": torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8),
        "sparse": weights.to_sparse(),
        "compressed": weights.to_sparse_csr(),
        "nested": torch.nested.nested_tensor([weights, weights[:2]], layout=torch.strided),
        "meta": weights.to("meta"),
    }
    torch.save(state, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert [tensor.name for tensor in checkpoint.tensors] == ["dense"]
    assert {tensor.name for tensor in checkpoint.left_out} == state.keys() - {"dense"}


def test_files_that_are_refused_or_damaged(tmp_path: pathlib.Path) -> None:
    torch.save({"a class": types.SimpleNamespace(x=1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="would execute a pickle"):
        open_checkpoint(tmp_path / "x.pt")
    # A few bytes that stand for more values than any memory holds.
    torch.save({"w": torch.ones(1).expand(2**30, 2**30)}, tmp_path / "y.pt")
    [tensor] = open_checkpoint(tmp_path / "y.pt").tensors
    with pytest.raises(CheckpointError, match="torch cannot read 'w'"):
        tensor.load()
    torch.save({"w": torch.randn(64, 64)}, tmp_path / "z.pt")
    content = (tmp_path / "z.pt").read_bytes()
    rng = np.random.default_rng(0)
    for at in range(60):
        damaged = bytearray(content[: rng.integers(1, len(content))] if at % 2 else content)
        for place in rng.integers(0, len(damaged), 20):
            damaged[place] = rng.integers(256)
        (tmp_path / "z.pt").write_bytes(damaged)
        try:
            for tensor in open_checkpoint(tmp_path / "z.pt").tensors:
                tensor.load()
        except CheckpointError as error:
            assert "z.pt" in str(error) and str(error).isprintable()
