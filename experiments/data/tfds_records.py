"""Opens a TFDS split and reads its records; names what is missing, and the file of one that cannot be read."""
# SPDX-License-Identifier: Apache-2.0

import bisect
import itertools
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from experiments.data.missing import what_is_there

_TYPES = "tensorflow_datasets."
_TYPE_KEYS = ("pythonClassName", "python_class_name", "type")
"""Where a `features.json` names a class: as protocol buffers write and read it, and as before TFDS 4.4."""


class Records:
    """The records of a split, by random access. One that cannot be read is an error that names its file."""

    def __init__(self, source: Any, split: str):
        """Wraps a data source of TFDS.

        Args:
            source: What `tfds.data_source` returns.
            split: Which split it is.
        """
        self._source, self._split = source, source.dataset_info.splits[split]
        self._ends = list(itertools.accumulate(self._split.shard_lengths))
        self.features: Mapping[str, Any] = source.dataset_info.features
        """What a record has, by name."""
        self.splits = tuple(source.dataset_info.splits)
        """All splits of the data set."""

    def __len__(self) -> int:
        """Number of records."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one record.

        Raises:
            OSError: The file is unreadable or corrupt there; array_record verifies checksums.
        """
        try:
            record: dict[str, Any] = self._source[index]
            if any(
                value is None for value in record.values()
            ):  # array_record's answer beyond the end of a file cut between two blocks
                raise EOFError("the file ends before it")
            return record
        except Exception as error:
            path = self._split.filepaths[bisect.bisect_right(self._ends, index)]
            raise OSError(f"Cannot read record {index} of {self._split.name}, in {path}: {error}") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Reads all records in their order."""
        return (self[index] for index in range(len(self)))


def open_records(
    directory: pathlib.Path,
    name: str,
    split: str,
    *,
    features: Collection[str],
    advice: str,
    decoders: Mapping[str, Any] | None = None,
) -> Records:
    """Opens one split for random access. Never downloads, builds or asks the network for anything.

    Args:
        directory: The tensorflow-datasets directory.
        name: The data set.
        split: `train` or `validation`.
        features: What its records must have.
        advice: How to get the data; the errors end with it.
        decoders: As for `tfds.data_source`.

    Returns:
        The records.

    Raises:
        FileNotFoundError: There are no array_record files of it, or not all of them.
        ValueError: It lacks a feature, or has one of a type that TFDS would import from elsewhere.
    """
    directory = directory.absolute()
    _check_types(directory / name.partition(":")[0].partition("/")[0])
    missing = f"no {split} split of {name}, as array_record, in {directory}"
    try:
        builder = tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(f"{missing}; {what_is_there(directory, name)}. {advice}") from error
    # A data set that TFDS knows how to build is found, whether it was built or not.
    if not builder.is_prepared() or tfds.core.FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        raise FileNotFoundError(f"{missing}; {what_is_there(directory, name)}. {advice}")
    if split not in builder.info.splits:
        raise FileNotFoundError(f"{missing}; it has {', '.join(builder.info.splits)}. {advice}")
    source = builder.as_data_source(split, decoders=decoders)
    for feature in features:
        if feature not in source.dataset_info.features:
            found = ", ".join(sorted(source.dataset_info.features))
            raise ValueError(f"{name} in {directory} has no feature `{feature}` but {found}: {advice}")
    for path in source.dataset_info.splits[split].filepaths:
        if not path.exists():
            raise FileNotFoundError(f"{name} is incomplete, {path} is missing: {advice}")
    return Records(source, split)


def _check_types(folder: pathlib.Path) -> None:
    """Refuses a data set whose description names classes that are not of TFDS: TFDS would import and run them."""
    for path in sorted(folder.rglob("features.json")):
        try:
            foreign = sorted(name for name in _types_in(json.loads(path.read_text())) if not name.startswith(_TYPES))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a description of features: {error}") from error
        if foreign:
            raise ValueError(
                f"{path} names the Python class {foreign[0]!r}, which reading the data would import and run: only "
                f"types of {_TYPES}* are read. If you trust the data set, write it again with features of TFDS."
            )


def _types_in(value: Any) -> Iterator[str]:
    """The classes named anywhere in a description of features, also in JSON within its strings."""
    if isinstance(value, dict):
        yield from (str(value[key]) for key in _TYPE_KEYS if isinstance(value.get(key), str))
        for key, part in value.items():
            yield from _types_in(json.loads(part) if key == "json" and isinstance(part, str) else part)
    elif isinstance(value, list):
        for part in value:
            yield from _types_in(part)
