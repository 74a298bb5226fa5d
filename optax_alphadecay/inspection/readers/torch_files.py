"""Reads PyTorch's files, only by `weights_only` loading, which executes no pickle."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from optax_alphadecay.inspection.tensors import CheckpointError, Tensor, require, slashed


def read(path: pathlib.Path) -> list[Tensor]:
    """List the tensors of a file that ``torch.save`` wrote, in dictionaries and lists of any depth.

    The file is mapped into memory, so that a tensor's pages are read when it is loaded.

    Raises:
      CheckpointError: if torch is not installed, or the file needs a pickle to be executed, or is damaged.
    """
    torch = require("torch", f"{path}: reading PyTorch's files", "torch")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise CheckpointError(
                f"{path}: refused, since loading it would execute a pickle; save the tensors alone, for instance as"
                " safetensors"
            ) from error
        raise CheckpointError(
            f"{path}: not a file of PyTorch, or a damaged one: {str(error).partition('.')[0]}"
        ) from error
    tensors = [_tensor(torch, slashed(name), tensor) for name, tensor in _tensors(torch, "", contents)]
    if not tensors:
        raise CheckpointError(f"{path}: there is no tensor in this file")
    return tensors


def _tensors(torch: Any, name: str, node: Any) -> Iterator[tuple[str, Any]]:
    children: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(node, torch.Tensor):
        yield name or "tensor", node
    elif isinstance(node, Mapping):
        children = iter(node.items())
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        children = enumerate(node)
    for key, child in children:
        yield from _tensors(torch, f"{name}/{key}" if name else str(key), child)


def _tensor(torch: Any, name: str, tensor: Any) -> Tensor:
    dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch.").replace("bool", "bool_"))

    def load() -> np.ndarray:
        own = tensor.detach().contiguous().clone()
        # NumPy has no type for bfloat16 and float8 that torch knows: their bytes go by an integer.
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        values: np.ndarray = own.view(integer).numpy().view(dtype)
        return values

    return Tensor(name, tuple(tensor.shape), dtype, load)
