"""Strings documents together and cuts them into sequences of one length, resumable at any token."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable
from typing import Any

import grain
import numpy as np


class PackIterDataset(grain.IterDataset):  # type: ignore[misc]
    """Strings documents together and cuts the string into sequences of one length; only its end is dropped.

    Grain's ConcatThenSplitIterDataset loses tokens when its state has been through JSON, as in a checkpoint.
    """

    def __init__(self, documents: grain.IterDataset, length: int):
        """Wraps a stream of documents.

        Args:
            documents: Yields token arrays, shape=(any,), int32.
            length: Tokens in a sequence.
        """
        super().__init__(documents)
        self._length = length

    def __iter__(self) -> grain.DatasetIterator:
        """Starts at the first document; yields arrays of shape=(length,), int32."""
        return _PackIterator(self._parent.__iter__(), self._length)


class _PackIterator(grain.DatasetIterator):  # type: ignore[misc]
    """The state is where the document in hand begins in the stream, and how many of its tokens are used."""

    def __init__(self, documents: grain.DatasetIterator, length: int):
        super().__init__(documents)
        self._length = length
        self._begins: dict[str, Any] = documents.get_state()
        self._document = np.empty(0, np.int32)
        self._used = 0

    def __next__(self) -> np.ndarray:
        pieces, wanted = [], self._length
        while wanted:
            if self._used == len(self._document):
                self._begins, self._document, self._used = self._parent.get_state(), next(self._parent), 0
            piece = self._document[self._used : self._used + wanted]
            pieces.append(piece)
            self._used += len(piece)
            wanted -= len(piece)
        return np.concatenate(pieces)

    def get_state(self) -> dict[str, Any]:
        return {"document": self._begins, "used": self._used}

    def set_state(self, state: dict[str, Any]) -> None:
        self._begins, self._used = state["document"], state["used"]
        self._parent.set_state(self._begins)
        self._document = next(self._parent) if self._used else np.empty(0, np.int32)


def pack_first(documents: Iterable[np.ndarray], number: int, length: int) -> np.ndarray:
    """Strings documents together and cuts off the first sequences.

    Args:
        documents: Token arrays, shape=(any,), int32; read only as far as needed.
        number: Sequences wanted.
        length: Tokens in a sequence.

    Returns:
        shape=(number, length), int32; fewer rows if the documents end before.
    """
    pieces, missing = [np.empty(0, np.int32)], number * length
    for document in documents:
        if missing <= 0:
            break
        pieces.append(document[:missing])
        missing -= len(pieces[-1])
    tokens = np.concatenate(pieces)
    return tokens[: len(tokens) // length * length].reshape(-1, length)
