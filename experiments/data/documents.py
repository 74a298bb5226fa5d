"""Reads folders of plain text and JSON lines, and tells which texts are copies of each other."""
# SPDX-License-Identifier: Apache-2.0

import gzip
import hashlib
import json
import lzma
import pathlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}
_KINDS = (".txt", ".jsonl")
_OLD_ENDING = re.compile(rb"\r(?!\n)")
JSON_LINES = (".jsonl", ".jsonl.xz", ".jsonl.gz")
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
        ValueError: A file's name is not UTF-8.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}: pass one with .txt or .jsonl files")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _kind(path) in _KINDS)
    if not files:
        raise FileNotFoundError(
            f"{folder.absolute()} has no .txt or .jsonl file (plain, .xz or .gz): plain text is one document a file, "
            'JSON lines are one document a line, {"text": "..."}'
        )
    for path in files:
        if not _is_text(str(path)):
            raise ValueError(f"the name of the file {str(path)!r} is not UTF-8: rename it")
    return files


def split_of(path: pathlib.Path, folder: pathlib.Path) -> str | None:
    """The split that a file says it is of, by its name (`train.jsonl`) or its folder's (`train/a.txt`), if any.

    Only files and folders at the top count.
    """
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
                text = _decoded(file.read(), str(path))
                yield Line(name, text.replace("\r\n", "\n").replace("\r", "\n"), {})
                return
            lines = (line for ended in file for line in _OLD_ENDING.split(ended))
            for number, line in enumerate(lines, start=1):
                if text := _decoded(line, place := f"{path}:{number}").strip():
                    fields = _parse(text, place)
                    yield Line(f"{name}:{number}", fields["text"], fields)
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a whole {path.suffix} file: {error}") from error


def fingerprint(text: str) -> bytes:
    """A digest of a text's letters and digits, 16 bytes: the same for copies that differ in case, spaces or points.

    Signs that are part of a letter count, however they are encoded.
    """
    folded = unicodedata.normalize("NFC", text.casefold())
    letters = "".join(
        each
        for each, before in zip(folded, " " + folded, strict=False)
        # A mark after a symbol, such as one that gives an emoji its colours, is part of no letter.
        if each.isalnum() or (unicodedata.category(each).startswith("M") and unicodedata.category(before) != "So")
    )
    return hashlib.blake2b((letters or text.strip()).encode(), digest_size=16).digest()


def _kind(path: pathlib.Path) -> str:
    """The ending that says what is in a file, below that of its compression."""
    name = pathlib.PurePath(path.name.lower())
    return name.with_suffix("").suffix if name.suffix in _OPENERS else name.suffix


def _open(path: pathlib.Path) -> BinaryIO:
    opener = _OPENERS.get(path.suffix.lower(), open)
    file: BinaryIO = opener(path, "rb")
    return file


def _decoded(text: bytes, place: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8: {error.reason} at byte {error.start}") from error


def _is_text(words: str) -> bool:
    """Whether it can be encoded: half of a surrogate pair cannot."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(line: str, source: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise ValueError(f"{source} cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        found = ", ".join(fields) or "nothing" if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f'{source} has no text but {found}: each line must be an object like {{"text": "..."}}')
    if not _is_text(fields["text"]):
        raise ValueError(f"{source} has half of a surrogate pair in its text, which is no character: take it out")
    return fields
