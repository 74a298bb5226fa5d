"""Packing documents into sequences: nothing lost, and resumed anywhere."""
# SPDX-License-Identifier: Apache-2.0

import json

import grain
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.packing import PackIterDataset

documents_of_any_length = st.lists(
    st.lists(st.integers(0, 99), max_size=12).map(lambda ids: np.array(ids, np.int32)), max_size=12
)


def packed(documents: list[np.ndarray], length: int) -> grain.DatasetIterator:
    stream = grain.MapDataset.source(documents).to_iter_dataset(grain.ReadOptions(num_threads=0))
    return iter(PackIterDataset(stream, length))


@given(documents_of_any_length, st.integers(1, 9))
def test_packing_neither_loses_nor_adds_tokens(documents: list[np.ndarray], length: int) -> None:
    sequences = list(packed(documents, length))
    stream = np.concatenate([np.empty(0, np.int32), *documents])
    assert len(sequences) == len(stream) // length
    assert all(sequence.shape == (length,) and sequence.dtype == np.int32 for sequence in sequences)
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *sequences]), stream[: len(sequences) * length])


@given(documents_of_any_length, st.integers(1, 9), st.data())
def test_packing_resumes_anywhere(documents: list[np.ndarray], length: int, draw: st.DataObject) -> None:
    whole = list(packed(documents, length))
    done = draw.draw(st.integers(0, len(whole)))
    iterator = packed(documents, length)
    for _ in range(done):
        next(iterator)
    resumed = packed(documents, length)
    resumed.set_state(json.loads(json.dumps(iterator.get_state())))
    np.testing.assert_equal(list(resumed), whole[done:])
