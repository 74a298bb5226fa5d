"""Every table and figure of the paper, and the sweeps behind them, as lists of runs."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.config import Config, RunConfig
from experiments.finetune_config import SpectraConfig
from experiments.suites import correction, plasticity
from experiments.suites.identity import name_of
from experiments.suites.plan import Labels, PlannedRun, Runs, Suite
from experiments.suites.questions import Question
from experiments.suites.questions.catalogue import QUESTIONS
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, Decay, Scale, base_config, base_vision_config, with_optimizer
from experiments.vision_config import VisionConfig

METHODS = {"none": "WD=0", "uniform": "Uniform", "awd": "AWD", "adadecay": "AdaDecay", "alphadecay": "AlphaDecay"}
"""The rows of the paper's tables: `Method.method`, and what the paper calls it."""


def _table(coupling: str, seeds: str) -> Runs:
    """Methods down, decays across: seeds outermost, so that a part of the runs is a whole table."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        grid = scale.grid(coupling)
        for seed in range(getattr(scale, seeds)):
            for decay, method in itertools.product(grid.decays, METHODS):
                config = with_optimizer(
                    dataclasses.replace(base, seed=seed),
                    coupling=coupling, learning_rate=grid.learning_rates[0], method=method,
                    weight_decay=decay.rate, scale_range=decay.scale_range,
                )  # fmt: skip
                yield PlannedRun({"method": METHODS[method], "weight decay": decay.rate}, config)

    return runs


def _vision_table(base: VisionConfig, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    for seed, decay, method in itertools.product(range(scale.table_seeds), scale.vision_decays, METHODS):
        config = with_optimizer(
            dataclasses.replace(base, seed=seed),
            method=method, weight_decay=decay.rate, scale_range=decay.scale_range,
        )  # fmt: skip
        yield PlannedRun({"method": METHODS[method], "weight decay": decay.rate}, config)


def _vision_sweep(base: VisionConfig, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Uniform decay, one seed."""
    for rate in scale.vision_sweep:
        config = with_optimizer(base, method="uniform" if rate else "none", weight_decay=rate)
        yield PlannedRun({"weight decay": rate}, config)


