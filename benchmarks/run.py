"""Measures the library against its budgets: `python -m benchmarks.run [NAME ...]`."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import rich.console
import tyro

from benchmarks import figure, growth, memory, refresh, report, steps, stochastic
from benchmarks.measure import Row
from experiments.command_line import ends_in_a_line

Name = Literal["refresh", "nano-steps", "optimizer-steps", "programs", "growth", "devices", "stochastic"]
_ALL: tuple[Name, ...] = get_args(Name)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how often. Everything takes about a quarter of an hour.

    refresh: a refresh against PyTorch's svdvals, and between fits and solvers.

    nano-steps: whole train steps of the nano preset, between refreshes and with one at each step.

    optimizer-steps: the optimizer alone, between refreshes.

    programs: what alphadecay adds to compiled steps: temporaries, operations, time to compile.

    growth: a refresh of wider and deeper models.

    devices: what a refresh asks of each device of a mesh, read off compiled programs.

    stochastic: alphas by the stochastic solver against exact ones, on trained spectra.
    """

    names: tyro.conf.Positional[tuple[Name, ...]] = _ALL
    """Benchmarks to run; all of them if none is named."""
    size: Literal["60m", "135m", "350m"] = "60m"
    """Preset for all but refresh and nano-steps."""
    refresh_sizes: tuple[Literal["60m", "135m", "350m"], ...] = ("60m", "135m", "350m")
    """Presets for refresh; each larger one gets a quarter of the turns."""
    repeats: int = 16
    """Turns that each ratio is the median of, after two to warm up; of single steps four times as many."""
    out: pathlib.Path | None = None
    """Folder for results.md, results.json and performance.png; by default this one, if everything is measured."""


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Measures, prints the table and writes it.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0 if every budget that was measured holds, else 1.
    """
    args = sys.argv[1:] if args is None else list(args)
    options = tyro.cli(Options, args=args, prog="python -m benchmarks.run")
    out = options.out or (pathlib.Path(__file__).parent if options.names == _ALL else None)
    benchmarks: dict[Name, Callable[[], list[Row]]] = {
        "refresh": lambda: [
            row
            for at, size in enumerate(options.refresh_sizes)
            for row in refresh.refresh(size, max(1, options.repeats // 4**at))
        ],
        "nano-steps": lambda: steps.nano_steps(options.repeats),
        "optimizer-steps": lambda: steps.optimizer_steps(options.size, options.repeats),
        "programs": lambda: memory.programs(options.size),
        "growth": lambda: growth.growth(options.repeats),
        "devices": lambda: growth.by_devices(options.size),
        "stochastic": stochastic.stochastic_alphas,
    }
    console = rich.console.Console(highlight=False)
    conditions = report.conditions(args)
    rows: list[Row] = []
    for name in options.names:
        with console.status(f"Measuring {name} ..."):
            rows += benchmarks[name]()
        if out:  # after each of them, so that a long run can be broken off
            out.mkdir(parents=True, exist_ok=True)
            report.write(out, conditions, rows)
            figure.draw(out / "performance.png", rows)
    print(report.markdown(conditions, rows), end="")
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
