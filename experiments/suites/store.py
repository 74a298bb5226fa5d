"""The results of a scale: one file, one sorted line a run, written whole or not at all."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import json
import pathlib
from typing import NamedTuple

from experiments.suites.results import Result, from_line, to_line
from experiments.training.workdir import locked

DIRECTORY = pathlib.Path(__file__).parents[2] / "results"
"""Where the results of this repository are, `SCALE.jsonl` each."""


class Contents(NamedTuple):
    """What a file of results holds."""

    results: dict[str, Result]
    """By the name of the run, sorted."""
    faults: list[str]
    """A line for each line of the file that is no result; names the file and the number of the line."""
    damaged: list[str]
    """Those lines as they stand."""
    lines: dict[str, str]
    """The other lines as they stand, by the name of the run, sorted."""


def read(path: pathlib.Path) -> Contents:
    """Reads the results of a scale; the lines that are none are told, and the rest is read.

    Args:
        path: `SCALE.jsonl`; it need not exist.
    """
    contents = Contents({}, [], [], {})
    lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            result = from_line(line)
        except ValueError as error:
            contents.faults.append(f"{path}:{number} is not a result ({error}); that run counts as not made")
            contents.damaged.append(line)
            continue
        contents.results[result.name], contents.lines[result.name] = result, line
    return contents._replace(results=dict(sorted(contents.results.items())), lines=dict(sorted(contents.lines.items())))


def find(name: str, path: pathlib.Path) -> Result | None:
    """Reads the result of one run, without taking the time to understand the others; None if there is none."""
    if not path.exists():
        return None
    found = None
    with path.open(errors="surrogateescape") as lines:
        for line in lines:
            if json.dumps(name) in line:
                with contextlib.suppress(ValueError):
                    result = from_line(line)
                    found = result if result.name == name else found
    return found


def add(result: Result, path: pathlib.Path) -> None:
    """Adds a result, in the place of an earlier one of the same run. Lines that are no results stay, at the end.

    Several processes may add to one file.

    Args:
        result: Of a run that has ended.
        path: `SCALE.jsonl`; made if need be.

    Raises:
        ValueError: If the file holds runs of the same corpus that read other data; names both.
        OSError: If the file cannot be written; it is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        contents = read(path)
        _check_data(result, contents.results, path)
        lines = {**contents.lines, result.name: to_line(result)}
        _write([*(lines[name] for name in sorted(lines)), *contents.damaged], path)


def remove(name: str, path: pathlib.Path) -> None:
    """Takes the result of a run out, if it is there, so that the run is made again."""
    if not path.exists():
        return
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        contents = read(path)
        if contents.lines.pop(name, None):
            _write([*contents.lines.values(), *contents.damaged], path)


def _write(lines: list[str], path: pathlib.Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    partial.replace(path)


def _check_data(result: Result, found: dict[str, Result], path: pathlib.Path) -> None:
    """Refuses a result of other data under the same name: paths are not part of a run's name."""
    for other in found.values():
        if _corpus(other) != _corpus(result):
            continue
        for what in other.data.keys() & result.data.keys():
            if other.data[what] != result.data[what]:
                raise ValueError(
                    f"{result.name} read another {what} than {other.name} in {path}, though both call their data "
                    f"{_corpus(result)!r}: name yours by --data.corpus."
                )


def _corpus(result: Result) -> tuple[object, object]:
    data = result.settings["data"]
    return data.get("corpus"), data["name"]
