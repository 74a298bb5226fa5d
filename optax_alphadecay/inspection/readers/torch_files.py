"""Reads PyTorch's files, only by `weights_only` loading, which executes no pickle."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from optax_alphadecay.inspection.tensors import CheckpointError, LeftOut, Tensor, require, slashed


def read(path: pathlib.Path) -> list[Tensor | LeftOut]:
    """List the tensors of a file that ``torch.save`` wrote, in dictionaries and lists of any depth.

    The file is mapped into memory, so that a tensor's pages are read when it is loaded.

    Returns:
      What can be read, and sparse and quantized tensors and those of dtypes that NumPy lacks with the reason.

    Raises:
      CheckpointError: if torch is not installed, or the file needs a pickle to be executed, or is damaged.
    """
    torch = require("torch", f"{path}: reading PyTorch's files", "torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own ways to store old and quantized tensors
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file makes torch and pickle raise anything
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise CheckpointError(
                f"{path}: refused, since loading it would execute a pickle; save the tensors alone, for instance as"
                " safetensors"
            ) from error
        raise CheckpointError(
            f"{path}: not a file of PyTorch, or a damaged one: {str(error).partition('.')[0]}"
        ) from error
    tensors = [_entry(torch, path, slashed(name), tensor) for name, tensor in _tensors(torch, "", contents)]
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


def _entry(torch: Any, path: pathlib.Path, name: str, tensor: Any) -> Tensor | LeftOut:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        how = "no values" if tensor.is_meta else "nested" if tensor.is_nested else str(tensor.layout)
        # A nested tensor has no shape.
        shape = () if tensor.is_nested else tuple(tensor.shape)
        return LeftOut(name, shape, kind, f"not a dense tensor, but {how.removeprefix('torch.')}")
    try:
        dtype = jnp.dtype("bool_" if kind == "bool" else kind)
    except TypeError:
        return LeftOut(name, tuple(tensor.shape), kind, f"NumPy and JAX have no dtype {kind}")

    def load() -> np.ndarray:
        try:
            own = tensor.detach().contiguous().clone()
            # NumPy has no type for bfloat16 and float8 that torch knows: their bytes go by an integer.
            integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}[dtype.itemsize]
            values: np.ndarray = own.view(integer).numpy().view(dtype)
        except RuntimeError as error:  # such as a shape that its few stored values do not fill
            raise CheckpointError(f"{path}: torch cannot read {name!r}: {str(error).partition('. ')[0]}") from error
        return values

    return Tensor(name, tuple(tensor.shape), dtype, load)
