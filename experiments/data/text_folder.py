"""A folder of anybody's text as the documents of a corpus: which go into which split, and which are left out."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from experiments.data.documents import Line, files_in, fingerprint, read_lines, split_of

HELD_OUT = 20
"""One document in so many is for validation, unless the folder says itself which are."""


class Document(NamedTuple):
    """One document of a corpus, before it is cut into passages."""

    url: str
    timestamp: str
    """As C4 writes it, such as `1790-01-08T00:00:00Z`; empty if not known."""
    text: str
    split: str
    """`train` or `validation`."""


class TextFolder:
    """Text files and the split of each document. The files are read anew at each pass, and never held in memory."""

    def __init__(self, folder: pathlib.Path, name: str):
        """Reads every document once, to divide them.

        If the folder has `validation` files, or a folder `validation`, that is the validation split and all else is
        for training. Otherwise one document in `HELD_OUT` is for validation, chosen by a hash of its text. So copies of
        a text are on one side. A document is never divided.

        Args:
            folder: With `.txt` files, one document each, or `.jsonl` files, one a line; see `documents.files_in`.
                Files of a `test` split are left out.
            name: First word of the documents' urls.

        Raises:
            FileNotFoundError: There is no such folder, or no text in it.
            ValueError: A file cannot be read, or there are too few documents to hold one out.
        """
        self._folder, self._name = folder, name
        files = files_in(folder)
        self.left_out = [path for path in files if split_of(path, folder) == "test"]
        """Files of a test split."""
        self._files = [path for path in files if path not in self.left_out]
        self._has_validation = any(split_of(path, folder) == "validation" for path in self._files)
        self.empty, self.copies = 0, 0
        """Documents without text, and documents for training that are also held out: both are dropped."""
        digests: dict[bool, list[bytes]] = {False: [], True: []}
        for path, line in self._lines():
            if line.text.strip():
                digests[split_of(path, folder) == "validation"].append(fingerprint(line.text))
            else:
                self.empty += 1
        if self._has_validation:
            self._held_out = set(digests[True])
            self.copies = sum(digest in self._held_out for digest in digests[False])
        else:
            different = sorted(set(digests[False]))
            self._held_out = set(different[: max(1, len(different) // HELD_OUT)])
        if not self._held_out or not set(digests[False]) - self._held_out:
            raise ValueError(
                f"{folder.absolute()} has {len(digests[False])} documents to train on and {len(digests[True])} for "
                "validation, copies counted: at least two different ones are needed, so cut a single long text into "
                "several files"
            )

    def documents(self) -> Iterator[Document]:
        """Reads the documents of both splits, each once, copies within a split included."""
        for path, line in self._lines():
            if not line.text.strip():
                continue
            named, held_out = split_of(path, self._folder), fingerprint(line.text) in self._held_out
            if self._has_validation and held_out and named != "validation":
                continue
            split = "validation" if held_out else "train"
            yield Document(f"{self._name}/{line.source}", "", line.text, split)

    def _lines(self) -> Iterator[tuple[pathlib.Path, Line]]:
        for path in self._files:
            for line in read_lines(path, self._folder):
                yield path, line
