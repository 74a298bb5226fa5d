"""Measures what a pre-trained run holds: `python -m experiments.probe [CHECKPOINT] [TASK]`."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from experiments.command_line import ends_in_a_line
from experiments.data.labelled import LabelledText, encoded_splits, load
from experiments.finetune_config import LabelledConfig
from experiments.finetuning import probe_figures
from experiments.finetuning.base import BaseRun, read_base, restore_base
from experiments.finetuning.probing import Probe, probe, states_of
from experiments.finetuning.ranks import Ranks, head_ranks
from experiments.finetuning.recipe import task_of
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.training.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures a pre-trained run: what linear probes read off its layers, and the ranks of its attention heads."""

    checkpoint: tyro.conf.Positional[pathlib.Path] = pathlib.Path("runs/nano")
    """Folder of the pre-training run."""
    task: tyro.conf.Positional[str] = "half-century"
    """As for experiments.finetune: half-century, party, a folder of JSON lines, or a TFDS set."""
    data_dir: pathlib.Path = pathlib.Path("~/tensorflow_datasets")
    """The tensorflow-datasets directory of a TFDS set."""
    text_feature: str = ""
    """Feature of a TFDS set that is the text; empty for the usual names."""
    hold_out: float = 0.0
    """Share of the train split to validate on, for a set without a validation split."""
    sequence_length: int = 128
    """Tokens of a text."""
    tokenizer: pathlib.Path | None = None
    """The run's vocabulary, if it is no longer where the run had it."""
    out: pathlib.Path | None = None
    """Folder for probe.json and the figures; by default CHECKPOINT/probe-TASK."""


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Measures, prints and draws.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0, or 1 after an error that the message explains.
    """
    options = tyro.cli(Options, prog="python -m experiments.probe", args=args)
    try:
        base = read_base(options.checkpoint.expanduser(), options.tokenizer)
        chosen = {name: getattr(options, name) for name in ("sequence_length", "hold_out", "text_feature")}
        data = task_of(options.task, options.data_dir, base, **chosen)
        task, params = load(data), _weights(base)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    probes = _probes(base, params, task, data)
    ranks = head_ranks(params, base.model.num_heads)
    labels = np.array([example.label for example in task.splits[task.scored]])
    majority = float(np.bincount(labels).max() / len(labels))
    _show(probes, ranks, majority, task.scored)
    out = options.out or base.dir / f"probe-{data.name.replace('/', '-')}"
    path = base.dir / "metrics.jsonl"
    for figure in probe_figures.draw(out, probes, majority, ranks, read_metrics(path) if path.exists() else []):
        print(f"figure      {figure}")
    found = {"probes": [each._asdict() for each in probes], "ranks": _plain(ranks), "majority": majority}
    (out / "probe.json").write_text(json.dumps({"base": base.digest, "task": data.name, **found}, indent=1) + "\n")
    print(f"numbers     {out / 'probe.json'}")
    return 0


def _weights(base: BaseRun) -> Any:
    """The base run's parameters, on one device."""
    return restore_base(base.dir, base.model, sharding.one_device_mesh())


def _probes(base: BaseRun, params: Any, task: LabelledText, data: LabelledConfig) -> list[Probe]:
    """A probe of every layer."""
    graphdef, _ = abstract_model(base.model, Llama)
    splits = encoded_splits(data)
    states = {split: states_of(graphdef, params, examples) for split, examples in splits.items()}
    labels = {split: examples.labels for split, examples in splits.items()}
    return [
        probe({split: part[layer] for split, part in states.items()}, labels, task.scored, layer)
        for layer in range(base.model.num_layers + 1)
    ]


def _show(probes: Sequence[Probe], ranks: dict[str, list[list[Ranks]]], majority: float, scored: str) -> None:
    """Prints both tables."""
    print(f"Linear probes, accuracy on the {scored} split (majority class: {majority:.2%}); block 0 is the embedding.")
    print("block     C      train  validation  scored  nats")
    for each in probes:
        print(
            f"{each.layer:<5} {each.inverse_penalty:>7g}  {each.train_accuracy:>7.2%}  {each.validation_accuracy:>9.2%}"
            f"  {each.accuracy:>7.2%}  {each.loss:.4f}"
        )
    print("\nRanks of attention's products, means over heads; pseudo-rank is over the width of a head.")
    print("product    block  pseudo  stable  entropy")
    for product, blocks in ranks.items():
        for block, heads in enumerate(blocks):
            pseudo, stable, entropy = np.mean(heads, axis=0)
            print(f"{product:<10} {block:<5}  {pseudo:>6.3f}  {stable:>6.2f}  {entropy:>7.2f}")
    print()


def _plain(ranks: dict[str, list[list[Ranks]]]) -> Any:
    return {product: [[head._asdict() for head in heads] for heads in blocks] for product, blocks in ranks.items()}


if __name__ == "__main__":
    sys.exit(main())
