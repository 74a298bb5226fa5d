"""What a run is: frozen, typed settings, the presets, and the command line that changes them."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import tyro


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
class OptimizerConfig:
    """How the weights move, and above all how they decay."""

    method: Literal["none", "uniform", "awd", "adadecay", "adadecay_per_parameter", "alphadecay"] = "alphadecay"
    """The weight decay: none, one rate (uniform), or one of the adaptive methods."""
    coupling: Literal["adam", "adamw"] = "adam"
    """adam: decay enters the moments (the paper's Adam). adamw: decay is applied to the weights."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule."""
    warmup_fraction: float = 0.1
    """Share of the steps spent in linear warm-up from 0."""
    final_fraction: float = 0.1
    """Learning rate at the last step, as a share of the peak."""
    weight_decay: float = 1e-5
    """The base rate eta."""
    scale_range: tuple[float, float] = (2 / 3, 3.0)
    """(s1, s2): ratios of the heaviest- and lightest-tailed module."""
    refresh_every: int = 500
    """Optimizer steps from one reading of the spectra to the next."""
    metric: Literal[
        "pl_alpha_hill",
        "grad_norm",
        "frobenius_norm",
        "spectral_norm",
        "stable_rank",
        "alpha_hat",
        "spectral_entropy",
    ] = "pl_alpha_hill"
    """What is measured on each module."""
    fit: Literal["median", "goodness_of_fit", "fix_finger"] = "median"
    """Power-law fit of pl_alpha_hill."""
    solver: Literal["auto", "tridiagonal", "eigvalsh", "jacobi", "svd", "stochastic"] = "auto"
    """How metrics of spectra get eigenvalues: exactly, or, for large matrices on accelerators, as estimates."""
    assign: Literal["linear", "sqrt", "log2", "sigmoid"] = "linear"
    """How scores become ratios."""
    reverse: bool = False
    """Give the lowest scores the highest ratios: a control for the linear assignment."""
    unit_mean: bool = False
    """Divide the linear assignment's ratios by their mean: the modules' decays then average the base rate."""
    clip_norm: float = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.999
    """Decay of Adam's second moment."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""


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
    optimizer: OptimizerConfig
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


def _paper(
    hidden: int, intermediate: int, heads: int, layers: int, *, steps: int, learning_rate: float = 1e-3
) -> Config:
    """A run of the paper: sequence length 256, batch 512, vocabulary 32,000, C4."""
    return Config(
        model=ModelConfig(hidden, intermediate, heads, layers),
        data=DataConfig(
            dir=pathlib.Path("~/tensorflow_datasets"), tokenizer=pathlib.Path("data/c4-32000.model"), streams=8
        ),
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        steps=steps,
    )


def _protocol(*, unique_tokens: int, learning_rate: float, weight_decay: float) -> Config:
    """A run of the small-scale suites: 0.28M parameters, 410K tokens of the embedded corpus."""
    return Config(
        model=ModelConfig(64, 172, 2, 3, vocab_size=1024, compute_dtype="float32"),
        data=DataConfig(sequence_length=64, unique_tokens=unique_tokens, eval_tokens=50_000),
        optimizer=OptimizerConfig(
            coupling="adamw", learning_rate=learning_rate, weight_decay=weight_decay, refresh_every=50
        ),
        steps=400,
        batch_size=16,
        eval_every=200,
        checkpoint_every=400,
    )


PRESETS: dict[str, tuple[str, Config]] = {
    "nano": (
        "1.1M parameters on the embedded corpus; minutes on a laptop CPU.",
        Config(
            model=ModelConfig(128, 344, 4, 4, vocab_size=1024, compute_dtype="float32"),
            data=DataConfig(sequence_length=128, eval_tokens=100_000),
            optimizer=OptimizerConfig(learning_rate=3e-3, refresh_every=50),
            steps=400,
            batch_size=32,
            eval_every=80,
            checkpoint_every=50,
            workdir=pathlib.Path("runs/nano"),
        ),
    ),
    "tiny": (
        "Four steps of a model that learns nothing: to see a command work.",
        Config(
            model=ModelConfig(64, 96, 2, 2, vocab_size=1024, compute_dtype="float32"),
            data=DataConfig(sequence_length=16, unique_tokens=256, eval_tokens=256),
            optimizer=OptimizerConfig(refresh_every=2),
            steps=4,
            batch_size=4,
            log_every=1,
            eval_every=4,
            checkpoint_every=4,
            workdir=pathlib.Path("runs/tiny"),
        ),
    ),
    "nano-repeated": (
        "0.28M parameters, the same 40,960 tokens for 10 epochs; seconds on one CPU core.",
        _protocol(unique_tokens=40_960, learning_rate=6e-3, weight_decay=1.0),
    ),
    "nano-fresh": (
        "0.28M parameters, 410K tokens once; seconds on one CPU core.",
        _protocol(unique_tokens=0, learning_rate=3e-3, weight_decay=0.1),
    ),
    "60m": ("The paper's 60M model: 1B tokens of C4.", _paper(512, 1376, 8, 8, steps=10_000)),
    "135m": ("The paper's 135M model: 2B tokens of C4.", _paper(768, 2048, 12, 12, steps=20_000)),
    "350m": ("The paper's 350M model: 6B tokens of C4.", _paper(1024, 2736, 16, 24, steps=60_000)),
    "1b": ("The paper's 1B model: 9B tokens of C4.", _paper(2048, 5461, 32, 24, steps=90_000, learning_rate=6e-4)),
    "7b": (
        "LLaMA-7B, not of the paper: for meshes and compile reports.",
        _paper(4096, 11008, 32, 32, steps=90_000, learning_rate=3e-4),
    ),
}


def from_command_line(args: Sequence[str] | None = None, *, prog: str = "python -m experiments.train") -> Config:
    """Parses `PRESET --option value ...` into a Config; `--help` lists every option with its meaning.

    Args:
        args: The words of the command line; None takes the process's.
        prog: The command, for the help.

    Returns:
        The preset with the options' values in their places, and `~` in its paths expanded: a shell leaves it in
        `--workdir=~/run` as it is.
    """
    description = f"Choose a preset; `{prog} PRESET --help` lists its options."
    config = tyro.extras.overridable_config_cli(PRESETS, prog=prog, description=description, args=args)
    data = dataclasses.replace(
        config.data, dir=config.data.dir.expanduser(), tokenizer=config.data.tokenizer.expanduser()
    )
    return dataclasses.replace(config, data=data, workdir=config.workdir.expanduser())


def check(config: RunConfig) -> None:
    """Checks what the types do not say.

    Raises:
        ValueError: If a count is not positive, the batch cannot be cut into equal pieces, or wandb is missing.
    """
    for name in ("steps", "batch_size", "accumulate", "log_every", "eval_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1.")
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be cut into accumulate={config.accumulate} equal pieces: "
            "choose a divisor."
        )
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs Weights & Biases: pip install wandb, or leave the option out.")
