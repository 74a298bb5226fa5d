"""What a run is: frozen, typed settings."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util
import json
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from experiments.methods import Method


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A LLaMA: no biases, RMSNorm, SwiGLU, rotary positions, untied output head."""

    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width of the SwiGLU hidden layer. May be odd (the paper's 1B model has 5461)."""
    num_heads: int
    """Attention heads; must divide hidden_size into even-sized heads."""
    num_layers: int
    """Transformer blocks, scanned over."""
    vocab_size: int = 32_000
    """Rows of the embedding; must equal the tokenizer's size."""
    rope_theta: float = 1e4
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square inside RMSNorm."""
    init_stddev: float = 0.02
    """Standard deviation of every weight matrix at the start."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of activations. Parameters, norms' statistics, softmax and loss stay float32."""
    remat: bool = False
    """Recompute each block in the backward pass: less memory, about a third more compute."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text is and how it is cut. The same lines read the embedded corpus and the real C4."""

    dir: pathlib.Path = pathlib.Path("data/tfds")
    """The tensorflow-datasets directory that holds `name`, as passed to tfds.data_source(data_dir=...)."""
    tokenizer: pathlib.Path = pathlib.Path("data/sotu-1024.model")
    """A sentencepiece .model file."""
    name: str = "c4/en:3.1.0"
    """The TFDS data set."""
    corpus: str = "sotu"
    """What the text and its vocabulary are, in a word of yours: runs are told apart by it, and not by paths."""
    unique_tokens: int = 0
    """Train on the first so many tokens of the split, over and over, each epoch in its own order; 0 takes all."""
    sequence_length: int = 256
    """Tokens in one packed sequence."""
    streams: int = 1
    """Parts the train documents are dealt into, each packed and shuffled by itself and read by the processes that
    need it. The order of the data depends on it, and not on the number of processes."""
    eval_tokens: int = 10_000_000
    """Validation tokens to measure the perplexity on; a smaller split is used up and counted."""

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one example: a packed sequence."""
        return jax.ShapeDtypeStruct((self.sequence_length,), np.int32)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged. A batch is cut over all of them."""

    data: int = -1
    """Copies of the model; -1 takes all devices that fsdp leaves."""
    fsdp: int = 1
    """Parts that each copy's weights, gradients and optimizer state are cut into."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run of any network on any data."""

    model: Any
    """The network."""
    data: Any
    """What it learns from; its `example` is the tree of `jax.ShapeDtypeStruct` of one example."""
    optimizer: Method
    """How the weights move, and above all how they decay."""
    steps: int
    """Optimizer steps of the whole run."""
    mesh: MeshConfig = MeshConfig()
    """The devices. A run may be resumed on others."""
    batch_size: int = 512
    """Sequences or images in one optimizer step, over all devices and accumulated pieces."""
    accumulate: int = 1
    """Pieces the batch is cut into; gradients are averaged inside the jitted step."""
    seed: int = 0
    """Seeds the weights and the order of the data."""
    log_every: int = 10
    """Steps between two lines in metrics.jsonl and TensorBoard."""
    norms_every: int = 0
    """Steps between two measurements of the norms of every module's weights, gradient and update; 0: none."""
    eval_every: int = 1_000
    """Steps between two validations; the last step is always validated."""
    checkpoint_every: int = 1_000
    """Steps between two checkpoints; the last step is always saved."""
    workdir: pathlib.Path = pathlib.Path("runs/default")
    """Checkpoints, metrics and figures go here; an unfinished run found here is resumed."""
    wandb: bool = False
    """Also log to Weights & Biases (pip install wandb)."""


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """One pre-training run of a LLaMA."""

    model: ModelConfig
    data: DataConfig


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings of a run, nested as in the config and fit for JSON; the optimizer's `method` is one of them."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings["optimizer"] = {"method": config.optimizer.method, **settings["optimizer"]}
    return settings


def defaults_of(config: Any) -> dict[str, Any]:
    """The defaults of all settings that have one, nested as in `settings_of`."""
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            defaults[field.name] = defaults_of(value)
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = json.loads(json.dumps(field.default, default=str))
    return defaults


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def check(config: RunConfig) -> None:
    """Checks what the types do not say.

    Raises:
        ValueError: If a count is too small, the batch cannot be cut into equal pieces, or wandb is missing.
    """
    for name in ("steps", "batch_size", "accumulate", "log_every", "eval_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1.")
    if config.norms_every < 0:
        raise ValueError(f"norms_every={config.norms_every} must be at least 0, which measures no norms.")
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be cut into accumulate={config.accumulate} equal pieces: "
            "choose a divisor."
        )
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs Weights & Biases: pip install wandb, or leave the option out.")
