"""Checkpoints in every format are listed and read as they were written, a tensor at a time."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.tensors import Checkpoint, CheckpointError

RNG = np.random.default_rng(0)
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I64": np.int64,
}


def contents(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.load() for tensor in checkpoint.tensors}


def write_safetensors(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """The format by hand, for types that the writer for NumPy does not know."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header, data = {}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_safetensors_that_its_own_writer_wrote(tmp_path: pathlib.Path) -> None:
    arrays = {f"layers.{i}.up.weight": RNG.standard_normal((4, 6)).astype(np.float32) for i in (10, 9)}
    arrays["scalar"] = np.array(3.0, np.float16)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["layers/9/up/weight", "layers/10/up/weight", "scalar"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(contents(checkpoint)[name.replace(".", "/")], array)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_safetensors_of_every_type(tmp_path: pathlib.Path, dtype: Any) -> None:
    array = (RNG.standard_normal((3, 5)) * 4).astype(dtype)
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", {"w": array}))
    [tensor] = checkpoint.tensors
    assert (tensor.dtype, tensor.shape) == (array.dtype, (3, 5))
    np.testing.assert_array_equal(tensor.load().view(np.uint8), array.view(np.uint8))


def test_shards_and_their_index(tmp_path: pathlib.Path) -> None:
    arrays = {f"w{i}": RNG.standard_normal((2, 2)).astype(np.float32) for i in range(3)}
    shard_of = {"w0": "model-00001-of-00002.safetensors", "w1": "model-00001-of-00002.safetensors"}
    shard_of["w2"] = "model-00002-of-00002.safetensors"
    for shard in set(shard_of.values()):
        own = {name: arrays[name] for name in arrays if shard_of[name] == shard}
        safetensors.numpy.save_file(own, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    for path in (tmp_path, index):
        read = contents(open_checkpoint(path))
        assert read.keys() == arrays.keys()
        assert all((read[name] == arrays[name]).all() for name in arrays)

    index.write_text(json.dumps({"weight_map": {**shard_of, "w3": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="names 1 tensors that are in no file, the first 'w3'"):
        open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"w": "model-00003-of-00003.safetensors"}}))
    with pytest.raises(CheckpointError, match="1 files that are not there, the first model-00003"):
        open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"w": "../../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="a shard lies outside the folder"):
        open_checkpoint(tmp_path)


def test_two_tensors_of_one_name_are_an_error(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="two tensors called 'w'"):
        open_checkpoint(tmp_path)


def test_moments_of_an_optimizer_are_no_weights(tmp_path: pathlib.Path) -> None:
    """As a trainer of PyTorch saves them, beside the model in one file."""
    names = [
        "model_state.up.weight",
        "optimizer_state.state.0.exp_avg",
        "opt_state.mu.up",
        "Optimizer_states.0.x",
        "opt.up",
    ]
    arrays = {name: np.ones((2, 3), np.float32) for name in names}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["model_state/up/weight", "opt/up"]
    assert {tensor.name: tensor.reason for tensor in checkpoint.left_out} == {
        name.replace(".", "/"): "the state of a trainer" for name in names[1:4]
    }


def test_arrays_of_numpy(tmp_path: pathlib.Path) -> None:
    arrays = {"layers.0.up": RNG.standard_normal((4, 6)), "count": np.array(3)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    np.savez_compressed(tmp_path / "b.npz", **arrays)  # type: ignore[arg-type]
    for name in ("a.npz", "b.npz"):
        read = contents(open_checkpoint(tmp_path / name))
        np.testing.assert_array_equal(read["layers/0/up"], arrays["layers.0.up"])
        assert read["count"] == 3
    np.save(tmp_path / "up.npy", np.asfortranarray(arrays["layers.0.up"]))
    [tensor] = open_checkpoint(tmp_path / "up.npy").tensors
    assert tensor.name == "up"
    np.testing.assert_array_equal(tensor.load(), arrays["layers.0.up"])


def test_orbax_in_the_layouts_of_flax_maxtext_and_this_project(tmp_path: pathlib.Path) -> None:
    params = {"layers": {"up": jnp.arange(12.0, dtype=jnp.bfloat16).reshape(3, 4)}, "scale": jnp.ones(4)}
    train_state = {"params": {"params": params}, "opt_state": {"mu": params}, "step": 3}
    flax, maxtext, ours = tmp_path / "flax", tmp_path / "maxtext", tmp_path / "ours" / "checkpoints"
    ocp.PyTreeCheckpointer().save(flax / "checkpoint_7", params)
    for step in (9, 10):
        with ocp.CheckpointManager(maxtext) as manager:
            manager.save(step, args=ocp.args.Composite(items=ocp.args.PyTreeSave(train_state)))
    with ocp.CheckpointManager(ours) as manager:
        items = {"params": ocp.args.StandardSave(params), "opt_state": ocp.args.StandardSave({"mu": params})}
        manager.save(3, args=ocp.args.Composite(**items))
    for path in (
        flax,
        flax / "checkpoint_7",
        maxtext,
        maxtext / "10",
        maxtext / "9" / "items",
        ours.parent,
        ours / "3",
    ):
        checkpoint = open_checkpoint(path)
        read = contents(checkpoint)
        assert read.keys() == {"layers/up", "scale"}, path
        newest = {flax: "checkpoint_7", maxtext: "10/items", ours.parent: "checkpoints/3/params"}
        if path in newest:
            assert checkpoint.path == str(path / newest[path])
        assert read["layers/up"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(read["layers/up"], np.asarray(params["layers"]["up"]))  # type: ignore[index]
        in_state = "maxtext" in str(path)
        assert {tensor.name for tensor in checkpoint.left_out} == (
            {"opt_state/mu/layers/up", "opt_state/mu/scale", "step"} if in_state else set()
        )


def test_orbax_that_is_damaged(tmp_path: pathlib.Path) -> None:
    ocp.PyTreeCheckpointer().save(tmp_path / "c", {"w": jnp.ones((3, 4))})
    [tensor] = open_checkpoint(tmp_path / "c").tensors
    for folder in (tmp_path / "c" / "d", tmp_path / "c" / "ocdbt.process_0"):
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="Orbax cannot read 'w'"):
        tensor.load()
    (tmp_path / "c" / "_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match="Orbax cannot read this checkpoint"):
        open_checkpoint(tmp_path / "c")
