"""Weight decay and plasticity: base models over decays, and each of them fine-tuned on every task."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.config import Config, ModelConfig
from experiments.finetune_config import (
    BaseConfig,
    ClassificationConfig,
    ClassifierConfig,
    ContinuationConfig,
    LabelledConfig,
    ProbingConfig,
)
from experiments.methods import NoDecay
from experiments.suites.identity import name_of
from experiments.suites.scales import SCALES, Scale, with_optimizer

DECAYS = (0.1, 0.3, 0.5, 1.0, 3.0)
"""Weight decays of AdamW, beside 0. AlphaDecay's ratios are divided by their mean over weights."""
LEARNING_RATE = 3e-3
"""Of pre-training, for all: near the optimum of the small scales."""
BASE_SEEDS, FINETUNING_SEEDS = 3, 3
PRETRAINING = "pre-training"
"""In the place of a task: the base models themselves."""


class Task(NamedTuple):
    """What base models are taught."""

    about: str
    steps: int
    """Optimizer steps of 32 texts or sequences: three passes over the texts, at most 300 steps."""
    source: str
    """`embedded`, `folder` or `corpus`."""
    dir: str = ""
    """Where the repository's own runs had it."""
    learning_rate: float = 1e-3
    """The peak, for every base model: of `RATES`, that with the lowest mean loss on validation, at `nano`, over three
    base models. Not so for movie reviews, where hardly any is better than a constant answer."""


TASKS: Mapping[str, Task] = {
    "half-century": Task("When a speech was given: 4 classes, split by speaker.", 174, "embedded"),
    "subjectivity": Task("Plot summary or opinion, one sentence.", 300, "folder", "data/labelled/subjectivity"),
    "sentence_polarity": Task("Praise or not, one sentence.", 300, "folder", "data/labelled/sentence_polarity"),
    "movie_reviews": Task("Praise or not, the first 128 tokens.", 150, "folder", "data/labelled/movie_reviews"),
    "books": Task("Next tokens of novels, histories and diaries.", 200, "corpus", "data/books/tfds", 1e-2),
}
"""The labelled sets are Pang and Lee's (subjectivity v1.0, sentence polarity v1.0, movie reviews v2.0; CC BY 4.0)."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Learning rates of fine-tuning that were tried."""
RATE_DECAYS = (0.0, 0.5, 3.0)
"""Base models that rates were tried on: no decay, and Uniform decay at the middle and the end of the suite."""
_RATE_SEED = 100
"""Of the pre-training of these base models, which the suite itself has not got."""
_LABELS = {"half-century": 4}
_ASKED_AT = (SCALES["nano"], SCALES["nano-fresh"])
_BATCH, _LENGTH = 32, 128
_PIECES = 4
"""A batch is cut into so many: activations then stay in the cache of a core, and a step takes half the time."""


class BaseModel(NamedTuple):
    """One of the base models that are compared."""

    method: str
    decay: float
    config: Config


def base_models(base: Config, seed: int) -> Iterator[BaseModel]:
    """All base models of one pre-training seed: no decay, and both methods at every decay.

    Args:
        base: The preset of the scale.
        seed: Of pre-training.
    """
    common: dict[str, Any] = {"coupling": "adamw", "learning_rate": LEARNING_RATE}
    config = dataclasses.replace(base, seed=seed)
    yield BaseModel("No decay", 0.0, with_optimizer(config, "none", **common))
    same_mean = {"unit_mean": True, "mean_over": "weights"}
    for decay in DECAYS:
        uniform = with_optimizer(config, "uniform", weight_decay=decay, **common)
        yield BaseModel("Uniform", decay, uniform)
        alphadecay = with_optimizer(config, "alphadecay", weight_decay=decay, **same_mean, **common)
        yield BaseModel("AlphaDecay", decay, alphadecay)


def pretraining_seed(seed: int) -> int:
    """The pre-training seed of a fine-tuning run: seeds 10, 11, 12 belong to seed 1, so that all seeds differ."""
    return seed // 10


