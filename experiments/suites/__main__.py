"""Makes the runs of the paper's tables and figures: `python -m experiments.suites NAME ... --scale SCALE`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import itertools
import pathlib
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import rich.console

from experiments import vision_config
from experiments.command_line import ends_in_a_line
from experiments.config import RunConfig
from experiments.presets import PRESETS
from experiments.suites import runner, store
from experiments.suites.cost import Estimate
from experiments.suites.identity import name_of
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.plan import PlannedRun
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, Scale, with_optimizer
from experiments.training.progress import duration
from experiments.vision_config import VisionConfig

_SHOWN = ("perplexity", "accuracy", "probe_test_accuracy")


class _Plan(NamedTuple):
    """What suites ask for, and what of it is left."""

    suites: dict[str, dict[str, RunConfig]]
    """Name of the suite, name of the run."""
    left: dict[str, RunConfig]
    """Runs to make, in their order."""
    found: dict[str, Result]
    """Results so far."""
    estimate: Estimate


@ends_in_a_line
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
    paths = runner.Paths(asked.results / f"{asked.scale}.jsonl", asked.workdir / asked.scale)
    try:
        plan = _plan(asked, options, paths)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    now = dict(itertools.islice(plan.left.items(), asked.limit))
    if asked.commands:
        for config in now.values():
            print(command_of(config, paths, scale))
        return 0
    _show(plan, console)
    if asked.plan or not now:
        return 0
    code = _make(now, paths, asked.jobs, plan.estimate, console)
    # Suites of the best of a sweep know their runs once the sweep is made.
    more = not asked.limit and code == 0 and _plan(asked, options, paths).left.keys() - now.keys()
    return main(args) if more else code


def _plan(asked: argparse.Namespace, options: Sequence[str], paths: runner.Paths) -> _Plan:
    """Compares what the suites ask for with what was made."""
    scale, contents = SCALES[asked.scale], store.read(paths.results)
    found = contents.results
    for fault in contents.faults:
        print(f"warning: {fault}.", file=sys.stderr)
    names = list(SUITES) if "all" in asked.names else asked.names
    suites = {name: _distinct(runs_of(name, scale, found, options), asked.seeds) for name in names}
    every = {name: config for part in suites.values() for name, config in part.items()}
    left = {name: config for name, config in every.items() if _is_left(found.get(name), retry=asked.retry_failed)}
    return _Plan(suites, left, found, Estimate(scale, every.values(), found))


def _show(plan: _Plan, console: rich.console.Console) -> None:
    """Shows what is left of each suite, and how long it takes."""
    for suite, part in plan.suites.items():
        if not part:
            scales = ", ".join(name for name, scale in SCALES.items() if runs_of(suite, scale, {}))
            told = f"it is made at {scales}" if scales else "it takes the best of a sweep, or waits for settings"
            console.print(f"{suite:<12} no runs at this scale or with these seeds: {told}")
            continue
        waiting = [config for name, config in part.items() if name in plan.left]
        hours = duration(sum(map(plan.estimate.seconds, waiting)))
        failures = sum(plan.found[name].failed for name in part if name in plan.found)
        told = f", {failures} failed before (--retry-failed makes them again)" if failures else ""
        console.print(f"{suite:<12} {len(part)} runs, {len(waiting)} left{told}, {hours} of one process")
    hours = duration(sum(map(plan.estimate.seconds, plan.left.values())))
    console.print(f"In all {len(plan.left)} runs left, {hours} of one process, estimated from {plan.estimate.basis}.")


def _make(
    left: dict[str, RunConfig], paths: runner.Paths, jobs: int, estimate: Estimate, console: rich.console.Console
) -> int:
    """Makes the runs, a line each as they end."""
    waiting, failures, elsewhere = dict(left), 0, 0

    def report(config: RunConfig, result: Result | None) -> None:
        nonlocal failures, elsewhere
        del waiting[name_of(config)]
        failures += result is not None and result.failed
        elsewhere += result is None
        ahead = duration(sum(map(estimate.seconds, waiting.values())) / jobs)
        console.print(
            f"[{len(left) - len(waiting)}/{len(left)}] {name_of(config)}: {_outcome(result)} | about {ahead} left"
        )

    ended = runner.make_runs(list(left.values()), paths, jobs=jobs, report=report)
    if not ended:
        console.print(f"Stopped with {len(waiting)} runs left. The same command goes on.")
        return 130
    console.print(f"Results are in {paths.results}; `python -m experiments.report` makes tables and figures of them.")
    if elsewhere:
        print(f"{elsewhere} runs are being made by other processes; the same command shows when they are done.")
    if failures:
        print(f"error: {failures} runs failed; --retry-failed makes them again.", file=sys.stderr)
    return 1 if failures else 0


def _outcome(result: Result | None) -> str:
    if result is None:
        return "another process is making it"
    if result.failed:
        return result.error
    shown = (f"{name} {value:.4g}" for name, value in result.final.items() if name in _SHOWN)
    final = ", ".join(shown) or "measured"
    return f"{final}, made elsewhere" if result.seconds is None else f"{final} in {duration(result.seconds)}"


def _distinct(runs: Iterable[PlannedRun], seeds: int | None) -> dict[str, RunConfig]:
    """Runs by name, those of the first seeds alone if so many are asked for: cells of a table may share a run.

    What starts from a base model counts by the seed of that.
    """
    return {name_of(run.config): run.config for run in runs if seeds is None or _seed(run.config) < seeds}


def _seed(config: RunConfig) -> int:
    base = getattr(getattr(config, "base", None), "config", None)
    return config.seed if base is None else int(base.seed)


def _is_left(result: Result | None, *, retry: bool) -> bool:
    return result is None or (retry and result.failed)


def command_of(config: RunConfig, paths: runner.Paths, scale: Scale) -> str:
    """The command that makes one run by itself, for launchers of many processes; its folder is the suite's.

    Args:
        config: The run.
        paths: Where the suite works.
        scale: Where its preset is named.

    Returns:
        `python -m experiments.train PRESET --option value ...`, or `experiments.train_vit`, fit for a shell.
    """
    config = dataclasses.replace(config, workdir=paths.workdir(config))
    if hasattr(config, "base"):
        return f"# {name_of(config)} starts from another run: the suite itself makes it"
    vision = isinstance(config, VisionConfig)
    words = ["experiments.train_vit", scale.vision] if vision else ["experiments.train", scale.preset]
    plain = (vision_config.PRESETS[scale.vision] if vision else PRESETS[scale.preset]).config
    method = config.optimizer.method
    if method != plain.optimizer.method:
        words += ["--optimizer.method", method]
        plain = with_optimizer(plain, method)
    return shlex.join(["python", "-m", *words, *_options(config, plain, "--")])


def _options(config: Any, plain: Any, prefix: str) -> Iterator[str]:
    """The options in which a config differs from another."""
    for field in dataclasses.fields(config):
        value, before = getattr(config, field.name), getattr(plain, field.name)
        before = before.expanduser() if isinstance(before, pathlib.Path) else before
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _options(value, before, f"{option}.")
        elif value != before and isinstance(value, bool):
            yield option if value else f"{prefix}no-{field.name.replace('_', '-')}"
        elif value != before:
            yield option
            yield from _words(value)


def _words(value: Any) -> Iterator[str]:
    """A value as words of a command line; tuples, nested ones too, are one word after the other."""
    if isinstance(value, tuple):
        for part in value:
            yield from _words(part)
    else:
        yield str(value)


def _positive(word: str) -> int:
    """A whole number of at least 1; argparse words the error."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} must be at least 1")
    return number


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
    parser.add_argument(
        "--jobs", type=_positive, default=1, help="runs side by side, each on its share of the CPU's cores"
    )
    parser.add_argument("--seeds", type=_positive, help="make only the runs of the first so many seeds")
    parser.add_argument("--limit", type=_positive, help="make at most so many runs")
    parser.add_argument("--plan", action="store_true", help="show what is left and how long it will take, and end")
    parser.add_argument("--commands", action="store_true", help="print the command of each run left, and end")
    parser.add_argument("--retry-failed", action="store_true", help="make failed runs again")
    parser.add_argument("--results", type=pathlib.Path, default=store.DIRECTORY, help="folder of the results")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/suites"),
                        help="folder of checkpoints and logs (default: runs/suites)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
