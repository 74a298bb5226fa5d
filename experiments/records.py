"""Reads the records of a TFDS split, and names the file of one that cannot be read."""
# SPDX-License-Identifier: Apache-2.0

import bisect
import itertools
from collections.abc import Iterator
from typing import Any


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
            if record["text"] is None:  # array_record's answer beyond the end of a file cut between two blocks
                raise EOFError("the file ends before it")
            return record
        except Exception as error:
            path = self._split.filepaths[bisect.bisect_right(self._ends, index)]
            raise OSError(f"Cannot read record {index} of {self._split.name}, in {path}: {error}") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Reads all records in their order."""
        return (self[index] for index in range(len(self)))
