"""Fine-tunes a pre-trained run: `python -m experiments.finetune [CHECKPOINT] [TASK]`. Started again, it resumes."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tyro

from experiments.command_line import ends_in_a_line
from experiments.data.labelled import load
from experiments.data.labelled_folder import listed
from experiments.finetune_config import ClassificationConfig, ContinuationConfig
from experiments.finetuning.base import read_base
from experiments.finetuning.classification import TEXT_CLASSIFICATION
from experiments.finetuning.continuation import CONTINUATION
from experiments.finetuning.recipe import CORPUS, Recipe, classification, continuation, task_of
from experiments.parallel import distributed
from experiments.training.launch import launch


@dataclasses.dataclass(frozen=True)
class Options(Recipe):
    """Fine-tunes all weights of a pre-trained run on a task, by one recipe. Started again, it resumes."""

    checkpoint: tyro.conf.Positional[pathlib.Path] = pathlib.Path("runs/nano")
    """Folder of the pre-training run."""
    task: tyro.conf.Positional[str] = "half-century"
    """half-century or party: speeches of the embedded corpus, split by speaker. A folder: train, validation and test
    files of JSON lines with text and label. corpus:FOLDER goes on with language modelling on a data set in C4's
    format, as experiments.corpus --text makes it. Anything else is a TFDS set, such as glue/sst2."""
    data_dir: pathlib.Path = pathlib.Path("~/tensorflow_datasets")
    """The tensorflow-datasets directory of a TFDS set."""
    text_feature: str = ""
    """Feature of a TFDS set that is the text; empty for the usual names."""
    hold_out: float = 0.0
    """Share of the train split to validate on, for a set without a validation split."""
    tokenizer: pathlib.Path | None = None
    """The base run's vocabulary, if the run kept no copy of it, as those of earlier versions, and it has moved."""
    workdir: pathlib.Path | None = None
    """The run's folder; by default CHECKPOINT-TASK."""


@distributed.ends_together
@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Fine-tunes and reports.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code, as that of `experiments.train`.
    """
    options = tyro.cli(Options, prog="python -m experiments.finetune", args=args)
    try:
        config = _config(options)
        if isinstance(config, ClassificationConfig):
            _describe(config)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return launch(config, TEXT_CLASSIFICATION if isinstance(config, ClassificationConfig) else CONTINUATION)


def _config(options: Options) -> ClassificationConfig | ContinuationConfig:
    """The run that the options ask for; raises a ValueError or FileNotFoundError that says what is wrong."""
    options.check()
    base = read_base(options.checkpoint.expanduser(), options.tokenizer)
    name = pathlib.Path(options.task.removeprefix(CORPUS)).name
    workdir = options.workdir or base.dir.with_name(f"{base.dir.name}-{name.replace(':', '-')}")
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    if options.task.startswith(CORPUS):
        return continuation(base, pathlib.Path(options.task.removeprefix(CORPUS)), name, recipe, workdir)
    data = task_of(
        options.task,
        options.data_dir,
        base,
        sequence_length=options.sequence_length,
        hold_out=options.hold_out,
        text_feature=options.text_feature,
    )
    return classification(base, data, recipe, workdir)


def _describe(config: ClassificationConfig) -> None:
    """Says what is about to be learnt, and from what."""
    task = load(config.data)
    sizes = ", ".join(f"{len(examples):,} {split}" for split, examples in task.splits.items())
    copies = ", ".join(f"{number} {split}" for split, number in task.dropped.items() if number) or "none"
    labels = ", ".join(task.labels) or f"{config.model.num_labels} labels"
    print(f"{config.data.name} ({labels}): {sizes} texts; dropped as copies of a text in a later split: {copies}")
    if task.left_out:
        print(f"left out, since their names are of no split or not of JSON lines: {listed(task.left_out)}")


if __name__ == "__main__":
    sys.exit(main())