def planned(base: Config, scale: Scale) -> Iterator[tuple[dict[str, str | float], Config | ClassificationConfig]]:
    """Labels and config of every run, pre-training seeds outermost: a part of them is a smaller experiment.

    Args:
        base: The preset of the scale.
        scale: One of those that the question is asked at; none is planned at others.
    """
    if scale not in _ASKED_AT:
        return
    for seed in range(BASE_SEEDS):
        models = list(base_models(base, seed))
        for model in models:
            yield {"task": PRETRAINING, "method": model.method, "weight decay": model.decay}, model.config
        for repeat, task, model in itertools.product(range(FINETUNING_SEEDS), TASKS, models):
            labels: dict[str, str | float] = {"task": task, "method": model.method, "weight decay": model.decay}
            yield labels, finetuning(model.config, task, seed=10 * seed + repeat)


def planned_rates(base: Config, scale: Scale) -> Iterator[tuple[dict[str, str | float], Config | ClassificationConfig]]:
    """Labels and config of the runs that try learning rates of fine-tuning.

    Args:
        base: The preset of the scale.
        scale: One of those that `planned` has runs at; none is planned at others.
    """
    if scale not in _ASKED_AT:
        return
    models = [model for model in base_models(base, _RATE_SEED) if model.method != "AlphaDecay"]
    for model in models:
        if model.decay not in RATE_DECAYS:
            continue
        for task, rate in itertools.product(TASKS, RATES):
            config = finetuning(model.config, task, seed=10 * _RATE_SEED, learning_rate=rate)
            yield {"task": task, "weight decay": model.decay, "learning rate": rate}, config


def planned_probes(base: Config, scale: Scale) -> Iterator[tuple[dict[str, str | float], ProbingConfig]]:
    """Labels and config of a look into every base model, with every labelled task.

    Args:
        base: The preset of the scale.
        scale: One of those that `planned` has runs at; none is planned at others.
    """
    if scale not in _ASKED_AT:
        return
    labelled = [task for task, plan in TASKS.items() if plan.source != "corpus"]
    for seed in range(BASE_SEEDS):
        for task, model in itertools.product(labelled, base_models(base, seed)):
            config = ProbingConfig(
                model=model.config.model,
                data=_labelled(model.config, task),
                optimizer=model.config.optimizer,
                steps=0,
                seed=seed,
                base=base_of(model.config),
            )
            yield {"task": task, "method": model.method, "weight decay": model.decay}, config


def base_of(run: Config) -> BaseConfig:
    """A run to start from, which is made first where it is not there."""
    return BaseConfig(run=name_of(run), config=run)


def finetuning(base: Config, task: str, seed: int, learning_rate: float | None = None) -> Any:
    """The run that teaches a base model a task.

    Args:
        base: The base model's own run.
        task: A key of `TASKS`.
        seed: Of the head and of the order of the data.
        learning_rate: The peak; None takes the task's.
    """
    plan = TASKS[task]
    common: dict[str, Any] = {
        "optimizer": NoDecay(learning_rate=learning_rate or plan.learning_rate),
        "steps": plan.steps,
        "batch_size": _BATCH,
        "accumulate": _PIECES,
        "seed": seed,
        "log_every": 10,
        "eval_every": plan.steps // 3,
        "checkpoint_every": 50,
        "base": base_of(base),
    }
    if plan.source == "corpus":
        data = dataclasses.replace(
            base.data,
            dir=pathlib.Path(plan.dir),
            corpus=f"{task} in the vocabulary of {base.data.corpus}",
            sequence_length=_LENGTH,
            unique_tokens=0,
        )
        return ContinuationConfig(model=base.model, data=data, **common)
    sizes = {field.name: getattr(base.model, field.name) for field in dataclasses.fields(ModelConfig)}
    model = ClassifierConfig(**sizes, num_labels=_LABELS.get(task, 2))
    return ClassificationConfig(model=model, data=_labelled(base, task), **common)


def _labelled(base: Config, task: str) -> LabelledConfig:
    """A labelled task in the vocabulary of a base model."""
    plan = TASKS[task]
    return LabelledConfig(
        task,
        "folder" if plan.source == "folder" else "embedded",
        pathlib.Path(plan.dir),
        tokenizer=base.data.tokenizer,
        corpus=base.data.corpus,
        sequence_length=_LENGTH,
    )
