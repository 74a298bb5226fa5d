"""Weight decay and plasticity in the report: the decay that pre-training would choose, and the one that tasks would."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.plasticity.ranking import Arm, Scores, agreement, resolution, scores
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, table
from experiments.style import COLOURS, MARKERS
from experiments.suites.inference import contrast
from experiments.suites.plasticity import PRETRAINING, TASKS

ABOUT = (
    "AdamW at one learning rate: no decay, and Uniform and AlphaDecay (ratios divided by their mean over weights) at "
    "each decay. All weights of every base model are then trained on every task, three seeds each, by one recipe and "
    "at the task's learning rate. Nats are mean cross-entropies on the test split (books: validation split), absolute "
    "and not gains; mean ± standard deviation over pre-training seeds of means over fine-tuning seeds. Tau is "
    "Kendall's, of pre-training loss and task nats over base models: 1 if both rank alike. Its 95 % interval resamples "
    "pre-training and fine-tuning seeds; with one pre-training seed it knows of fine-tuning noise alone. Best models "
    "are picked by the same runs that price them, so prices are a little too high. Seeds that some base model does not "
    "have yet are left out."
)


def section() -> Section:
    """The section of the report."""
    return Section("Weight decay and plasticity", ABOUT, "plasticity", _part)


def _part(book: Book, scale: str) -> Part:
    cells = book.cells["plasticity", scale]
    base = scores(cells, PRETRAINING)
    by_task = {task: found for task in TASKS if (found := scores(cells, task)).seeds() & base.seeds()}
    if not base.values:
        return Part(f"{NOT_MADE.capitalize()} yet.")
    text = "\n".join((models(cells), choices(base, by_task), places(base, by_task)))
    return Part(_line(base, by_task), text, functools.partial(draw, base, by_task) if by_task else None)


def _line(base: Scores, by_task: Mapping[str, Scores]) -> str:
    """What the tasks would choose against what pre-training would, in a line."""
    told = []
    for task, found in by_task.items():
        arms = [arm for arm in base.values if arm in found.values]
        first, second = base.of_seeds(found.seeds()).best(arms)[1], found.best(arms)[1]
        word = "the same decay" if first == second else f"{'more' if second > first else 'less'} decay ({second:g})"
        told.append(f"{task} {word}")
    chosen = base.best(list(base.values))
    missing = [task for task in TASKS if task not in by_task]
    rest = f" {NOT_MADE.capitalize()}: {', '.join(missing)}." if missing else ""
    return f"Pre-training loss chooses {_name(chosen)}; {'; '.join(told) or 'no task was made'}.{rest}"


def models(cells: Sequence[Cell]) -> str:
    """Every base model: its pre-training loss, and nats and accuracy on every task; the best nats are bold."""
    arms = list(dict.fromkeys((str(cell.labels["method"]), float(cell.labels["weight decay"])) for cell in cells))
    columns = {PRETRAINING: scores(cells, PRETRAINING), **{task: scores(cells, task) for task in TASKS}}
    accuracies = {task: scores(cells, task, "accuracy") for task in columns}
    best = {task: found.best(list(found.values)) if found.values else None for task, found in columns.items()}
    rows = []
    for arm in arms:
        texts = []
        for task, found in columns.items():
            text = _mean(found.means(arm))
            text = f"**{text}**" if best[task] == arm else text
            accuracy = accuracies[task].mean(arm)
            texts.append(text if math.isnan(accuracy) else f"{text} ({accuracy:.1%})")
        rows.append([_name(arm), *texts])
    return table(("base model", *columns), rows)


def choices(base: Scores, by_task: Mapping[str, Scores]) -> str:
    """For every task: how the rankings agree, what each criterion chooses, and what that costs in the other."""
    rows = []
    for task in TASKS:
        found = by_task.get(task)
        arms = [arm for arm in base.values if found and arm in found.values]
        if found is None or not arms:
            rows.append([task, NOT_MADE, "", "", "", "", ""])
            continue
        agreed, before = agreement(base, found, np.random.default_rng(0)), base.of_seeds(found.seeds())
        first, second = before.best(arms), found.best(arms)
        resolved = resolution(found, arms)
        rows.append([
            task,
            f"{agreed.tau:+.2f} ({agreed.low:+.2f} to {agreed.high:+.2f})" if agreed else "too few models",
            _name(first),
            _name(second),
            f"{found.mean(first) - found.mean(second):.4f}",
            f"{before.mean(second) - before.mean(first):.4f}",
            "one seed" if math.isnan(resolved) else f"{resolved:.4f}",
        ])  # fmt: skip
    heads = ("task", "tau", "pre-training chooses", "the task chooses", "price in task nats",
             "price in pre-training nats", "smallest difference told apart")  # fmt: skip
    return table(heads, rows)


def places(base: Scores, by_task: Mapping[str, Scores]) -> str:
    """AlphaDecay: the place of its best model in each ranking, and its difference from Uniform at equal decays."""
    rows = []
    for task, found in {PRETRAINING: base, **by_task}.items():
        ranked = sorted(found.values, key=found.mean)
        place = next((str(1 + at) for at, arm in enumerate(ranked) if arm[0] == "AlphaDecay"), NOT_MADE)
        differences: dict[int, list[float]] = {}
        for method, decay in found.values:
            other = found.means(("Uniform", decay))
            for seed, value in found.means((method, decay)).items() if method == "AlphaDecay" else ():
                if seed in other:
                    differences.setdefault(seed, []).append(value - other[seed])
        means = {seed: float(np.mean(values)) for seed, values in differences.items()}
        compared = contrast(means, dict.fromkeys(means, 0.0)) if means else None
        interval = f" ({compared.low:+.4f} to {compared.high:+.4f})" if compared and compared.n > 1 else ""
        rows.append([task, f"{place} of {len(ranked)}", f"{compared.mean:+.4f}{interval}" if compared else NOT_MADE])
    heads = ("ranked by", "AlphaDecay's best place", "AlphaDecay - Uniform at equal decays, nats")
    return table(heads, rows)


def draw(base: Scores, by_task: Mapping[str, Scores]) -> Figure:
    """Task nats against pre-training loss: a panel a task, a line a method through its decays."""
    figure = Figure(figsize=(3.4 * len(by_task), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(by_task)))
    for axes, (task, found) in zip(panels, by_task.items(), strict=True):
        axes.set(title=task, xlabel="pre-training loss, nats", ylabel="task, nats")
        for index, method in enumerate(dict.fromkeys(arm[0] for arm in base.values)):
            arms = sorted(arm for arm in base.values if arm[0] == method and arm in found.values)
            before = base.of_seeds(found.seeds())
            points = np.array([[before.mean(arm), found.mean(arm)] for arm in arms]).reshape(-1, 2)
            axes.plot(*points.T, color=COLOURS[index], marker=MARKERS[index], label=method)
            for arm, point in zip(arms, points, strict=True):
                axes.annotate(f"{arm[1]:g}", point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    panels[0].legend()
    return figure


def _name(arm: Arm) -> str:
    return arm[0] if arm[1] == 0 else f"{arm[0]} {arm[1]:g}"


def _mean(means: Mapping[int, float]) -> str:
    """Mean and standard deviation over pre-training seeds."""
    values = list(means.values())
    if not values:
        return NOT_MADE
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
