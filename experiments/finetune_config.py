"""What fine-tuning is: where it starts, which task it learns, and the one recipe for all."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.config import Config, DataConfig, ModelConfig, RunConfig


class LabelledBatch(NamedTuple):
    """Texts of a batch and their labels."""

    tokens: Any
    """int32 `[B, L]`; what follows the last token of a text is 0."""
    lengths: Any
    """Tokens of each text, int32 `[B]`, at least 1."""
    labels: Any
    """int32 `[B]`."""


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """The run whose newest checkpoint fine-tuning starts from."""

    dir: pathlib.Path = pathlib.Path("runs/nano")
    """Its folder."""
    run: str = ""
    """Which weights they are: the run's name in a suite, or a digest of the checkpoint."""
    config: Config | None = None
    """In a suite, the run itself, which is made first if it has no checkpoint here."""


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(ModelConfig):
    """A LLaMA with a head for labels in the place of the one for tokens."""

    num_labels: int = 2
    """Outputs of the new head."""


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """Which labelled texts, and how they become tokens."""

    name: str = "half-century"
    """`half-century` or `party` of the embedded corpus, a folder's name, or a TFDS name such as `glue/sst2`."""
    source: Literal["embedded", "folder", "tfds"] = "embedded"
    """Where the texts are from."""
    dir: pathlib.Path = pathlib.Path()
    """The folder of JSON lines, or the tensorflow-datasets directory."""
    tokenizer: pathlib.Path = pathlib.Path("data/sotu-1024.model")
    """The vocabulary of the base model."""
    corpus: str = "sotu"
    """What the base model was trained on, and its vocabulary made of: its `data.corpus`."""
    sequence_length: int = 128
    """Tokens of a text; of a longer one the first are taken, and its end mark."""
    hold_out: float = 0.0
    """Share of the train split, by a hash of the texts, that becomes the validation split of a set without one."""
    text_feature: str = ""
    """Feature of a TFDS set that is the text; empty for the usual names."""
    digest: str = dataclasses.field(default="", compare=False)
    """Of all texts and labels, so that a run does not go on with others; empty in suites, whose results have it."""

    def __post_init__(self) -> None:
        """Refuses what no text fits into."""
        if self.sequence_length < 2:
            raise ValueError(f"--sequence-length {self.sequence_length}: a text has two marks at least, give 2 or more")
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"--hold-out {self.hold_out:g}: give a share of the train split, such as 0.1")

    @property
    def example(self) -> LabelledBatch:
        """Shape and dtype of one example."""
        return LabelledBatch(
            jax.ShapeDtypeStruct((self.sequence_length,), np.int32),
            jax.ShapeDtypeStruct((), np.int32),
            jax.ShapeDtypeStruct((), np.int32),
        )


@dataclasses.dataclass(frozen=True)
class ClassificationConfig(RunConfig):
    """One run of fine-tuning on labelled texts."""

    model: ClassifierConfig
    data: LabelledConfig
    base: BaseConfig = BaseConfig()
    """Where it starts."""


@dataclasses.dataclass(frozen=True)
class ContinuationConfig(Config):
    """One run of continued language modelling on another corpus, in the vocabulary of the base model."""

    base: BaseConfig = BaseConfig()
    """Where it starts."""


@dataclasses.dataclass(frozen=True)
class ProbingConfig(RunConfig):
    """A look into a pre-trained run with a labelled task: nothing is trained, so that it has no steps."""

    data: LabelledConfig
    base: BaseConfig = BaseConfig()
    """What is measured."""


@dataclasses.dataclass(frozen=True)
class SpectraConfig(RunConfig):
    """The spectra of a pre-trained run: nothing is trained, so that it has no steps."""

    model: ModelConfig
    data: DataConfig
    base: BaseConfig = BaseConfig()
    """What is measured."""
