"""Reads safetensors: a header that lists the tensors, then their bytes."""
# SPDX-License-Identifier: Apache-2.0

import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from optax_alphadecay.inspection.tensors import CheckpointError, Tensor, slashed

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "F8_E4M3FNUZ": jnp.float8_e4m3fnuz,
    "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
    "F8_E8M0": jnp.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
# As the format's own reader has it.
_LONGEST_HEADER = 100_000_000


def read(path: pathlib.Path) -> list[Tensor]:
    """List the tensors of a safetensors file. Only its header is read.

    Args:
      path: the file.

    Raises:
      CheckpointError: if the header is not one, or does not agree with the size of the file.
    """
    header, start = _header(path)
    size = path.stat().st_size - start
    tensors, end = [], 0
    entries = [(name, *_entry(path, name, entry)) for name, entry in header.items() if name != "__metadata__"]
    for name, dtype, shape, first, last in sorted(entries, key=lambda entry: entry[3:]):
        # The format has no gaps between tensors, and none that overlap.
        if first != end or last - first != math.prod(shape) * dtype.itemsize or last > size:
            raise CheckpointError(
                f"{path}: the header of this safetensors file is wrong about {name!r}, or the file is truncated: bytes"
                f" {first} to {last} for {dtype}{list(shape)}, behind byte {end} of {size}"
            )
        end = last
        tensors.append(_tensor(path, name, shape, dtype, start + first))
    if end != size:
        raise CheckpointError(
            f"{path}: the header lists {end} bytes of data, but the file holds {size}; is it truncated?"
        )
    return tensors


def _header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Parse the header; also where the data begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(
                f"{path}: not a safetensors file, or a truncated one: its first 8 bytes announce a header of {length}"
                f" bytes, and the file has {size} bytes"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header of this safetensors file cannot be read: {error}") from error
    return header, 8 + length


def _entry(path: pathlib.Path, name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Check one entry of the header, and give its dtype, its shape, and where its bytes begin and end."""
    try:
        kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if kind not in _DTYPES:
            raise ValueError(f"its dtype {kind!r} is none of {', '.join(_DTYPES)}")
        if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
            raise ValueError("negative or fractional sizes")
    except KeyError as error:
        raise CheckpointError(f"{path}: the header of this safetensors file gives {name!r} no {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the header of this safetensors file is wrong about {name!r}: {error}"
        ) from error
    return np.dtype(_DTYPES[kind]), shape, first, last


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name appears twice")
    return dict(pairs)


def _tensor(path: pathlib.Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> Tensor:
    def load() -> np.ndarray:
        values = np.fromfile(path, dtype, math.prod(shape), offset=offset)
        return values.reshape(shape)

    return Tensor(slashed(name), shape, dtype, load)
