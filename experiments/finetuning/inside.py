"""What a pre-trained run holds: what linear probes read off its layers, and the ranks of its attention heads."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.data.labelled import encoded_splits, load
from experiments.finetune_config import LabelledConfig, ProbingConfig
from experiments.finetuning.base import BaseRun, read_base, restore_base
from experiments.finetuning.probing import Probe, probe, states_of
from experiments.finetuning.ranks import PRODUCTS, Ranks, head_ranks
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.training.metrics import write_measured

SHORT = dict(zip(PRODUCTS, ("qk", "vo"), strict=True))
"""Names of the products in metrics.jsonl."""


class Inside(NamedTuple):
    """What was found in one run, with one task."""

    probes: list[Probe]
    """Of the embedding and of every block."""
    ranks: dict[str, list[list[Ranks]]]
    """As `ranks.head_ranks` gives them."""
    majority: float
    """Accuracy of a constant answer on the split that probes are scored on."""
    scored: str
    """That split."""


def look_inside(base: BaseRun, data: LabelledConfig) -> Inside:
    """Measures a pre-trained run.

    Args:
        base: The run.
        data: A task in its vocabulary.

    Raises:
        FileNotFoundError: The task is not where it should be.
        ValueError: It cannot be used; says why.
    """
    task, params = load(data), restore_base(base.dir, base.model, sharding.one_device_mesh())
    labels = np.array([example.label for example in task.splits[task.scored]])
    majority = float(np.bincount(labels).max() / len(labels))
    probes = _probes(base, params, data, task.scored)
    return Inside(probes, head_ranks(params, base.model.num_heads), majority, task.scored)


def _probes(base: BaseRun, params: Any, data: LabelledConfig, scored: str) -> list[Probe]:
    graphdef, _ = abstract_model(base.model, Llama)
    splits = encoded_splits(data)
    states = {split: states_of(graphdef, params, examples) for split, examples in splits.items()}
    labels = {split: examples.labels for split, examples in splits.items()}
    return [
        probe({split: part[layer] for split, part in states.items()}, labels, scored, layer)
        for layer in range(base.model.num_layers + 1)
    ]


def measure(config: ProbingConfig) -> None:
    """Writes metrics.jsonl of a run that measures: a line a block, whose number stands for the step.

    Raises:
        Locked: Another process is at it.
    """
    base = read_base(config.base.dir, config.data.tokenizer)
    write_measured(config.workdir, lambda: _lines(look_inside(base, config.data)))


def _lines(found: Inside) -> Iterator[dict[str, float]]:
    for each in found.probes:
        numbers = {
            "probe_train_accuracy": each.train_accuracy,
            "probe_accuracy": each.validation_accuracy,
            f"probe_{found.scored}_accuracy": each.accuracy,
            f"probe_{found.scored}_loss": each.loss,
        }
        for product, blocks in found.ranks.items() if each.layer else ():
            means = Ranks(*np.mean(blocks[each.layer - 1], axis=0).tolist())
            numbers |= {f"{kind}_rank_{SHORT[product]}": value for kind, value in means._asdict().items()}
        yield {"step": each.layer, **{f"validation/{name}": value for name, value in numbers.items()}}
