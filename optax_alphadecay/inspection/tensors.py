"""What a checkpoint holds, before any of it is read: names, shapes, and how to load one tensor."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message is one line that names the file and the cause."""

    def __init__(self, message: str):
        """Keep the message on one line, whatever a damaged file has put into it."""
        super().__init__(printable(" ".join(message.split())))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, not loaded."""

    name: str
    """Components joined by slashes."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: np.dtype[Any]
    """How it is stored; bfloat16 and the float8 types are those of ``ml_dtypes``."""
    load: Callable[[], np.ndarray]
    """Reads it into memory of its own, which the caller may overwrite."""


FILE = "file"
"""What stands for the dtype of a file that is left out as a whole."""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A tensor, or a file of a checkpoint, that is not measured."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """How it is stored."""
    reason: str
    """Why it is left out."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, in natural order of their names."""

    path: str
    """Where it was read from."""
    tensors: tuple[Tensor, ...]
    """Its parameters."""
    left_out: tuple[LeftOut, ...] = ()
    """What it holds besides parameters."""
    lora_scale: float | None = None
    """What the product of an adapter's factors is multiplied by, if the checkpoint says so."""
    fingerprint: str = ""
    """Changes when the files do."""


def require(module: str, purpose: str, install: str) -> Any:
    """Import a package that the library does not depend on.

    Args:
      module: its name.
      purpose: what needs it, the start of the error.
      install: what to install, as pip takes it.

    Raises:
      CheckpointError: if it is not installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        raise CheckpointError(f"{purpose} needs {top}, which is not installed: pip install {install}") from error


def slashed(name: str) -> str:
    """Join the components of a name by slashes: ``"layers.0.up"`` is ``"layers/0/up"``."""
    return name.replace(".", "/")


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort numbers in names by value: layer 2 before layer 10."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)


def printable(text: str) -> str:
    """Replace characters that a terminal would act on by their escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
