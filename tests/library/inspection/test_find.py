"""What a folder is taken for: shards and their index, other files beside them, and adapters' settings."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.tensors import CheckpointError
from tests.library.inspection.test_torch_reader import FakeTensor, fake_torch

ONES = np.ones((2, 3), np.float32)


def save(path: pathlib.Path, *names: str) -> None:
    safetensors.numpy.save_file(dict.fromkeys(names, ONES), path)


def write_index(path: pathlib.Path, shard_of: Any) -> None:
    path.write_text(json.dumps({"weight_map": shard_of}))


def names_in(path: pathlib.Path) -> list[str]:
    return [tensor.name for tensor in open_checkpoint(path).tensors]


def left_out_of(path: pathlib.Path) -> dict[str, str]:
    return {left.name: left.reason for left in open_checkpoint(path).left_out}


def test_shards_may_hold_more_than_their_index_says(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "model-1.safetensors", "layers.0.up", "layers.1.up")
    save(tmp_path / "other.safetensors", "x")
    write_index(tmp_path / "model.safetensors.index.json", {"layers.0.up": "model-1.safetensors"})
    assert names_in(tmp_path) == ["layers/0/up", "layers/1/up"]
    assert left_out_of(tmp_path) == {"other.safetensors": "model.safetensors.index.json was read instead"}


def test_what_shards_hold_and_the_index_does_not_find(tmp_path: pathlib.Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save(tmp_path / "m2.safetensors", "a")
    write_index(index, {"a": "m10.safetensors", "b": "m2.safetensors", "c": "m3.safetensors"})
    with pytest.raises(CheckpointError, match=r"names 2 files that are not there, the first m3\.safetensors"):
        open_checkpoint(tmp_path)
    write_index(index, {"a": "m2.safetensors", "x.c": "m2.safetensors", "x.b": "m2.safetensors"})
    with pytest.raises(CheckpointError, match="names 2 tensors that are in no file, the first 'x/b'"):
        open_checkpoint(tmp_path)
    for broken in ({"a": 3}, {"a": "sub/m2.safetensors"}):
        write_index(index, broken)
        with pytest.raises(CheckpointError, match="not an index of shards"):
            open_checkpoint(tmp_path)


def test_the_first_index_is_read(tmp_path: pathlib.Path) -> None:
    for name in ("b", "a"):
        save(tmp_path / f"{name}-1.safetensors", name)
        write_index(tmp_path / f"{name}.safetensors.index.json", {name: f"{name}-1.safetensors"})
    assert names_in(tmp_path) == ["a"]
    assert left_out_of(tmp_path) == {"b-1.safetensors": "a.safetensors.index.json was read instead"}


def test_a_tensor_that_is_left_out_is_not_lost(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index counts what a shard holds, if it can be measured or not."""
    state = {"up": FakeTensor(ONES), "quantized": FakeTensor(ONES, dtype="torch.qint8")}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(lambda path, **options: state))
    (tmp_path / "m.bin").write_bytes(b"what torch reads")
    write_index(tmp_path / "pytorch_model.bin.index.json", {"up": "m.bin", "quantized": "m.bin"})
    assert names_in(tmp_path) == ["up"] and list(left_out_of(tmp_path)) == ["quantized"]


def test_other_formats_in_a_folder_are_left_out(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "b.safetensors", "b")
    save(tmp_path / "a.safetensors", "a")
    save(tmp_path / "scheduler.safetensors", "s")
    np.savez(tmp_path / "m.npz", w=ONES)
    (tmp_path / "notes.txt").touch()
    assert names_in(tmp_path) == ["a", "b"]
    assert left_out_of(tmp_path) == {
        "m.npz": "a.safetensors was read instead",
        "scheduler.safetensors": "the state of a trainer",
    }


def test_suffixes_may_be_in_capitals(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "m.npz", w=ONES)
    (tmp_path / "m.npz").rename(tmp_path / "M.NPZ")
    assert names_in(tmp_path / "M.NPZ") == ["w"]


def test_only_names_that_are_there_twice_are_called_so(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "a.safetensors", "a", "w", "v")
    save(tmp_path / "b.safetensors", "b", "w", "v")
    with pytest.raises(CheckpointError, match="there are two tensors called 'v'"):
        open_checkpoint(tmp_path)


def test_settings_of_an_adapter_are_those_beside_the_file(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "m.safetensors", "w")
    assert open_checkpoint(tmp_path).lora_scale is None
    for settings, scale in (({"r": 16, "lora_alpha": 8}, 0.5), ({"r": 16, "lora_alpha": 8, "use_rslora": True}, 2)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        assert open_checkpoint(tmp_path).lora_scale == scale
        assert open_checkpoint(tmp_path / "m.safetensors").lora_scale == scale


@pytest.mark.parametrize(
    "content", ['{"r": 1', "{}", '{"r": 8}', "[1]", '{"r": null}', '{"r": 0, "lora_alpha": 8}', "[" * 100_000]
)
def test_settings_that_are_none_of_an_adapter(tmp_path: pathlib.Path, content: str) -> None:
    save(tmp_path / "m.safetensors", "w")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="not the settings of an adapter"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"{}", b"[1]", b'{"weight_map": [1]}', b'{"weight_map": {"a": []}}', b"[" * 100_000]
)
def test_what_is_no_index(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "m.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="not an index of shards"):
        open_checkpoint(tmp_path)


def test_fingerprints_change_with_the_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, "w")
    first = open_checkpoint(path).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", first) and open_checkpoint(tmp_path).fingerprint == first
    save(tmp_path / "n.safetensors", "v")
    assert open_checkpoint(tmp_path).fingerprint != first == open_checkpoint(path).fingerprint
