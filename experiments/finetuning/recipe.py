"""The one recipe of fine-tuning, the same for all base models, and from a checkpoint and a task to a run."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import pathlib
import re
from typing import Any

from experiments.data.labelled import load
from experiments.data.speeches import TASKS
from experiments.finetune_config import (
    BaseConfig,
    ClassificationConfig,
    ClassifierConfig,
    ContinuationConfig,
    LabelledConfig,
)
from experiments.finetuning.base import BaseRun, check_vocabulary
from experiments.methods import NoDecay

CORPUS = "corpus:"
"""A task that begins so is continued language modelling on a corpus."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fine-tune: Adam without decay, warm-up over a tenth of the steps, then a cosine down to a tenth."""

    learning_rate: float = 1e-3
    """Peak; the grid to choose from is `LEARNING_RATES`."""
    epochs: int = 3
    """Passes over the train split of labelled texts."""
    steps: int = 0
    """Optimizer steps, in the place of epochs; 0 counts epochs, and is 200 for a corpus."""
    batch_size: int = 32
    """Texts or sequences in one step."""
    sequence_length: int = 128
    """Tokens of a text or sequence."""
    seed: int = 0
    """Seeds the head and the order of the data."""

    def check(self) -> None:
        """Refuses what no run can be made of.

        Raises:
            ValueError: Names the option, its value and what it takes.
        """
        least = {"epochs": 1, "steps": 0, "batch_size": 1, "sequence_length": 2, "seed": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {getattr(self, name)}: give {lowest} or more")
        if self.seed >= 2**32:
            raise ValueError(f"--seed {self.seed}: give less than 2**32")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate {self.learning_rate:g}: give a number from 0 on, such as 1e-3")


LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
_STEPS_ON_A_CORPUS = 200
_VALIDATIONS = 10


def task_of(task: str, data_dir: pathlib.Path, base: BaseRun, **options: Any) -> LabelledConfig:
    """From the name of a classification task to its texts.

    Args:
        task: `party` or `half-century`, a folder of JSON lines, or the name of a TFDS set.
        data_dir: The tensorflow-datasets directory of the latter.
        base: Whose vocabulary to read them in.
        **options: Further fields of the config.

    Raises:
        ValueError: It can be none of these, or an option is out of range.
    """
    vocabulary = {"tokenizer": base.data.tokenizer, "corpus": base.data.corpus, **options}
    folder = pathlib.Path(task).expanduser()
    if task in TASKS:
        return LabelledConfig(task, "embedded", **vocabulary)
    if task and (folder.is_dir() or task.startswith((".", "/", "~"))):
        return LabelledConfig(folder.name, "folder", folder, **vocabulary)
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\w.*]+)?", task):
        raise ValueError(
            f"there is no task {task!r}: give {' or '.join(TASKS)}, a folder as ./{task or 'reviews'}, or a "
            f"TFDS set such as glue/sst2; {CORPUS}FOLDER is a task of experiments.finetune alone"
        )
    return LabelledConfig(task, "tfds", data_dir.expanduser(), **vocabulary)


def classification(base: BaseRun, data: LabelledConfig, recipe: Recipe, workdir: pathlib.Path) -> ClassificationConfig:
    """The run that fine-tunes a base model on labelled texts; raises what `labelled.load` does."""
    check_vocabulary(base.dir, base.model, data.tokenizer)
    task = load(data)
    labels = 1 + max(example.label for examples in task.splits.values() for example in examples)
    texts = len(task.splits["train"])
    return ClassificationConfig(
        model=ClassifierConfig(**dataclasses.asdict(base.model), num_labels=max(labels, len(task.labels))),
        data=dataclasses.replace(data, digest=task.digest),
        base=BaseConfig(base.dir, base.digest),
        **_common(recipe, recipe.steps or max(1, round(recipe.epochs * texts / recipe.batch_size)), workdir),
    )


def continuation(
    base: BaseRun, corpus: pathlib.Path, name: str, recipe: Recipe, workdir: pathlib.Path
) -> ContinuationConfig:
    """The run that goes on with language modelling on another corpus, in the vocabulary of the base model.

    Args:
        base: Where to start.
        corpus: The corpus' tensorflow-datasets directory, as for `--data.dir`.
        name: What to call it.
        recipe: How.
        workdir: The run's folder.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    corpus = corpus.expanduser()
    if not corpus.is_dir():
        raise FileNotFoundError(
            f"there is no folder {corpus.absolute()} to go on with: `python -m experiments.corpus --text FOLDER "
            f"--name NAME` makes one, and {CORPUS}data/NAME/tfds names it"
        )
    data = dataclasses.replace(
        base.data,
        dir=corpus,
        corpus=f"{name} in the vocabulary of {base.data.corpus}",
        sequence_length=recipe.sequence_length,
        unique_tokens=0,
    )
    return ContinuationConfig(
        model=base.model,
        data=data,
        base=BaseConfig(base.dir, base.digest),
        **_common(recipe, recipe.steps or _STEPS_ON_A_CORPUS, workdir),
    )


def _common(recipe: Recipe, steps: int, workdir: pathlib.Path) -> dict[str, Any]:
    """What runs of both kinds share; their first checkpoint comes early."""
    return {
        "optimizer": NoDecay(learning_rate=recipe.learning_rate),
        "steps": steps,
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "log_every": max(1, steps // 100),
        "eval_every": max(1, steps // _VALIDATIONS),
        "checkpoint_every": max(1, steps // (2 * _VALIDATIONS)),
        "workdir": workdir,
    }
