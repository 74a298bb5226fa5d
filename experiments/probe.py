"""Measures what a pre-trained run holds: `python -m experiments.probe [CHECKPOINT] [TASK]`."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from experiments.command_line import ends_in_a_line
from experiments.data.labelled import load
from experiments.finetune_config import LabelledConfig
from experiments.finetuning import probe_figures
from experiments.finetuning.base import BaseRun, read_base
from experiments.finetuning.inside import Inside, look_inside
from experiments.finetuning.ranks import Ranks
from experiments.finetuning.recipe import task_of
from experiments.training.metrics import read_metrics

NUMBERS = "probe.json"


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
    """The run's vocabulary, if the run kept no copy of it, as those of earlier versions, and it has moved."""
    out: pathlib.Path | None = None
    """Folder for probe.json and the figures; by default CHECKPOINT/probe-TASK. A probe of other settings stays."""


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
        out = options.out or base.dir / f"probe-{data.name.replace('/', '-')}"
        settings = _settings(base, data)
        _refuse_another(out, settings)
        found = look_inside(base, data)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _show(found)
    try:
        _write(out, found, settings, base)
    except OSError as error:
        print(f"error: the probe could not be written to {out.absolute()}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _write(out: pathlib.Path, found: Inside, settings: dict[str, Any], base: BaseRun) -> None:
    """Draws the figures, writes the numbers, whole or not at all, and prints where they are."""
    path = base.dir / "metrics.jsonl"
    for figure in probe_figures.draw(out, found, read_metrics(path) if path.exists() else []):
        print(f"figure      {figure}")
    numbers = {
        "probes": [each._asdict() for each in found.probes],
        "ranks": _plain(found.ranks),
        "majority": found.majority,
    }
    partial = out / f"{NUMBERS}.partial"
    partial.write_text(json.dumps({"settings": settings, **numbers}, indent=1) + "\n")
    partial.replace(out / NUMBERS)
    print(f"numbers     {out / NUMBERS}")


def _settings(base: BaseRun, data: LabelledConfig) -> dict[str, Any]:
    """What decides the numbers."""
    return {
        "base": base.digest,
        "task": data.name,
        "texts": load(data).digest,
        "tokenizer": hashlib.sha256(data.tokenizer.read_bytes()).hexdigest()[:12],
        "sequence_length": data.sequence_length,
    }


def _refuse_another(out: pathlib.Path, settings: dict[str, Any]) -> None:
    """Raises a ValueError if a folder has the probe of other settings."""
    path = out / NUMBERS
    if not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not tell its settings: remove it, or pass another --out") from error
    if differing := [name for name, value in settings.items() if before.get(name) != value]:
        told = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in differing)
        raise ValueError(f"{out} has the probe of other settings ({told}): pass another --out")


def _show(found: Inside) -> None:
    """Prints both tables."""
    print(
        f"Linear probes: accuracy by split; nats are of the {found.scored} split, where the majority class has "
        f"{found.majority:.2%}. Block 0 is the embedding."
    )
    tested = found.scored != "validation"
    print(f"block  1/penalty   train  validation  {f'{found.scored:>6}  ' if tested else ''}nats")
    for each in found.probes:
        model = f"{each.layer:<5}  {each.inverse_penalty:>9g}"
        accuracies = f"{each.train_accuracy:>6.2%}  {each.validation_accuracy:>10.2%}"
        print(f"{model}  {accuracies}  {f'{each.accuracy:>6.2%}  ' if tested else ''}{each.loss:.4f}")
    print("\nRanks of attention's products, means over heads; pseudo-rank is over the width of a head.")
    print("product    block  pseudo  stable  entropy")
    for product, blocks in found.ranks.items():
        for block, heads in enumerate(blocks):
            pseudo, stable, entropy = np.mean(heads, axis=0)
            print(f"{product:<10} {block:<5}  {pseudo:>6.3f}  {stable:>6.2f}  {entropy:>7.2f}")
    print()


def _plain(ranks: dict[str, list[list[Ranks]]]) -> Any:
    return {product: [[head._asdict() for head in heads] for heads in blocks] for product, blocks in ranks.items()}


if __name__ == "__main__":
    sys.exit(main())
