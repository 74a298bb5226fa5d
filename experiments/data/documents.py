"""Reads folders of plain text and JSON lines, and tells which texts are copies of each other."""
# SPDX-License-Identifier: Apache-2.0

import gzip
import hashlib
import json
import lzma
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}
_KINDS = (".txt", ".jsonl")
SPLITS = ("train", "validation", "test")


class Line(NamedTuple):
    """A text and where it was read."""

    source: str
    """The file's path from its folder on; of JSON lines with the number of the line, as `train.jsonl:12`."""
    text: str
    fields: dict[str, Any]
    """All that a JSON line has; empty for plain text."""


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The text files in a folder and its folders: `.txt` and `.jsonl`, plain or compressed as `.xz` or `.gz`.

    Args:
        folder: Where to look.

    Returns:
        The files, in the order of their names.

    Raises:
        FileNotFoundError: There is no such folder, or no text in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}: pass one with .txt or .jsonl files")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _kind(path) in _KINDS)
    if not files:
        raise FileNotFoundError(
            f"{folder.absolute()} has no .txt or .jsonl file (plain, .xz or .gz): plain text is one document a file, "
            'JSON lines are one document a line, {"text": "..."}'
        )
    return files


def split_of(path: pathlib.Path, folder: pathlib.Path) -> str | None:
    """The split that a file says it is of, by its name (`train.jsonl`) or its folder's (`train/a.txt`), if any."""
    first = path.relative_to(folder).parts[0].partition(".")[0]
    return first if first in SPLITS else None


def read_lines(path: pathlib.Path, folder: pathlib.Path) -> Iterator[Line]:
    """Reads a file's texts: all of a `.txt`, or one a line of a `.jsonl`.

    Args:
        path: The file.
        folder: Where `Line.source` begins.

    Raises:
        ValueError: It is no UTF-8, is not whole, or has a line that is no JSON object with a `text`; names the place.
    """
    name = path.relative_to(folder).as_posix()
    try:
        with _open(path) as file:
            if _kind(path) == ".txt":
                yield Line(name, file.read(), {})
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse(line, f"{name}:{number}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole {path.suffix} file: {error}") from error


def fingerprint(text: str) -> bytes:
    """A digest of a text's letters and digits, 16 bytes: the same for copies that differ in case, spaces or marks."""
    letters = "".join(character for character in text.casefold() if character.isalnum())
    return hashlib.blake2b((letters or text.strip()).encode(), digest_size=16).digest()


def _kind(path: pathlib.Path) -> str:
    """The ending that says what is in a file, below that of its compression."""
    return path.with_suffix("").suffix if path.suffix in _OPENERS else path.suffix


def _open(path: pathlib.Path) -> TextIO:
    opener = _OPENERS.get(path.suffix, open)
    file: TextIO = opener(path, "rt", encoding="utf-8-sig")
    return file


def _parse(line: str, source: str) -> Line:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON: {error.msg} at character {error.pos}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        found = ", ".join(fields) or "nothing" if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f'{source} has no text but {found}: each line must be an object like {{"text": "..."}}')
    return Line(source, fields["text"], fields)
