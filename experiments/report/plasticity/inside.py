"""What decay does inside, in the report: linear probes, ranks of attention, and the gap to texts trained on."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.plasticity.ranking import Arm
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, table
from experiments.style import COLOURS, MARKERS
from experiments.suites.inference import contrast
from experiments.suites.plasticity import TASKS, pretraining_seed

ABOUT = (
    "The base models of the comparison above, as pre-training left them. Probes: accuracy on the test split of a "
    "logistic regression on the state of the last token after the last block. Ranks: means over heads and blocks, "
    "pseudo-rank over the width of a head. Gap: nats of the validation split minus nats of texts trained on, after "
    "fine-tuning, mean over labelled tasks. Means ± standard deviations over pre-training seeds. A difference is bold "
    "where its interval leaves out 0; the intervals are not corrected, so that one in twenty would be bold by chance."
)
NONE: Arm = ("No decay", 0.0)


class Measure(NamedTuple):
    """A number of a base model."""

    name: str
    digits: int
    values: Mapping[Arm, Mapping[int, float]]
    """By base model and pre-training seed."""


def section() -> Section:
    """The section of the report."""
    return Section("What decay does inside", ABOUT, "plasticity-inside", _part)


def _part(book: Book, scale: str) -> Part:
    found = measures(book.cells["plasticity-inside", scale], book.cells.get(("plasticity", scale), ()))
    arms = list(dict.fromkeys(_arm(cell) for cell in book.cells["plasticity-inside", scale]))
    means = [[_name(arm), *(_mean(measure, arm) for measure in found)] for arm in arms]
    changes = [
        [f"{_name(arm)} - {_name(NONE)}", *(_change(measure, arm) for measure in found)] for arm in arms if arm != NONE
    ]
    heads = ("base model", *(measure.name for measure in found))
    text = table(heads, means) + "\n" + table(("difference, 95 % interval", *heads[1:]), changes)
    return Part(_line(found, arms), text, functools.partial(draw, found, arms))


def measures(cells: Sequence[Cell], finetuned: Sequence[Cell]) -> list[Measure]:
    """Gathers all numbers.

    Args:
        cells: Looks into the base models.
        finetuned: Those of the comparison, for the gap.
    """
    tasks = [task for task in TASKS if any(cell.labels["task"] == task for cell in cells)]
    found = [
        Measure(f"probe, {task}", 4, {_arm(cell): cell.values("probe_test_accuracy") for cell in _of(cells, task)})
        for task in tasks
    ]
    for name, words in (("pseudo_rank_qk", "pseudo-rank, W_Q W_K^T"), ("pseudo_rank_vo", "pseudo-rank, W_V W_O")):
        found.append(Measure(words, 3, {_arm(cell): _over_blocks(cell, name) for cell in _of(cells, tasks[0])}))
    return [*found, Measure("gap, nats", 4, _gaps(finetuned, tasks))]


def _gaps(cells: Sequence[Cell], tasks: Sequence[str]) -> dict[Arm, dict[int, float]]:
    """Mean over tasks and fine-tuning seeds, for the pre-training seeds that have all tasks."""
    by_task: dict[Arm, list[dict[int, list[float]]]] = {}
    for cell in (cell for task in tasks for cell in _of(cells, task)):
        seen, gaps = cell.values("seen_loss"), dict[int, list[float]]()
        for seed, loss in cell.values("loss").items():
            if seed in seen:
                gaps.setdefault(pretraining_seed(seed), []).append(loss - seen[seed])
        by_task.setdefault(_arm(cell), []).append(gaps)
    return {
        arm: {
            seed: float(np.mean([np.mean(gaps[seed]) for gaps in of_arm]))
            for seed in sorted(set.intersection(*map(set, of_arm)))
        }
        for arm, of_arm in by_task.items()
    }


def _of(cells: Sequence[Cell], task: str) -> list[Cell]:
    return [cell for cell in cells if cell.labels["task"] == task]


def _arm(cell: Cell) -> Arm:
    return str(cell.labels["method"]), float(cell.labels["weight decay"])


def _over_blocks(cell: Cell, name: str) -> dict[int, float]:
    """The mean over blocks, by seed."""
    curves = {seed: result.curve[f"validation/{name}"].values for seed, result in cell.finished.items()}
    return {seed: float(np.mean(np.array(values, np.float64))) for seed, values in curves.items()}


def _mean(measure: Measure, arm: Arm) -> str:
    values = list(measure.values.get(arm, {}).values())
    if not values:
        return NOT_MADE
    spread = f" ± {np.std(values, ddof=1):.{measure.digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{measure.digits}f}{spread}"


def _change(measure: Measure, arm: Arm) -> str:
    """The difference to no decay, paired by pre-training seed; bold if its interval leaves 0 out."""
    values, none = measure.values.get(arm, {}), measure.values.get(NONE, {})
    if not values.keys() & none.keys():
        return NOT_MADE
    found, digits = contrast(values, none), measure.digits
    if found.n == 1:
        return f"{found.mean:+.{digits}f}"
    text = f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _line(found: Sequence[Measure], arms: Sequence[Arm]) -> str:
    """Where each number is highest."""
    told = []
    for measure in found:
        made = [arm for arm in arms if measure.values.get(arm)]
        if made:
            best = max(made, key=lambda arm: float(np.mean(list(measure.values[arm].values()))))
            told.append(f"{measure.name}: {_name(best)}")
    return f"Highest for each number: {'; '.join(told) or NOT_MADE}."


def draw(found: Sequence[Measure], arms: Sequence[Arm]) -> Figure:
    """Each number against weight decay: a line a method, from no decay on; a bar is one standard deviation."""
    figure = Figure(figsize=(3.0 * len(found), 3.4), layout="constrained")
    decays = sorted({arm[1] for arm in arms})
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(found))), found, strict=True):
        axes.set(title=measure.name, xlabel="weight decay", xticks=range(len(decays)), xticklabels=decays)
        for index, method in enumerate(dict.fromkeys(arm[0] for arm in arms if arm != NONE)):
            made = [arm for arm in (NONE, *arms) if arm in (NONE, (method, arm[1])) and measure.values.get(arm)]
            made = sorted(set(made), key=lambda arm: arm[1])
            values = [list(measure.values[arm].values()) for arm in made]
            spread = [np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in values]
            axes.errorbar(
                [decays.index(arm[1]) + 0.06 * index for arm in made], [np.mean(each) for each in values], spread,
                color=COLOURS[index], marker=MARKERS[index], capsize=2, label=method,
            )  # fmt: skip
        axes.tick_params("x", labelrotation=45)
    figure.axes[0].legend()
    return figure


def _name(arm: Arm) -> str:
    return arm[0] if arm[1] == 0 else f"{arm[0]} {arm[1]:g}"
