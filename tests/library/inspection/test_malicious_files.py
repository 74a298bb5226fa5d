"""Truncated, corrupt, empty, foreign and malicious files get one line, and nothing in them is executed."""
# SPDX-License-Identifier: Apache-2.0

import io
import json
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from optax_alphadecay.inspection.command import main
from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.tensors import CheckpointError


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: Any, first: Any, last: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


GOOD = safetensors_bytes({"w": entry([2, 2], 0, 16)}, b"\0" * 16)
SAFETENSORS = {
    "announces more than there is": (b"\xff" * 8 + b"{}", "not a safetensors file"),
    "is a few bytes": (b"abc", "not a safetensors file"),
    "is truncated": (GOOD[:-4], "bytes 0 to 16"),
    "has bytes too many": (GOOD + b"\0", "the header lists 16 bytes of data, but the file holds 17"),
    "is no JSON": (safetensors_bytes(b"{'w': 1"), "cannot be read"),
    "is no text": (safetensors_bytes(b"\xff\xfe\xfd\xfc"), "cannot be read"),
    "is a list": (safetensors_bytes([1]), "it is no JSON object"),
    "is nested deeply": (safetensors_bytes(b"[" * 100_000), "cannot be read"),
    "says a name twice": (safetensors_bytes(b'{"w": 1, "w": 2}'), "a name appears twice"),
    "holds a number": (safetensors_bytes({"w": 3}), "wrong about 'w'"),
    "lies about a shape": (safetensors_bytes({"w": entry([10**9, 10**9], 0, 16)}, b"\0" * 16), "wrong about 'w'"),
    "has a negative shape": (safetensors_bytes({"w": entry([-2, -2], 0, 16)}, b"\0" * 16), "negative"),
    "has a fractional shape": (safetensors_bytes({"w": entry([2.0, 2], 0, 16)}, b"\0" * 16), "negative or fractional"),
    "has an unknown type": (
        safetensors_bytes({"w": entry([2, 2], 0, 16, "F3")}, b"\0" * 16),
        "wrong about 'w': its dtype 'F3' is none of F64, F32",
    ),
    "has no type": (
        safetensors_bytes({"w": {"dtype": None, "shape": [], "data_offsets": [0, 0]}}),
        "its dtype None is",
    ),
    "has no shape": (safetensors_bytes({"w": {"dtype": "F32", "data_offsets": [0, 0]}}), "gives 'w' no 'shape'"),
    "has tensors that overlap": (
        safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, b"\0" * 24),
        "wrong about 'b'",
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_whose_header(tmp_path: pathlib.Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, said = SAFETENSORS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert main([str(path)]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert str(path) in output.err and said in output.err


class Bomb:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, target: pathlib.Path):
        self.target = target

    def __reduce__(self) -> Any:
        """Say what to call."""
        return pathlib.Path.write_text, (self.target, "executed")


def test_no_pickle_is_executed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(target))
    (tmp_path / "x.pkl").write_bytes(bomb)
    (tmp_path / "x.pt").write_bytes(bomb)
    np.save(tmp_path / "x.npy", np.array([Bomb(target)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", allow_pickle=True, w=np.array([Bomb(target)], dtype=object))
    for name in ("x.pkl", "x.pt", "x.npy", "x.npz"):
        assert main([str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and name in error
        # Without torch, its files are not even opened.
        assert "pickle" in error or "pip install torch" in error
    assert not target.exists()
    pickle.loads(bomb)  # it would have
    assert target.exists()


def npy_bytes(shape: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy_bytes("(100000, 100000)", b"\0" * 16), "but the file has"),
        (npy_bytes("(-2, -2)", b"\0" * 16), "negative size"),
        (npy_bytes("__import__('os').abort()", b""), "is not an array of NumPy"),
        (npy_bytes("(2, 2)", b"\0" * 16, b"\x09\x00"), "is not an array of NumPy"),
        (b"\x93NUM", "is not an array of NumPy"),
    ],
)
def test_arrays_that_lie(tmp_path: pathlib.Path, content: bytes, said: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("w.npy", content)
    (tmp_path / "x.npz").write_bytes(archive.getvalue())
    for name in ("x.npy", "x.npz"):
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(tmp_path / name)


def test_archives_that_are_damaged(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.random.default_rng(0).standard_normal((64, 64)))
    content = bytearray(path.read_bytes())
    content[20_000:20_100] = b"\0" * 100
    path.write_bytes(content)
    [tensor] = open_checkpoint(path).tensors
    with pytest.raises(CheckpointError, match="'w' cannot be read"):
        tensor.load()
    path.write_bytes(content[:-500])
    with pytest.raises(CheckpointError, match=r"this \.npz file cannot be read"):
        open_checkpoint(path)


def test_what_is_no_checkpoint(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "photo.jpeg").write_bytes(b"\xff\xd8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "model.safetensors.index.json").write_text("[1")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"r": 0}')
    np.save(tmp_path / "lora" / "w.npy", np.ones(3))
    for path, said in [
        ("empty.safetensors", "the file is empty"),
        ("photo.jpeg", "not a checkpoint by its name; what can be read is safetensors"),
        ("folder", "there is no checkpoint in this folder"),
        ("index", "not an index of shards"),
        ("lora", "not the settings of an adapter"),
        ("nothing", "there is no such file or folder"),
    ]:
        assert main([str(tmp_path / path)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error, error


def test_what_is_left_out_forges_no_lines(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = "w\n\x1b[31mforged"
    ocp.PyTreeCheckpointer().save(tmp_path / "orbax", {"params": {"w": np.ones((2, 2))}, forged: np.ones(3)})
    (tmp_path / "shards").mkdir()
    np.savez(tmp_path / "shards" / f"{forged}.npz", **{f"optimizer/{forged}": np.ones(3), "w": np.ones((2, 2))})  # type: ignore[arg-type]
    (tmp_path / "shards" / "w\x1b[2J.pt").touch()
    for folder, names in (
        ("orbax", [r"w\n\x1b[31mforged"]),
        ("shards", [r"optimizer/w\n\x1b[31mforged", r"w\x1b[2J.pt"]),
    ):
        left_out = open_checkpoint(tmp_path / folder).left_out
        assert sorted(left.name for left in left_out) == names
        assert all(text.isprintable() for left in left_out for text in (left.name, left.dtype, left.reason))
        assert main([str(tmp_path / folder), "--left-out"]) == 1  # there is no module
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err and names[0] in shown.out


def test_errors_of_the_system_and_names_that_forge_lines(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({"w\n\x1b[31mforged": entry([2, 2], 0, 16)}, b"\0" * 16))
    [tensor] = open_checkpoint(path).tensors
    assert tensor.name == r"w\n\x1b[31mforged"
    path.write_bytes(safetensors_bytes({"w\n\x1b[31mforged": entry([2, 3], 0, 16)}, b"\0" * 16))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()

    def refuse(*args: Any, **named: Any) -> Any:
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", refuse)
        with pytest.raises(CheckpointError, match="cannot be read: not yours"):
            open_checkpoint(path)
