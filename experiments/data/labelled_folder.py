"""A folder of JSON lines as a task: which file is of which split, and what its labels are called."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.data.documents import JSON_LINES, SPLITS, Line, files_in, read_lines, split_of

NAMES = "labels.txt"
_LISTED = 5


class Folder(NamedTuple):
    """What was read."""

    labels: tuple[str, ...]
    splits: Mapping[str, list[tuple[str, int, str]]]
    """Text, label and source, by split."""
    left_out: tuple[str, ...]
    """Files that are of no split by their name, or no JSON lines."""


def read_folder(folder: pathlib.Path) -> Folder:
    """Reads the files `train`, `validation` and `test` of JSON lines with `text` and `label`.

    `labels.txt` may name the labels, one a line: those that are numbers from 0 on, in order.

    Args:
        folder: Where the files are, or folders called so with files.

    Raises:
        FileNotFoundError: There is no such folder, or no train split in it.
        ValueError: A line has no text or label, or one that is not known; names the file and the line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}: pass one with the files train.jsonl and validation.jsonl, whose "
            "lines have `text` and `label`"
        )
    lines: dict[str, list[Line]] = {}
    left_out = []
    for path in files_in(folder):
        split = split_of(path, folder)
        if split is not None and path.name.lower().endswith(JSON_LINES):
            lines.setdefault(split, []).extend(read_lines(path, folder))
        elif path.name != NAMES:
            left_out.append(path.relative_to(folder).as_posix())
    lines = {split: lines[split] for split in SPLITS if split in lines}
    if not lines.get("train"):
        there = listed([*(split for split in lines if lines[split]), *left_out]) or "nothing"
        raise FileNotFoundError(
            f"{folder} has no train split but {there}: it is train.jsonl, or the .jsonl files in a folder train"
        )
    for split in lines:
        if not lines[split]:
            raise ValueError(f"the {split} split of {folder} has no line: fill it, or remove its file")
    named = _names(folder)
    known = _known(folder, lines, named)
    splits = {
        split: [(line.text, known[line.fields["label"]], str(folder / line.source)) for line in found]
        for split, found in lines.items()
    }
    return Folder(tuple(named or map(str, known)), splits, tuple(left_out))


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _known(folder: pathlib.Path, lines: Mapping[str, list[Line]], named: Sequence[str]) -> dict[int | str, int]:
    """The place of every label; raises a ValueError for one that is none, or is not known."""
    _check_kinds(folder, (line for found in lines.values() for line in found))
    labels = sorted({line.fields["label"] for line in lines["train"]})
    if named:
        every = list(range(len(named))) if isinstance(labels[0], int) else list(named)
        if unused := [named[place] for place, label in enumerate(every) if label not in labels]:
            raise ValueError(
                f"{folder / NAMES} names {unused[0]!r}, and no text of the train split has that label: the first line "
                "names the label 0, where labels are numbers"
            )
        labels = every
    places = {label: place for place, label in enumerate(labels)}
    for line in (line for found in lines.values() for line in found):
        if line.fields["label"] not in places:
            raise ValueError(
                f"{folder / line.source} has the unknown label {line.fields['label']!r}: the labels are "
                f"{listed(list(map(str, labels)))}, those of {NAMES if named else 'the train split'}"
            )
    return places


def _check_kinds(folder: pathlib.Path, lines: Iterable[Line]) -> None:
    """Holds all labels to be numbers, or all to be words."""
    first: tuple[Any, str] | None = None
    for line in lines:
        label, place = line.fields.get("label"), str(folder / line.source)
        if isinstance(label, bool) or not isinstance(label, int | str):
            found = f"the label {label!r}" if "label" in line.fields else f"no label but {', '.join(line.fields)}"
            raise ValueError(
                f"{place} has {found}: each line must be an object with `text` and `label`, a whole number or a word"
            )
        first = first or (label, place)
        if type(label) is not type(first[0]):
            raise ValueError(
                f"{place} has the label {label!r} and {first[1]} has {first[0]!r}: write all labels as numbers, or all "
                "as words"
            )


def _names(folder: pathlib.Path) -> list[str]:
    """The names in `labels.txt`; none without one."""
    path = folder / NAMES
    if not path.is_file():
        return []
    try:
        named = [name for line in path.read_text(encoding="utf-8-sig").splitlines() if (name := line.strip())]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"{path} has {twice[0]!r} twice: give one name a line, each another")
    return named