def _repeats(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Table 4: every method at the decay of the ablations, over seeds."""
    for seed, method in itertools.product(range(scale.seeds), METHODS):
        config = with_optimizer(dataclasses.replace(base, seed=seed), method=method)
        yield PlannedRun({"method": METHODS[method]}, config)


def _measured_uniform(base: Config) -> Config:
    """Uniform decay whose alphas are read all the same: AlphaDecay between 1 and 1."""
    return with_optimizer(base, method="alphadecay", scale_range=(1.0, 1.0))


def _structure(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Figures 1 and 3: one run of each."""
    yield PlannedRun({"method": "Uniform"}, _measured_uniform(base))
    yield PlannedRun({"method": "AlphaDecay"}, base)


def ablated(base: Config, scale: Scale, decay: Decay, seed: int) -> Config:
    """The run that figures 5 to 9 vary: AlphaDecay with Adam, as in the paper, at one of its base rates."""
    return with_optimizer(
        dataclasses.replace(base, seed=seed),
        coupling="adam", learning_rate=scale.ablations.learning_rates[0],
        weight_decay=decay.rate, scale_range=decay.scale_range,
    )  # fmt: skip


def _decays(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    ranges = {decay.rate: decay for decay in scale.ablations.decays}
    for seed, rate in itertools.product(range(scale.ablation_seeds), scale.ablations.sweep):
        decay = ranges.get(rate, scale.ablations.decays[0]._replace(rate=rate))
        config = ablated(base, scale, decay, seed)
        yield PlannedRun({"method": "Uniform", "weight decay": rate}, _measured_uniform(config))
        if rate:
            yield PlannedRun({"method": "AlphaDecay", "weight decay": rate}, config)


def _vary(label: str, variants: Mapping[str | float, dict[str, Any]]) -> Runs:
    """An ablation: AlphaDecay with other settings at each base rate, over seeds."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        cells = itertools.product(range(scale.ablation_seeds), scale.ablations.decays, variants.items())
        for seed, decay, (value, settings) in cells:
            labels: Labels = {label: value, "weight decay": decay.rate}
            yield PlannedRun(labels, with_optimizer(ablated(base, scale, decay, seed), **settings))

    return runs


def _spectra(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Figure 2: what two runs of figure 4 end with, at the base rate in the middle."""
    if scale.ablation_seeds:
        ours = ablated(base, scale, scale.ablations.decays[len(scale.ablations.decays) // 2], seed=0)
        for method, run in (("Uniform", _measured_uniform(ours)), ("AlphaDecay", ours)):
            config = SpectraConfig(run.model, run.data, run.optimizer, steps=0, base=plasticity.base_of(run))
            yield PlannedRun({"method": method}, config)


def _sweep(coupling: str) -> Runs:
    """One seed, the same learning rates and decays for every method; uniform decay first."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        grid = scale.grid(coupling)
        for method, rate, learning_rate in itertools.product(
            ("none", "uniform", "alphadecay", "adadecay", "awd"), grid.sweep, grid.learning_rates
        ):
            if bool(rate) != (method == "none"):
                labels: Labels = {"method": METHODS[method], "weight decay": rate, "learning rate": learning_rate}
                settings: dict[str, Any] = {"coupling": coupling, "learning_rate": learning_rate, "method": method}
                yield PlannedRun(labels, with_optimizer(base, weight_decay=rate, **settings))

    return runs


def _steps(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Uniform decay in runs of other lengths."""
    grid = scale.grid(scale.main)
    for factor, rate in itertools.product((0.5, 1, 2), (0.0, *sorted(decay.rate for decay in grid.decays))):
        steps = round(base.steps * factor)
        config = dataclasses.replace(base, steps=steps, eval_every=round(base.eval_every * factor))
        method = "uniform" if rate else "none"
        yield PlannedRun(
            {"steps": steps, "weight decay": rate}, with_optimizer(config, method=method, weight_decay=rate)
        )


def best_of_sweep(runs: Iterable[PlannedRun], found: Mapping[str, Result]) -> dict[str, RunConfig]:
    """The run of each method with the lowest validation loss.

    Args:
        runs: A sweep.
        found: Results by name.

    Returns:
        Configs by the method's name in the tables; methods with a run still to make are left out.
    """
    best: dict[str, tuple[float, RunConfig]] = {}
    runs = list(runs)
    for method in METHODS.values():
        tried = [run.config for run in runs if run.labels["method"] == method]
        outcomes = [found.get(name_of(config)) for config in tried]
        if all(outcomes):
            finished = [(outcome.final["loss"], config) for config, outcome in zip(tried, outcomes, strict=True)
                        if outcome and not outcome.failed]  # fmt: skip
            if finished:
                best[method] = min(finished, key=lambda pair: pair[0])
    return {method: config for method, (_, config) in best.items()}


def _tuned(coupling: str) -> Runs:
    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        best = best_of_sweep(_sweep(coupling)(base, scale, found), found)
        for seed, (method, config) in itertools.product(range(scale.seeds), best.items()):
            yield PlannedRun({"method": method}, dataclasses.replace(config, seed=seed))

    return runs


def _equal_mean(*, repeats: int = 1, columns: int | None = None) -> Runs:
    """Uniform decay, and the same mean decay given by alpha: more to high alpha, as in the paper, or to low."""
    variants: dict[str, dict[str, Any]] = {
        "Uniform": {"method": "uniform"},
        "AlphaDecay, mean 1": {"unit_mean": True},
        "AlphaDecay reversed, mean 1": {"unit_mean": True, "reverse": True},
    }

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        decays = scale.grid(scale.main).decays[:columns]
        for seed, decay, (name, settings) in itertools.product(range(repeats * scale.seeds), decays, variants.items()):
            config = with_optimizer(
                dataclasses.replace(base, seed=seed),
                **{"weight_decay": decay.rate, "scale_range": decay.scale_range, **settings},
            )
            yield PlannedRun({"method": name, "weight decay": decay.rate}, config)

    return runs


SUITES: dict[str, Suite] = {
    "table-2": Suite("Adam: five methods at three decays.", _table("adam", "table_seeds")),
    "table-3": Suite("AdamW: five methods at three decays.", _table("adamw", "table_seeds")),
    "table-4": Suite("Five methods over seeds, with paired t-tests.", _repeats),
    "table-5": Suite("A Vision Transformer: five methods at two decays.", _vision_table, vision=True),
    "figure-1": Suite("Alpha and decay by type of module.", _structure),
    "figure-2": Suite("Spectra and their power-law fits.", _spectra),
    "figure-3": Suite("Alpha and decay by layer.", _structure),
    "figure-4": Suite("Perplexity and alpha against the decay rate.", _decays),
    "figure-5": Suite(
        "Assignment functions.",
        _vary("assignment", {name: {"assign": name} for name in ("linear", "sqrt", "log2", "sigmoid")}),
    ),
    "figure-6": Suite(
        "What to measure on a module.",
        _vary("metric", {name: {"metric": name} for name in
                         ("pl_alpha_hill", "grad_norm", "frobenius_norm", "spectral_norm", "stable_rank")}),
    ),
    "figure-7": Suite(
        "Power-law fits, with the time of a refresh.",
        _vary("fit", {name: {"fit": name} for name in ("median", "fix_finger", "goodness_of_fit")}),
    ),
    "figure-8": Suite(
        "Steps between refreshes, with the time of a run.",
        _vary("refresh every", {gap: {"refresh_every": gap} for gap in (1, 50, 100, 250, 500)}),
    ),
    "figure-9": Suite(
        "Scaling ranges.",
        _vary(
            "range",
            {f"({lo:.3g}, {hi:.3g})": {"scale_range": (lo, hi)}
             for lo, hi in ((2 / 3, 1.5), (2 / 3, 3.0), (2 / 3, 5.0), (1.0, 3.0), (1 / 3, 1.5), (1 / 3, 3.0),
                            (1 / 3, 5.0))},
        ),
    ),
    "equal-mean": Suite("AlphaDecay and its reverse at Uniform's mean decay.", _equal_mean()),
    "equal-mean-seeds": Suite(
        "The same at the first decay, with four times the seeds.", _equal_mean(repeats=4, columns=1)
    ),
    "sweep-adam": Suite("Adam: every method over learning rates and decays, one seed.", _sweep("adam")),
    "sweep-adamw": Suite("AdamW: every method over learning rates and decays, one seed.", _sweep("adamw")),
    "sweep-steps": Suite("Uniform decay in shorter and longer runs.", _steps),
    "sweep-vision": Suite("A Vision Transformer: uniform decay, one seed.", _vision_sweep, vision=True),
    "tuned-adam": Suite("Adam: the best of sweep-adam for each method, over seeds.", _tuned("adam")),
    "tuned-adamw": Suite("AdamW: the best of sweep-adamw for each method, over seeds.", _tuned("adamw")),
}  # fmt: skip


def _after(planned: Callable[[Config, Scale], Iterator[tuple[Labels, RunConfig]]]) -> Runs:
    """Runs that start from base models."""
    return lambda base, scale, found: itertools.starmap(PlannedRun, planned(base, scale))


SUITES["plasticity"] = Suite("Which decay is best before fine-tuning, and which after it.", _after(plasticity.planned))
SUITES["plasticity-inside"] = Suite("What decay does to layers and heads.", _after(plasticity.planned_probes))
SUITES["plasticity-rates"] = Suite("The learning rate of fine-tuning, one seed.", _after(plasticity.planned_rates))


def _asked(question: Question) -> Runs:
    """The test runs of a question, at its own scale."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        if scale is SCALES[question.scale]:
            yield from (PlannedRun({"arm": arm}, config) for arm, config in question.test_runs())

    return runs


def _tuning(question: Question) -> Runs:
    """The runs that a question's settings were chosen on."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
        if scale is SCALES[question.scale]:
            for arm, tried, config in question.tuning_runs():
                words = {name.replace("_", " "): value for name, value in tried.items()}
                yield PlannedRun({"arm": arm, **words}, config)

    return runs


SUITES |= correction.SUITES
ASKED: set[str] = set()
"""The suites of questions; the others are the paper's tables and figures, and what else was swept."""
for _name, _question in QUESTIONS.items():
    if _question.tuning_seeds:
        SUITES[f"{_name}-tuning"] = Suite(f"{_question.title}: what its settings were chosen on.", _tuning(_question))
    SUITES[_name] = Suite(f"{_question.title}: {_question.hypothesis}", _asked(_question))
    ASKED |= {_name, f"{_name}-tuning"}


def runs_of(name: str, scale: Scale, found: Mapping[str, Result], options: Sequence[str] = ()) -> list[PlannedRun]:
    """The runs of a suite.

    Args:
        name: The suite, a key of `SUITES`.
        scale: The models.
        found: Results so far, by the names of the runs.
        options: Words of a command line that change the scale's preset.
    """
    suite = SUITES[name]
    if (suite.vision and not scale.vision) or (scale.only_questions and name not in ASKED):
        return []
    base = base_vision_config(scale, options) if suite.vision else base_config(scale, options)
    return list(suite.runs(base, scale, found))
