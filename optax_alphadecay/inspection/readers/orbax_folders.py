"""Reads Orbax checkpoints: of this project's experiments, of Flax, and in MaxText's layout."""
# SPDX-License-Identifier: Apache-2.0

import logging
import pathlib

import jax
import numpy as np

from optax_alphadecay.inspection.tensors import CheckpointError, LeftOut, Tensor, natural_key, require

TREE = "_METADATA"
"""The file that describes a tree of arrays."""
# Folders that hold a tree of parameters, inside the folder of a step.
_ITEMS = ("params", "items", "default", "state", "model", "pytree")


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Find the folder of the parameters: the path itself, an item in it, or that of the newest step in it."""
    steps = sorted(
        (child for child in path.iterdir() if child.is_dir() and child.name.rpartition("_")[2].isdigit()),
        key=lambda child: natural_key(child.name),
        reverse=True,
    )
    for folder in [path, path / "checkpoints"]:
        if (folder / TREE).exists():
            return folder
        for item in _ITEMS:
            if (folder / item / TREE).exists():
                return folder / item
    for step in steps:
        if found := find(step):
            return found
    return find(path / "checkpoints") if (path / "checkpoints").is_dir() else None


def read(path: pathlib.Path) -> tuple[list[Tensor], list[LeftOut]]:
    """List the arrays of an Orbax tree. Each is read alone.

    Args:
      path: a folder with a ``_METADATA`` file.

    Returns:
      The parameters, and what is there besides them: where a tree has a part ``params``, the rest of it.

    Raises:
      CheckpointError: if Orbax is not installed or cannot read the folder.
    """
    ocp = require("orbax.checkpoint", f"{path}: reading Orbax checkpoints", "'optax-alphadecay[inspect]'")
    logging.getLogger("absl").setLevel(logging.ERROR)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        metadata = handler.metadata(path.resolve()).tree
        leaves, structure = jax.tree_util.tree_flatten_with_path(metadata)
    except Exception as error:  # Orbax and TensorStore raise whatever their layers raise
        raise CheckpointError(f"{path}: Orbax cannot read this checkpoint: {error}") from error

    def load(position: int) -> np.ndarray:
        wanted = [ocp.PLACEHOLDER] * len(leaves)
        leaf = leaves[position][1]
        wanted[position] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        arguments = jax.tree.unflatten(structure, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
        try:
            restored = handler.restore(
                path.resolve(),
                args=ocp.args.PyTreeRestore(item=jax.tree.unflatten(structure, wanted), restore_args=arguments),
            )
            return np.array(jax.tree.leaves(restored)[position])
        except Exception as error:
            raise CheckpointError(f"{path}: Orbax cannot read {names[position]!r}: {error}") from error

    names = [jax.tree_util.keystr(key, simple=True, separator="/") for key, _ in leaves]
    has_params = any(name.startswith("params/") for name in names)
    tensors, left_out = [], []
    for position, (name, (_, leaf)) in enumerate(zip(names, leaves, strict=True)):
        shape, dtype = tuple(getattr(leaf, "shape", ())), getattr(leaf, "dtype", None)
        if dtype is None or (has_params and not name.startswith("params/")):
            left_out.append(LeftOut(name, shape, str(dtype), "not a parameter: it lies outside params"))
            continue
        own_name = name.removeprefix("params/").removeprefix("params/") if has_params else name
        tensors.append(Tensor(own_name, shape, np.dtype(dtype), lambda position=position: load(position)))  # type: ignore[misc]
    return tensors, left_out
