"""Finds out what a path is, and reads it."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from optax_alphadecay.inspection.readers import numpy_files, orbax_folders, safetensors_files, torch_files
from optax_alphadecay.inspection.tensors import (
    FILE,
    Checkpoint,
    CheckpointError,
    LeftOut,
    Tensor,
    natural_key,
    printable,
)

Reader = Callable[[pathlib.Path], Sequence[Tensor | LeftOut]]
"""Lists what a file holds: what can be read, and what cannot with the reason."""

_READERS: dict[str, Reader] = {
    ".safetensors": safetensors_files.read,
    ".npz": numpy_files.read_npz,
    ".npy": numpy_files.read_npy,
    ".pt": torch_files.read,
    ".pth": torch_files.read,
    ".bin": torch_files.read,
    ".ckpt": torch_files.read,
}
_FORMATS = (
    "safetensors (one file, or a folder with its shards and index), Orbax folders, .npz, .npy, and .pt, .pth, .bin or"
    " .ckpt"
)
# What trainers save beside a model: those of Hugging Face, also for each process.
_OF_TRAINER = re.compile(
    r"(optimizer|scheduler|scaler|sampler|training_args|rng_state|random_states|dl_state_dict)([_-].*)?", re.IGNORECASE
)
_PICKLES = {".pkl", ".pickle", ".joblib", ".dill"}
_INDEX = ".index.json"
# Components of names that hold moments, which look like weights.
_OF_OPTIMIZER = re.compile(r"(optimizers?|optim)(_states?|_state_dicts?)?|opt_states?", re.IGNORECASE)
_BY_TRAINER = "the state of a trainer"


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """List what a checkpoint holds, without reading its tensors.

    Args:
      path: a file or a folder.

    Raises:
      CheckpointError: one line that names the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    try:
        files, tensors, left_out = _read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply to be a checkpoint") from error
    names = [tensor.name for tensor in tensors]
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise CheckpointError(f"{path}: there are two tensors called {min(twice)!r}")
    of_trainer = {name for name in names if any(map(_OF_OPTIMIZER.fullmatch, name.split("/")))}
    left_out += [
        LeftOut(tensor.name, tensor.shape, str(tensor.dtype), _BY_TRAINER)
        for tensor in tensors
        if tensor.name in of_trainer
    ]
    named = [
        Tensor(printable(tensor.name), tensor.shape, tensor.dtype, tensor.load)
        for tensor in tensors
        if tensor.name not in of_trainer
    ]
    return Checkpoint(
        printable(str(_what_was_read(path, files))),
        tuple(sorted(named, key=lambda tensor: natural_key(tensor.name))),
        tuple(map(_printable, left_out)),
        _lora_scale(path if path.is_dir() else path.parent),
        _fingerprint(files),
    )


def _what_was_read(path: pathlib.Path, files: Sequence[pathlib.Path]) -> pathlib.Path:
    """The file or the folder that the tensors are in: of a folder with several steps, for instance, the one taken."""
    if len(files) > 1:
        return path
    return files[0].parent if files[0].name == orbax_folders.TREE else files[0]


def _printable(left: LeftOut) -> LeftOut:
    """Clean what is shown of an entry: a checkpoint may name its tensors, and a folder its files, as it likes."""
    name, dtype, reason = map(printable, (left.name, left.dtype, left.reason))
    return dataclasses.replace(left, name=name, dtype=dtype, reason=reason)


def _read(path: pathlib.Path) -> tuple[list[pathlib.Path], list[Tensor], list[LeftOut]]:
    """Read a file or a folder; also the files that tell whether it has changed."""
    if path.is_file():
        if path.name.endswith(_INDEX):
            return _read_shards(path)
        return [path], *_read_all([path])
    for pattern in ("*.safetensors" + _INDEX, "*.bin" + _INDEX):
        if indices := sorted(path.glob(pattern)):
            files, tensors, left_out = _read_shards(indices[0])
            return files, tensors, left_out + _not_read(path, files)
    for suffix in _READERS:
        if files := [file for file in sorted(path.glob("*" + suffix)) if not _OF_TRAINER.fullmatch(file.stem)]:
            tensors, left_out = _read_all(files)
            return files, tensors, left_out + _not_read(path, files)
    if tree := orbax_folders.find(path):
        return [tree / orbax_folders.TREE], *orbax_folders.read(tree)
    only = "".join(f"; {left.name} is {left.reason}" for left in _not_read(path, []))
    raise CheckpointError(f"{path}: there is no checkpoint in this folder; what can be read is {_FORMATS}{only}")


def _not_read(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> list[LeftOut]:
    """Say why the other files of a folder, which could be read too, are left out."""
    others = (file for file in sorted(folder.iterdir()) if file.suffix in _READERS and file not in files)
    return [
        LeftOut(
            file.name,
            (),
            FILE,
            _BY_TRAINER if _OF_TRAINER.fullmatch(file.stem) else f"{files[0].name} was read instead",
        )
        for file in others
    ]


def _read_all(files: Sequence[pathlib.Path]) -> tuple[list[Tensor], list[LeftOut]]:
    found = [entry for file in files for entry in _reader_of(file)(file)]
    return [entry for entry in found if isinstance(entry, Tensor)], [
        entry for entry in found if isinstance(entry, LeftOut)
    ]


def _reader_of(path: pathlib.Path) -> Reader:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise CheckpointError(f"{path}: refused, since reading it would execute a pickle; save plain arrays instead")
    if suffix not in _READERS:
        raise CheckpointError(f"{path}: not a checkpoint by its name; what can be read is {_FORMATS}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    return _READERS[suffix]


def _read_shards(index: pathlib.Path) -> tuple[list[pathlib.Path], list[Tensor], list[LeftOut]]:
    """Read a checkpoint in several files, whose index says which tensor lies where."""
    try:
        shard_of: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(shard_of.values()), key=natural_key)
        if not all(pathlib.PurePath(name).name == name for name in names):
            raise ValueError("a shard lies outside the folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {error}") from error
    files = [index.parent / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{index}: it names {len(missing)} files that are not there, the first {missing[0]}")
    tensors, left_out = _read_all(files)
    if (
        lost := {name.replace(".", "/") for name in shard_of}
        - {tensor.name for tensor in tensors}
        - {left.name for left in left_out}
    ):
        raise CheckpointError(f"{index}: it names {len(lost)} tensors that are in no file, the first {min(lost)!r}")
    return [index, *files], tensors, left_out


def _lora_scale(folder: pathlib.Path) -> float | None:
    """Read what PEFT multiplies the product of an adapter's factors by."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank = float(config["r"])
        scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(f"{path}: not the settings of an adapter: {error!r}") from error
    return scale


def _fingerprint(files: list[pathlib.Path]) -> str:
    facts = [(file.resolve().as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
