"""Every table and figure of the paper as a list of runs: `python -m experiments.suites NAME ... --scale SCALE`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import itertools
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import rich.console

from experiments import results, runner
from experiments.config import PRESETS, Config
from experiments.estimates import Estimate
from experiments.progress import duration
from experiments.scales import SCALES, Scale, base_config, with_optimizer

METHODS = {"none": "WD=0", "uniform": "Uniform", "awd": "AWD", "adadecay": "AdaDecay", "alphadecay": "AlphaDecay"}
"""The rows of the paper's tables: `OptimizerConfig.method`, and what the paper calls it."""


Labels = Mapping[str, str | float]
"""Where a run belongs in its table or figure, by the names of the axes."""


_SHOWN = ("perplexity", "accuracy")


class Run(NamedTuple):
    """One run and where it belongs in its table or figure; several seeds share a place."""

    labels: Labels
    config: Config


class Suite(NamedTuple):
    """A table or figure."""

    about: str
    """What it shows, in a line."""
    runs: Callable[[Config, Scale, Mapping[str, Any]], Iterable[Run]]
    """`(base config, scale, results so far) -> runs`."""


def _table(coupling: str, seeds: str) -> Callable[[Config, Scale, Mapping[str, Any]], Iterator[Run]]:
    """Methods down, decays across: seeds outermost, so that a part of the runs is a whole table."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
        grid = scale.grid(coupling)
        for seed in range(getattr(scale, seeds)):
            for decay, method in itertools.product(grid.decays, METHODS):
                config = with_optimizer(
                    dataclasses.replace(base, seed=seed),
                    coupling=coupling, learning_rate=grid.learning_rates[0], method=method,
                    weight_decay=decay.rate, scale_range=decay.scale_range,
                )  # fmt: skip
                yield Run({"method": METHODS[method], "weight decay": decay.rate}, config)

    return runs


def _repeats(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
    """Table 4: every method at the decay of the ablations, over seeds."""
    for seed, method in itertools.product(range(scale.seeds), METHODS):
        config = with_optimizer(dataclasses.replace(base, seed=seed), method=method)
        yield Run({"method": METHODS[method]}, config)


def _measured_uniform(base: Config) -> Config:
    """Uniform decay whose alphas are read all the same: AlphaDecay between 1 and 1."""
    return with_optimizer(base, method="alphadecay", scale_range=(1.0, 1.0))


def _structure(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
    """Figures 1 and 3: one run of each."""
    yield Run({"method": "Uniform"}, _measured_uniform(base))
    yield Run({"method": "AlphaDecay"}, base)


def _decays(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
    for seed, rate in itertools.product(range(scale.ablation_seeds), scale.grid(scale.main).sweep):
        config = with_optimizer(dataclasses.replace(base, seed=seed), weight_decay=rate)
        yield Run({"method": "Uniform", "weight decay": rate}, _measured_uniform(config))
        if rate:
            yield Run({"method": "AlphaDecay", "weight decay": rate}, config)


def _vary(label: str, variants: Mapping[str | float, dict[str, Any]]) -> Callable[..., Iterator[Run]]:
    """An ablation: the base run with other settings, over seeds."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
        for seed, (value, settings) in itertools.product(range(scale.ablation_seeds), variants.items()):
            yield Run({label: value}, with_optimizer(dataclasses.replace(base, seed=seed), **settings))

    return runs


