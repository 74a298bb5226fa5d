"""Tells what is in a folder where a TFDS data set was looked for and not found."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
from typing import NamedTuple

_INFO = "dataset_info.json"
MOST_LISTED = 8


class DataSet(NamedTuple):
    """A data set that was found in a folder."""

    name: str
    """As `tfds.builder` takes it: `c4/en:3.1.0`."""
    file_formats: tuple[str, ...]


def data_sets_in(directory: pathlib.Path) -> list[DataSet]:
    """The data sets in a tensorflow-datasets directory, `NAME/VERSION` or `NAME/CONFIG/VERSION`."""
    found = []
    for path in sorted([*directory.glob(f"*/*/{_INFO}"), *directory.glob(f"*/*/*/{_INFO}")]):
        *names, version = path.parent.relative_to(directory).parts
        found.append(DataSet(f"{'/'.join(names)}:{version}", _file_formats(path)))
    return found


def what_is_there(directory: pathlib.Path, name: str) -> str:
    """Says what is in a folder in the place of a data set, and where the set is if that is near.

    Args:
        directory: The folder that was given as the tensorflow-datasets directory; absolute.
        name: The data set that is not there, or not as array_record, such as `c4/en:3.1.0`.

    Returns:
        A sentence without its full stop.
    """
    if not directory.is_dir():
        return "there is no such folder"
    inside = pathlib.Path(name.replace(":", "/")) / _INFO
    for near in (*directory.parents[:3], *sorted(path for path in directory.iterdir() if path.is_dir())):
        if (near / inside).is_file():
            return f"it is in {near}: pass that folder"
    found = data_sets_in(directory)
    formats = {each.name: each.file_formats for each in found}.get(name)
    if formats and "array_record" not in formats:
        return (
            f"it is there as {' and '.join(formats)}: `tfds convert_format --dataset_version_dir="
            f"{(directory / inside).parent} --out_file_format=array_record` adds array_record files"
        )
    if not found:
        return "that folder has no data set"
    listed = [f"{each.name} ({', '.join(each.file_formats)})" for each in found[:MOST_LISTED]]
    more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
    return f"there is {', '.join(listed)}{more}"


def _file_formats(path: pathlib.Path) -> tuple[str, ...]:
    """The formats that a data set says it has; `unreadable` if it cannot be told."""
    try:
        info = json.loads(path.read_text())
        return (str(info["fileFormat"]), *map(str, info.get("alternativeFileFormats", ())))
    except (OSError, ValueError, KeyError, TypeError):
        return ("unreadable",)
