"""Makes one recorded run again and compares it: `python -m experiments.suites.rerun NAME`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.config import RunConfig
from experiments.suites import runner, store
from experiments.suites.identity import name_of
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.results import Result
from experiments.suites.scales import SCALES

_COMPARED = ("settings", "data", "error", "final", "curve", "refreshes")


def main(args: Sequence[str] | None = None) -> int:
    """Makes a run again, in a folder of its own that is then removed.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0 if the run came out as it is recorded; 1 if not, or if it is not known.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.suites.rerun",
        description="Makes one recorded run again, on as many CPU cores as it had (1 if that is not recorded), and "
        "compares all that is recorded of it, times aside. Options after -- are those that the run was made with.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the run, as in the report")
    parser.add_argument("--results", type=pathlib.Path, default=store.DIRECTORY, help="folder of the results")
    words = list(sys.argv[1:] if args is None else args)
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    asked = parser.parse_args(own)
    try:
        recorded, config = _find(asked.name, asked.results, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        paths = runner.Paths(pathlib.Path(folder) / "results.jsonl", pathlib.Path(folder) / "runs")
        with _on_cores(recorded.cores or 1):
            runner.make_runs([config], paths, jobs=1, report=lambda config, result: None)
        made = store.read(paths.results).results.get(recorded.name)
    if made is None:
        print("error: stopped before the run had ended.", file=sys.stderr)
        return 1
    return _tell(recorded, made)


def differences(recorded: Result, made: Result) -> list[str]:
    """What is not the same in two results of a run, times aside.

    Args:
        recorded: The first.
        made: The second.

    Returns:
        A line each, with the name of the number and both values; none if all is equal to the last recorded digit.
    """
    first, second = (dict(_flat({name: getattr(each, name) for name in _COMPARED})) for each in (recorded, made))
    return [
        f"{name}: {first.get(name)} recorded, {second.get(name)} now"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name) and name in first
    ]


@contextlib.contextmanager
def _on_cores(number: int) -> Iterator[None]:
    """Binds the process to so many CPU cores, where it can: with more of them, sums are taken in another order."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[-number:]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tell(recorded: Result, made: Result) -> int:
    """Says how a run came out against its record."""
    found = differences(recorded, made)
    made_on = f"on {recorded.device} at {recorded.commit[:7]}, now on {made.device} at {made.commit[:7]}"
    if not found:
        print(f"{recorded.name} came out as recorded, to the last digit ({made_on}).")
        return 0
    print(f"{recorded.name} differs in {len(found)} numbers ({made_on}):")
    print("\n".join(f"  {line}" for line in found[:20]))
    if recorded.versions != made.versions:
        print(f"  versions: {recorded.versions} recorded, {made.versions} now")
    return 1


def _find(name: str, directory: pathlib.Path, options: Sequence[str]) -> tuple[Result, RunConfig]:
    """The result of that name, and its settings.

    Raises:
        ValueError: If there is none, or no suite makes it any more.
    """
    for scale in SCALES:
        found = store.read(directory / f"{scale}.jsonl").results
        if name not in found:
            continue
        for suite in SUITES:
            for run in runs_of(suite, SCALES[scale], found, options):
                if name_of(run.config) == name:
                    return found[name], run.config
        raise ValueError(f"{name} is in {scale}.jsonl, but no suite makes it any more.")
    raise ValueError(f"{name} is in no file of results in {directory}: copy the name from the report.")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names with slashes, and what is no dictionary and no dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}/{key}" if name else str(key))
    else:
        yield name, value


if __name__ == "__main__":
    sys.exit(main())