def _sweep(coupling: str) -> Callable[[Config, Scale, Mapping[str, Any]], Iterator[Run]]:
    """One seed, the same learning rates and decays for every method; uniform decay first."""

    def runs(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
        grid = scale.grid(coupling)
        for method, rate, learning_rate in itertools.product(
            ("none", "uniform", "alphadecay", "adadecay", "awd"), grid.sweep, grid.learning_rates
        ):
            if bool(rate) != (method == "none"):
                labels: Labels = {"method": METHODS[method], "weight decay": rate, "learning rate": learning_rate}
                settings: dict[str, Any] = {"coupling": coupling, "learning_rate": learning_rate, "method": method}
                yield Run(labels, with_optimizer(base, weight_decay=rate, **settings))

    return runs


def _steps(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
    """Uniform decay in runs of other lengths, over the same tokens."""
    grid = scale.grid(scale.main)
    for factor, rate in itertools.product((0.5, 1, 2), (0.0, *sorted(decay.rate for decay in grid.decays))):
        steps = round(base.steps * factor)
        config = dataclasses.replace(base, steps=steps, eval_every=steps // 2, checkpoint_every=steps)
        method = "uniform" if rate else "none"
        yield Run({"steps": steps, "weight decay": rate}, with_optimizer(config, method=method, weight_decay=rate))


def best_of_sweep(runs: Iterable[Run], found: Mapping[str, Any]) -> dict[str, Config]:
    """The run of each method with the lowest validation loss.

    Args:
        runs: A sweep.
        found: Results by name.

    Returns:
        Configs by the method's name in the tables; methods with a run still to make are left out.
    """
    best: dict[str, tuple[float, Config]] = {}
    runs = list(runs)
    for method in METHODS.values():
        tried = [run.config for run in runs if run.labels["method"] == method]
        outcomes = [found.get(results.name_of(config)) for config in tried]
        if all(outcomes):
            losses = [outcome["final"]["loss"] for outcome in outcomes if outcome and not results.failed(outcome)]
            configs = [c for c, outcome in zip(tried, outcomes, strict=True) if outcome and not results.failed(outcome)]
            if losses:
                best[method] = min(zip(losses, configs, strict=True), key=lambda pair: pair[0])
    return {method: config for method, (_, config) in best.items()}


def _tuned(coupling: str) -> Callable[[Config, Scale, Mapping[str, Any]], Iterator[Run]]:
    def runs(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
        best = best_of_sweep(_sweep(coupling)(base, scale, found), found)
        for seed, (method, config) in itertools.product(range(scale.seeds), best.items()):
            yield Run({"method": method}, dataclasses.replace(config, seed=seed))

    return runs


def _equal_mean(base: Config, scale: Scale, found: Mapping[str, Any]) -> Iterator[Run]:
    """Uniform decay, and the same mean decay shared out by alpha: as the paper does, and the other way round."""
    variants: dict[str, dict[str, Any]] = {
        "Uniform": {"method": "uniform"},
        "AlphaDecay, mean 1": {"unit_mean": True},
        "AlphaDecay reversed, mean 1": {"unit_mean": True, "reverse": True},
    }
    for seed, decay in itertools.product(range(scale.seeds), scale.grid(scale.main).decays):
        for name, settings in variants.items():
            config = with_optimizer(
                dataclasses.replace(base, seed=seed),
                **{"weight_decay": decay.rate, "scale_range": decay.scale_range, **settings},
            )
            yield Run({"method": name, "weight decay": decay.rate}, config)


SUITES: dict[str, Suite] = {
    "table-2": Suite("Adam: five methods at three decays.", _table("adam", "table_seeds")),
    "table-3": Suite("AdamW: five methods at three decays.", _table("adamw", "table_seeds")),
    "table-4": Suite("Five methods over seeds, with paired t-tests.", _repeats),
    "figure-1": Suite("Alpha and decay by type of module.", _structure),
    "figure-3": Suite("Alpha and decay by layer.", _structure),
    "figure-4": Suite("Perplexity and alpha against the decay rate.", _decays),
    "figure-5": Suite(
        "Assignment functions.",
        _vary("assignment", {name: {"assign": name} for name in ("linear", "sqrt", "log2", "sigmoid")}),
    ),
    "figure-6": Suite(
        "What to measure on a module.",
        _vary(
            "metric",
            {name: {"metric": name}
             for name in ("pl_alpha_hill", "grad_norm", "frobenius_norm", "spectral_norm", "stable_rank")},
        ),
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
             for lo, hi in ((2 / 3, 1.5), (2 / 3, 3.0), (2 / 3, 5.0), (1.0, 3.0), (1 / 3, 3.0), (1 / 3, 5.0))},
        ),
    ),
    "equal-mean": Suite("AlphaDecay and its reverse at Uniform's mean decay.", _equal_mean),
    "sweep-adam": Suite("Adam: every method over learning rates and decays, one seed.", _sweep("adam")),
    "sweep-adamw": Suite("AdamW: every method over learning rates and decays, one seed.", _sweep("adamw")),
    "sweep-steps": Suite("Uniform decay in shorter and longer runs.", _steps),
    "tuned-adam": Suite("Adam: the best of sweep-adam for each method, over seeds.", _tuned("adam")),
    "tuned-adamw": Suite("AdamW: the best of sweep-adamw for each method, over seeds.", _tuned("adamw")),
}  # fmt: skip


def main(args: Sequence[str] | None = None) -> int:
    """Makes what is left of suites.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 if a run failed or settings are wrong; 130 if it was stopped.
    """
    words = list(sys.argv[1:] if args is None else args)
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    asked = _parser().parse_args(own)
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    scale = SCALES[asked.scale]
    places = runner.Places(asked.results / asked.scale, asked.workdir / asked.scale)
    try:
        base = base_config(scale, options)
        found = results.read_all(places.results)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = list(SUITES) if "all" in asked.names else asked.names
    configs = {name: _distinct(SUITES[name].runs(base, scale, found)) for name in names}
    every = {name: config for part in configs.values() for name, config in part.items()}
    left = {name: config for name, config in every.items() if _is_left(found.get(name), retry=asked.retry_failed)}
    estimate = Estimate(scale, every.values(), found)
    if asked.commands:
        for config in left.values():
            print(command_of(config, scale.preset, places))
        return 0
    for suite, part in configs.items():
        waiting = [config for name, config in part.items() if name in left]
        hours = duration(sum(map(estimate.seconds, waiting)))
        failures = sum(results.failed(found.get(name, {})) for name in part)
        told = f", {failures} failed before" if failures else ""
        console.print(f"{suite:<12} {len(part)} runs, {len(waiting)} left{told}, {hours} of one process")
    console.print(f"In all {len(left)} runs left; times by {estimate.basis}.")
    if asked.plan or not left:
        return 0
    return _make(left, places, asked.jobs, estimate, console)


def _make(
    left: dict[str, Config], places: runner.Places, jobs: int, estimate: Estimate, console: rich.console.Console
) -> int:
    """Makes the runs, a line each as they end."""
    waiting, failures = dict(left), 0

    def report(config: Config, result: dict[str, Any]) -> None:
        nonlocal failures
        failures += results.failed(result)
        del waiting[result["name"]]
        outcome = result["error"] if results.failed(result) else _outcome(result)
        ahead = duration(sum(map(estimate.seconds, waiting.values())) / jobs)
        console.print(f"[{len(left) - len(waiting)}/{len(left)}] {result['name']}: {outcome} | about {ahead} left")

    ended = runner.make_runs(list(left.values()), places, jobs=jobs, report=report)
    if not ended:
        console.print(f"Stopped with {len(waiting)} runs left. The same command goes on.")
        return 130
    console.print(f"Results are in {places.results}; `python -m experiments.report` makes tables and figures of them.")
    if failures:
        print(f"error: {failures} runs failed; --retry-failed makes them again.", file=sys.stderr)
    return 1 if failures else 0


def _outcome(result: dict[str, Any]) -> str:
    final = ", ".join(f"{name} {value:.4g}" for name, value in result["final"].items() if name in _SHOWN)
    return f"{final} in {duration(result['seconds'])}"


def _distinct(runs: Iterable[Run]) -> dict[str, Config]:
    """Runs by name: places of a table may share a run."""
    return {results.name_of(run.config): run.config for run in runs}


def _is_left(result: dict[str, Any] | None, *, retry: bool) -> bool:
    return result is None or (retry and results.failed(result))


def command_of(config: Config, preset: str, places: runner.Places) -> str:
    """The command that makes one run by itself, for launchers of many processes; its folder is the suite's.

    Args:
        config: The run.
        preset: The preset to start from.
        places: Where the suite works.

    Returns:
        `python -m experiments.train PRESET --option value ...`, fit for a shell.
    """
    config = dataclasses.replace(config, workdir=places.workdir(config))
    words = ["python", "-m", "experiments.train", preset, *_options(config, PRESETS[preset][1], "--")]
    return shlex.join(words)


def _options(config: Any, plain: Any, prefix: str) -> Iterator[str]:
    """The options in which a config differs from another."""
    for field in dataclasses.fields(config):
        value, before = getattr(config, field.name), getattr(plain, field.name)
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _options(value, before, f"{option}.")
        elif value != before and isinstance(value, bool):
            yield option if value else f"{prefix}no-{field.name.replace('_', '-')}"
        elif value != before:
            yield option
            yield from map(str, value if isinstance(value, tuple) else (value,))


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, SUITES))
    parser = argparse.ArgumentParser(
        prog="python -m experiments.suites",
        description="Makes the runs of tables and figures. What was made is not made again; what was interrupted goes "
        "on from its newest checkpoint; a run that fails is recorded and does not stop the others.",
        epilog="suites:\n"
        + "\n".join(f"  {name:<{width}}  {suite.about}" for name, suite in SUITES.items())
        + "\n\nOptions after -- change the preset of the scale: -- --data.dir /data/tfds --accumulate 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*SUITES, "all"], help="suites, or `all`")
    parser.add_argument("--scale", choices=SCALES, default="nano", help="the model and its protocol (default: nano)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each on its share of the CPU's cores")
    parser.add_argument("--plan", action="store_true", help="show what is left and how long it will take, and end")
    parser.add_argument("--commands", action="store_true", help="print the command of each run left, and end")
    parser.add_argument("--retry-failed", action="store_true", help="make failed runs again")
    parser.add_argument("--results", type=pathlib.Path, default=results.DIRECTORY, help="folder of the results")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/suites"),
                        help="folder of checkpoints and logs (default: runs/suites)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
