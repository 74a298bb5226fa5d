"""Rankings of base models by two numbers: scores over seeds, tau with its interval, and what can be told apart."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments.report.statistics import Cell
from experiments.suites.inference import SIGNIFICANCE
from experiments.suites.plasticity import PRETRAINING, pretraining_seed

RESAMPLES = 2_000
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
