"""The pre-trained run that fine-tuning starts from: its settings, its weights, and whether they fit."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax

from experiments.config import DataConfig, ModelConfig
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.training import checksums
from experiments.training.checkpoints import restore_params
from experiments.training.workdir import VOCABULARY, another_vocabulary


class BaseRun(NamedTuple):
    """A pre-trained run, as its `config.json` tells it."""

    dir: pathlib.Path
    model: ModelConfig
    data: DataConfig
    digest: str
    """Of its newest intact checkpoint: 12 hexadecimal digits that change with any of its bytes."""
    settings: dict[str, Any]
    """All of its settings, nested."""


def read_base(directory: pathlib.Path, tokenizer: pathlib.Path | None = None) -> BaseRun:
    """Reads what a run says of itself, and checks that fine-tuning can start from it.

    Args:
        directory: The run's folder, its `--workdir`.
        tokenizer: Its vocabulary, if that is no longer where the run had it.

    Returns:
        Its settings, and a digest of its weights.

    Raises:
        FileNotFoundError: There is no run, no checkpoint of it, or not its tokenizer.
        ValueError: Its network is no LLaMA, or the tokenizer is not that of the run.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no run in {directory.absolute()}, for it has no config.json: `make pretrain` makes one in "
            "runs/nano, and the folder of any run of `python -m experiments.train` will do"
        )
    settings = _settings(path)
    model, data = (_only(kind, settings[name]) for kind, name in ((ModelConfig, "model"), (DataConfig, "data")))
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(ModelConfig)}
    found = set(settings["model"])
    if odd := (found - fields.keys()) | ({name for name, needed in fields.items() if needed} - found):
        raise ValueError(
            f"the run in {directory} has another architecture than the LLaMA of `python -m experiments.train`: its "
            f"settings of the model differ in {', '.join(sorted(odd))}; pass the folder of a pre-training run"
        )
    recorded = pathlib.Path(data["tokenizer"])
    data |= {"dir": pathlib.Path(data["dir"]), "tokenizer": tokenizer or _vocabulary_of(directory, recorded)}
    base_data = DataConfig(**data)
    base_model = ModelConfig(**model)
    check_vocabulary(directory, base_model, base_data.tokenizer)
    if tokenizer is not None and tokenizer.absolute() != recorded.absolute() and not _keeps_its_own(directory):
        print(
            f"warning: {tokenizer} is taken for the vocabulary of the run in {directory}; only its number of pieces "
            "was checked, and with another vocabulary the scores would mean nothing.",
            file=sys.stderr,
        )
    return BaseRun(directory, base_model, base_data, _digest(directory / "checkpoints"), settings)


def _settings(path: pathlib.Path) -> dict[str, Any]:
    """Reads a run's `config.json`; raises a ValueError if it is that of no run."""
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(settings["model"], dict) and {"dir", "tokenizer"} <= settings["data"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the config.json of a run of `python -m experiments.train`: {error}") from error
    if not whole:
        raise ValueError(f"{path} is not the config.json of a run of `python -m experiments.train`: it has no data")
    return settings


def _keeps_its_own(directory: pathlib.Path) -> bool:
    """Whether a run has a copy of its vocabulary; those of earlier versions have none."""
    return (directory / VOCABULARY).is_file()


def _vocabulary_of(directory: pathlib.Path, recorded: pathlib.Path) -> pathlib.Path:
    """Where the run had its vocabulary, if that still stands there, or else the copy that it kept."""
    if _keeps_its_own(directory) and (not recorded.is_file() or another_vocabulary(directory, recorded)):
        return directory / VOCABULARY
    return recorded


def check_vocabulary(directory: pathlib.Path, model: ModelConfig, tokenizer: pathlib.Path) -> None:
    """Checks that a tokenizer has the pieces that a base model was trained on.

    Without the run's own copy of its vocabulary, their number alone is checked.

    Raises:
        FileNotFoundError: There is no tokenizer.
        ValueError: It has another size, or other pieces.
    """
    needed = "fine-tuning needs the vocabulary of pre-training, --tokenizer says where it is"
    try:
        check_vocab_size(load_tokenizer(tokenizer), model.vocab_size)
    except ValueError as error:
        raise ValueError(
            f"{tokenizer} is another vocabulary than that of the run in {directory}: {error}".partition(": pass")[0]
            + f"; {needed}"
        ) from error
    if another_vocabulary(directory, tokenizer):
        raise ValueError(
            f"{tokenizer} is another vocabulary than that of the run in {directory}, of the same size; {needed}: "
            f"{directory / VOCABULARY} is its own copy"
        )


def restore_base(directory: pathlib.Path, model: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
    """Restores the weights of a run's newest intact checkpoint, placed on a mesh.

    Args:
        directory: The run's folder.
        model: Its sizes.
        mesh: The devices.

    Returns:
        The parameters of a `Llama`.

    Raises:
        ValueError: No checkpoint is intact, or it is of other sizes.
    """
    sizes = ModelConfig(**{field.name: getattr(model, field.name) for field in dataclasses.fields(ModelConfig)})
    _, shapes = abstract_model(sizes, Llama)
    _, params = restore_params(directory / "checkpoints", sharding.abstract(shapes, mesh, Llama.spec_of))
    return params


def _only(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that a dataclass has."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in settings.items() if name in names}


def _digest(directory: pathlib.Path) -> str:
    """Of the checksums of the newest intact step.

    Raises:
        FileNotFoundError: There is none.
    """
    step, faults = checksums.newest_intact(directory) if directory.is_dir() else (None, {})
    if step is None:
        told = "".join(f"; step {number}: {fault}" for number, fault in faults.items())
        raise FileNotFoundError(
            f"the run in {directory.parent} has no intact checkpoint{told}: train it first, as `make pretrain` does "
            "with runs/nano"
        )
    return hashlib.sha256((directory / str(step) / checksums.NAME).read_bytes()).hexdigest()[:12]
