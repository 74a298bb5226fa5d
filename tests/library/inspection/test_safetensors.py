"""Headers of safetensors files at the bounds of what is allowed, byte by byte."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from typing import Any

import numpy as np
import pytest

from optax_alphadecay.inspection.readers import open_checkpoint, safetensors_files
from optax_alphadecay.inspection.tensors import CheckpointError
from tests.library.inspection.test_malicious_files import entry, safetensors_bytes

VALUES = np.arange(6, dtype=np.float32)


def read(path: pathlib.Path, header: Any, data: bytes = b"") -> dict[str, np.ndarray]:
    path.write_bytes(safetensors_bytes(header, data))
    return {tensor.name: tensor.load() for tensor in open_checkpoint(path).tensors}


@pytest.fixture(name="path")
def path_of_file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "x.safetensors"


def test_tensors_lie_in_any_order_of_names_and_shapes(path: pathlib.Path) -> None:
    header = {"b": entry([2], 16, 24), "a": entry([2, 2], 0, 16)}
    found = read(path, header, VALUES.tobytes())
    assert (found["a"] == [[0, 1], [2, 3]]).all() and (found["b"] == [4, 5]).all()


def test_tensors_without_values_lie_between_others(path: pathlib.Path) -> None:
    header = {"none": entry([0, 3], 24, 24), "all": entry([6], 0, 24), "first": entry([0], 0, 0)}
    found = read(path, header, VALUES.tobytes())
    assert {name: array.shape for name, array in found.items()} == {"none": (0, 3), "all": (6,), "first": (0,)}
    np.testing.assert_array_equal(found["all"], VALUES)


def test_many_tensors(path: pathlib.Path) -> None:
    header = {f"w{at}": entry([], 4 * at, 4 * at + 4) for at in range(300)}
    found = read(path, header, np.arange(300, dtype=np.float32).tobytes())
    assert [found[f"w{at}"] for at in range(300)] == list(range(300))


def test_a_scalar_and_a_half(path: pathlib.Path) -> None:
    found = read(path, {"x": entry([], 0, 4), "h": entry([1], 4, 6, "F16")}, VALUES[1:2].tobytes() + b"\0\x3c")
    assert found["x"].shape == () and found["x"] == 1 and found["h"] == [1]


def test_a_header_alone_holds_nothing(path: pathlib.Path) -> None:
    assert read(path, {}) == {} and read(path, {"__metadata__": {"format": "pt"}}) == {}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry([4], 0, 16), "b": entry([1], 20, 24)}, "bytes 20 to 24 for float32[1], behind byte 16 of 24"),
        ({"a": entry([4], 8, 24)}, "bytes 8 to 24 for float32[4], behind byte 0 of 24"),
        ({"a": entry([5], 0, 24)}, "bytes 0 to 24 for float32[5], behind byte 0 of 24"),
        ({"a": entry([7], 0, 24)}, "bytes 0 to 24 for float32[7], behind byte 0 of 24"),
        ({"a": entry([7], 0, 28)}, "bytes 0 to 28 for float32[7], behind byte 0 of 24"),
        ({"a": entry([-1, -1, 6], 0, 24)}, "negative or fractional sizes"),
        ({"a": entry([6], -24, 0)}, "negative or fractional sizes"),
        ({"a": entry([6], 0, 24.0)}, "negative or fractional sizes"),
        ({"a": entry([6], 0, True)}, "negative or fractional sizes"),
        ({"a": {**entry([6], 0, 24), "data_offsets": [0, 24, 24]}}, "wrong about 'a'"),
        ({"a": entry([5], 0, 20)}, "the header lists 20 bytes of data, but the file holds 24; is it truncated?"),
    ],
)
def test_what_a_header_may_not_say(path: pathlib.Path, header: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(path, header, VALUES.tobytes())
    assert said in str(caught.value)


def test_the_shortest_files(path: pathlib.Path) -> None:
    """Eight bytes announce how long the header is; fewer are no such file."""
    path.write_bytes(b"\0" * 8)
    with pytest.raises(CheckpointError, match="the header of this safetensors file cannot be read"):
        open_checkpoint(path)
    path.write_bytes(b"\2" + b"\0" * 7 + b"{")
    with pytest.raises(CheckpointError, match="announce a header of 2 bytes, and the file has 9 bytes"):
        open_checkpoint(path)


def test_the_longest_header(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"a": entry([6], 0, 24)}
    length = len(safetensors_bytes(header)) - 8
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)  # of zeros that take no space
    with pytest.raises(CheckpointError, match="announce a header of 100000001 bytes"):
        open_checkpoint(path)
    monkeypatch.setattr(safetensors_files, "_LONGEST_HEADER", length)
    assert read(path, header, VALUES.tobytes()).keys() == {"a"}
    monkeypatch.setattr(safetensors_files, "_LONGEST_HEADER", length - 1)
    with pytest.raises(CheckpointError, match=f"announce a header of {length} bytes"):
        read(path, header, VALUES.tobytes())
