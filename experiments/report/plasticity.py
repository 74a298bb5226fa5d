"""Weight decay and plasticity in the report: the decay that pre-training would choose, and the one that tasks would."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, table
from experiments.style import COLOURS, MARKERS
from experiments.suites.inference import SIGNIFICANCE, contrast
from experiments.suites.plasticity import PRETRAINING, TASKS, pretraining_seed

RESAMPLES = 2_000
ABOUT = (
    "AdamW at one learning rate: no decay, and Uniform and AlphaDecay (ratios divided by their mean over weights) at "
    "each decay. All weights of every base model are then trained on every task, three seeds each, by one recipe. Nats "
    "are mean cross-entropies on the test split (books: validation split), absolute and not gains; mean ± standard "
    "deviation over pre-training seeds of means over fine-tuning seeds. Tau is Kendall's, of pre-training loss and "
    "task nats over base models: 1 if both rank alike. Its 95 % interval resamples pre-training and fine-tuning seeds; "
    "with one pre-training seed it knows of fine-tuning noise alone. Best models are picked by the same runs that "
    "price them, so prices are a little too high. Seeds that some base model does not have yet are left out."
)
Arm = tuple[str, float]
"""Method and weight decay of a base model."""


class Scores(NamedTuple):
    """A number of every base model, by pre-training seed and then by fine-tuning seed; lower is better."""

    values: Mapping[Arm, Mapping[int, Mapping[int, float]]]

    def seeds(self) -> set[int]:
        """Pre-training seeds that all arms have."""
        return set.intersection(*map(set, self.values.values())) if self.values else set()

    def of_seeds(self, seeds: Collection[int]) -> "Scores":
        """The numbers of some pre-training seeds."""
        return Scores({
            arm: {seed: repeats for seed, repeats in found.items() if seed in seeds}
            for arm, found in self.values.items()
        })  # fmt: skip

    def means(self, arm: Arm) -> dict[int, float]:
        """By pre-training seed, the mean over fine-tuning seeds."""
        return {seed: float(np.mean(list(found.values()))) for seed, found in self.values.get(arm, {}).items()}

    def mean(self, arm: Arm) -> float:
        """Over pre-training seeds; NaN without a run."""
        means = self.means(arm)
        return float(np.mean(list(means.values()))) if means else math.nan

    def best(self, arms: Sequence[Arm]) -> Arm:
        """The arm with the lowest mean."""
        return min(arms, key=self.mean)


class Agreement(NamedTuple):
    """Kendall's tau of two rankings."""

    tau: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    arms: int
    """Base models that are ranked."""


def scores(cells: Sequence[Cell], task: str, number: str = "loss") -> Scores:
    """Gathers a number of all base models, of the seeds that every base model with a run has.

    Args:
        cells: Those of the suite at a scale.
        task: A key of `TASKS`, or `PRETRAINING`.
        number: `loss` or `accuracy`; that of the test split where there is one.
    """
    found: dict[Arm, dict[int, dict[int, float]]] = {}
    for cell in cells:
        if cell.labels["task"] == task:
            arm = (str(cell.labels["method"]), float(cell.labels["weight decay"]))
            values = cell.values(f"test_{number}") or cell.values(number)
            for seed, value in values.items():
                base = seed if task == PRETRAINING else pretraining_seed(seed)
                found.setdefault(arm, {}).setdefault(base, {})[seed] = value
    return Scores(_of_common_seeds(found))


def _of_common_seeds(found: Mapping[Arm, Mapping[int, Mapping[int, float]]]) -> dict[Arm, dict[int, dict[int, float]]]:
    """Leaves out the pairs of pre-training and fine-tuning seeds that some arm does not have yet."""
    pairs = [{(base, seed) for base, repeats in of_arm.items() for seed in repeats} for of_arm in found.values()]
    common: dict[int, list[int]] = {}
    for base, seed in sorted(set.intersection(*pairs)) if pairs else ():
        common.setdefault(base, []).append(seed)
    return {
        arm: {base: {seed: of_arm[base][seed] for seed in seeds} for base, seeds in common.items()}
        for arm, of_arm in found.items()
    }


def agreement(first: Scores, second: Scores, rng: np.random.Generator) -> Agreement | None:
    """Ranks base models by two numbers and compares the rankings.

    Args:
        first: One number.
        second: The other.
        rng: Source of the resamples.

    Returns:
        Tau over the arms that both have, with the percentile interval of `RESAMPLES` bootstrap resamples of seeds: the
        same pre-training seeds for all arms, and fine-tuning seeds within each. None with fewer than three arms.
    """
    arms = [arm for arm in first.values if arm in second.values]
    if len(arms) < 3:
        return None
    seeds = sorted(first.seeds() & second.seeds())
    if not seeds:
        return None
    first, second = first.of_seeds(seeds), second.of_seeds(seeds)
    chosen = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    taus = kendall(*(_resampled(part, arms, seeds, chosen, rng) for part in (first, second)))
    low, high = np.nanpercentile(taus, [100 * SIGNIFICANCE / 2, 100 * (1 - SIGNIFICANCE / 2)])
    means = [np.array([[part.mean(arm) for arm in arms]]) for part in (first, second)]
    return Agreement(float(kendall(*means)[0]), float(low), float(high), len(arms))


def kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of the rows of two arrays, `[r, n]` both; NaN where all of a row are equal."""
    left, right = np.triu_indices(first.shape[1], 1)
    signs = [np.sign(part[:, left] - part[:, right]) for part in (first, second)]
    untied = [np.abs(part).sum(axis=1) for part in signs]
    with np.errstate(invalid="ignore"):
        taus: np.ndarray = (signs[0] * signs[1]).sum(axis=1) / np.sqrt(untied[0] * untied[1])
    return taus


def resolution(found: Scores, arms: Sequence[Arm]) -> float:
    """Half width of the 95 % interval of a difference between two base models, in nats; NaN with one seed.

    From the standard deviation, pooled over arms, that is left when arms and seeds have their own means.
    """
    seeds = sorted(found.seeds())
    if len(seeds) < 2 or len(arms) < 2:
        return math.nan
    values = np.array([[found.means(arm)[seed] for seed in seeds] for arm in arms])
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (len(arms) - 1) * (len(seeds) - 1)
    deviation = math.sqrt((rest**2).sum() / freedom)
    return float(scipy.stats.t.ppf(1 - SIGNIFICANCE / 2, freedom)) * deviation * math.sqrt(2 / len(seeds))


def _resampled(
    part: Scores, arms: Sequence[Arm], seeds: Sequence[int], chosen: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Means of the arms, `[r, arms]`, over the chosen pre-training seeds `[r, n]`, each over resampled repeats."""
    means = []
    for arm in arms:
        runs = [np.array(list(part.values[arm][seed].values())) for seed in seeds]
        drawn = [run[rng.integers(len(run), size=(*chosen.shape, len(run)))].mean(axis=2) for run in runs]
        means.append(np.take_along_axis(np.stack(drawn), chosen[None], axis=0)[0].mean(axis=1))
    return np.stack(means, axis=1)


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
