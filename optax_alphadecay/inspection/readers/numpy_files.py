"""Reads `.npy` and `.npz`; arrays of Python objects, which are pickles, are refused."""
# SPDX-License-Identifier: Apache-2.0

import math
import pathlib
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from optax_alphadecay.inspection.tensors import CheckpointError, Tensor, slashed

_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,  # NumPy's, at a header that is no Python literal
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile's, at a compression or a version that it does not know
    RuntimeError,  # zipfile's, at an encrypted member
)
"""What NumPy and zipfile raise at a file that is damaged, or that they cannot read."""


def read_npy(path: pathlib.Path) -> list[Tensor]:
    """List the one array of a ``.npy`` file.

    Raises:
      CheckpointError: if it is damaged, or holds Python objects.
    """
    with path.open("rb") as file:
        return [_tensor(path, path.stem, file, path.stat().st_size, lambda: path.open("rb"))]


def read_npz(path: pathlib.Path) -> list[Tensor]:
    """List the arrays of a ``.npz`` file. Only their headers are read.

    Raises:
      CheckpointError: if it is damaged, or an array holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = []
            for member in archive.infolist():
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    tensors.append(_tensor(path, name, file, member.file_size, lambda m=member: _open(path, m)))
            return tensors
    except CheckpointError:
        raise
    except _BROKEN as error:
        raise CheckpointError(f"{path}: this .npz file cannot be read: {error}") from error


def _open(path: pathlib.Path, member: zipfile.ZipInfo) -> IO[bytes]:
    return zipfile.ZipFile(path).open(member)


def _tensor(path: pathlib.Path, name: str, file: IO[bytes], size: int, reopen: Any) -> Tensor:
    """Read the header of one array, and hold it against the size of what follows."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read_header(file)
    except (KeyError, *_BROKEN) as error:
        raise CheckpointError(f"{path}: {name!r} is not an array of NumPy: {error}") from error
    if dtype.hasobject:
        raise CheckpointError(
            f"{path}: {name!r} holds Python objects, a pickle, which is never executed here; save plain arrays instead"
        )
    if min(shape, default=0) < 0:
        raise CheckpointError(f"{path}: {name!r} has a negative size in its header: {list(shape)}")
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise CheckpointError(f"{path}: {name!r} should be {dtype}{list(shape)}, but the file has {size} bytes for it")

    def load() -> np.ndarray:
        try:
            with reopen() as file:
                return np.array(np.lib.format.read_array(file, allow_pickle=False))
        except _BROKEN as error:
            raise CheckpointError(f"{path}: {name!r} cannot be read: {error}") from error

    return Tensor(slashed(name), tuple(shape), dtype, load)
