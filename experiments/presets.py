"""Runs of LLaMA with a name: each with its command, its cost, and the score to expect."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
from collections.abc import Sequence

from experiments.command_line import Preset, choose_preset
from experiments.config import Config, DataConfig, ModelConfig
from experiments.methods import AlphaDecay, ScionC

_COMMAND = "python -m experiments.train"


def _c4(directory: str = "~/tensorflow_datasets") -> DataConfig:
    """The real C4, and a vocabulary of 32,000 pieces."""
    return DataConfig(
        dir=pathlib.Path(directory),
        tokenizer=pathlib.Path("data/c4-32000.model"),
        corpus="c4",
        streams=8,
    )


def _protocol(*, unique_tokens: int, learning_rate: float, weight_decay: float) -> Config:
    """A run of the small-scale suites: 0.28M parameters, 410K tokens of the embedded corpus."""
    return Config(
        model=ModelConfig(
            hidden_size=64,
            intermediate_size=172,
            num_heads=2,
            num_layers=3,
            vocab_size=1024,
            compute_dtype="float32",
        ),
        data=DataConfig(sequence_length=64, unique_tokens=unique_tokens, eval_tokens=50_000),
        optimizer=AlphaDecay(
            coupling="adamw",
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            refresh_every=50,
        ),
        steps=400,
        batch_size=16,
        eval_every=200,
        checkpoint_every=400,
    )


_NANO = Config(
    model=ModelConfig(
        hidden_size=128,
        intermediate_size=344,
        num_heads=4,
        num_layers=4,
        vocab_size=1024,
        compute_dtype="float32",
    ),
    data=DataConfig(sequence_length=128, eval_tokens=100_000),
    optimizer=AlphaDecay(learning_rate=3e-3, refresh_every=50),
    steps=400,
    batch_size=32,
    eval_every=80,
    checkpoint_every=50,
    workdir=pathlib.Path("runs/nano"),
)
_TINY = Config(
    model=ModelConfig(
        hidden_size=64,
        intermediate_size=96,
        num_heads=2,
        num_layers=2,
        vocab_size=1024,
        compute_dtype="float32",
    ),
    data=DataConfig(sequence_length=16, unique_tokens=256, eval_tokens=256),
    optimizer=AlphaDecay(refresh_every=2),
    steps=4,
    batch_size=4,
    log_every=1,
    eval_every=4,
    checkpoint_every=4,
    workdir=pathlib.Path("runs/tiny"),
)
_60M = Config(
    model=ModelConfig(hidden_size=512, intermediate_size=1376, num_heads=8, num_layers=8),
    data=_c4(),
    optimizer=AlphaDecay(learning_rate=1e-3),
    steps=10_000,
)
_135M = Config(
    model=ModelConfig(hidden_size=768, intermediate_size=2048, num_heads=12, num_layers=12),
    data=_c4(),
    optimizer=AlphaDecay(learning_rate=1e-3),
    steps=20_000,
)
_350M = Config(
    model=ModelConfig(hidden_size=1024, intermediate_size=2736, num_heads=16, num_layers=24),
    data=_c4(),
    optimizer=AlphaDecay(learning_rate=1e-3),
    steps=60_000,
)
_1B = Config(
    model=ModelConfig(hidden_size=2048, intermediate_size=5461, num_heads=32, num_layers=24),
    data=_c4(),
    optimizer=AlphaDecay(learning_rate=6e-4),
    steps=90_000,
)
_7B = Config(
    model=ModelConfig(hidden_size=4096, intermediate_size=11008, num_heads=32, num_layers=32),
    data=_c4(),
    optimizer=AlphaDecay(learning_rate=3e-4),
    steps=90_000,
)


_NANOGPT = Config(
    model=ModelConfig(hidden_size=768, intermediate_size=2048, num_heads=12, num_layers=12, vocab_size=50_304),
    data=DataConfig(
        dir=pathlib.Path("data/fineweb-edu/tfds"),
        tokenizer=pathlib.Path("data/fineweb-edu/fineweb-edu-50304.model"),
        corpus="fineweb-edu",
        sequence_length=1024,
        streams=8,
    ),
    optimizer=ScionC(
        learning_rate=50 * 2**-12,
        weight_decay=1 / 50,
        momentum=0.1,
        output_radius=60.0,
        warmup_fraction=0.0,
        final_fraction=0.0,
        clip_norm=0.0,
    ),
    steps=10_000,
    batch_size=256,
    norms_every=100,
)


def _about(what: str, name: str, cost: str, score: str) -> str:
    return f"{what}\nCommand: {_COMMAND} {name}. Cost: {cost}. Score: {score}."


def _paper(size: str, tokens: str, name: str, cost: str, perplexity: str) -> str:
    score = f"the paper reports a validation perplexity of {perplexity}; not run here"
    return _about(f"The paper's {size} model: {tokens} tokens of C4.", name, cost, score)


PRESETS: dict[str, Preset] = {
    "nano": Preset(
        _about(
            "1.1M parameters on the embedded corpus; minutes on a laptop CPU.",
            "nano",
            "3.5 minutes of 2 CPU cores",
            "validation perplexity 24.89 (seed 0; docs/nano.md)",
        ),
        _NANO,
    ),
    "tiny": Preset(
        _about(
            "Four steps of a model that learns nothing: to see a command work.",
            "tiny",
            "seconds",
            "none to speak of",
        ),
        _TINY,
    ),
    "nano-repeated": Preset(
        _about(
            "0.28M parameters, the same 40,960 tokens for 10 epochs; seconds on one CPU core.",
            "nano-repeated",
            "24 seconds of one CPU core",
            "validation perplexity 63.0 +- 0.8 over 5 seeds (results/report.md, table 3)",
        ),
        _protocol(unique_tokens=40_960, learning_rate=6e-3, weight_decay=1.0),
    ),
    "nano-fresh": Preset(
        _about(
            "0.28M parameters, 410K tokens once; seconds on one CPU core.",
            "nano-fresh",
            "24 seconds of one CPU core",
            "results/report.md, table 4",
        ),
        _protocol(unique_tokens=0, learning_rate=3e-3, weight_decay=0.1),
    ),
    "nano-long": Preset(
        _about(
            "0.28M parameters, 4.1M tokens once: the paper's own amount of decay, and 15 tokens a parameter.",
            "nano-long",
            "70 seconds of one CPU core, a tenth of which is no training",
            "none recorded yet",
        ),
        dataclasses.replace(
            _protocol(unique_tokens=0, learning_rate=3e-3, weight_decay=0.083),
            steps=4000,
            eval_every=1000,
            checkpoint_every=4000,
        ),
    ),
    "small": Preset(
        _about(
            "1.05M parameters, the same 409,600 tokens for 8 epochs; minutes on one CPU core.",
            "small",
            "3 minutes of one CPU core, by the time of a step",
            "none recorded yet",
        ),
        dataclasses.replace(
            _NANO,
            data=DataConfig(sequence_length=128, unique_tokens=409_600, eval_tokens=100_000),
            optimizer=AlphaDecay(learning_rate=3e-3, weight_decay=1e-4, refresh_every=50),
            steps=800,
            # So that activations stay in the cache of a core: a step takes 0.19 seconds, and 0.29 in one piece.
            accumulate=8,
            eval_every=200,
            checkpoint_every=800,
            workdir=pathlib.Path("runs/small"),
        ),
    ),
    "60m": Preset(_paper("60M", "1B", "60m", "1.4 hours of the paper's GPU", "31.56"), _60M),
    "135m": Preset(_paper("135M", "2B", "135m", "5.7 hours of the paper's GPU", "22.76"), _135M),
    "350m": Preset(_paper("350M", "6B", "350m", "not measured", "17.00"), _350M),
    "1b": Preset(_paper("1B", "9B", "1b", "not measured", "15.13"), _1B),
    "nanogpt": Preset(
        _about(
            "A network of the size of NanoGPT 124M, on 2.6B tokens of FineWeb-Edu, with ScionC as in arXiv 2512.08217.",
            "nanogpt",
            "not measured",
            "that paper reports a validation loss of 2.838, and 2.846 with Scion, of another network; not run here",
        ),
        _NANOGPT,
    ),
    "7b": Preset(
        _about(
            "LLaMA-7B, not of the paper: for meshes and compile reports.",
            "7b",
            "not measured",
            "unknown",
        ),
        _7B,
    ),
}
"""Of `nanogpt`, arXiv 2512.08217 and its code give the optimizer, batch, length, 12 layers of width 768, and no
clipping. The network is this package's LLaMA, with SwiGLU and an untied output layer; the vocabulary has the usual
size and your corpus's own pieces, and the steps are ours."""


def from_command_line(args: Sequence[str] | None = None, *, prog: str = _COMMAND) -> Config:
    """Parses `PRESET --option value ...` into a Config, see `choose_preset`.

    Args:
        args: The words of the command line; None takes the process's.
        prog: The command, for the help.
    """
    return choose_preset(PRESETS, Config, args, prog)
