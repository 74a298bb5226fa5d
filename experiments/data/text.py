"""Reads C4, or the embedded corpus in its place, as batches of packed token sequences."""
# SPDX-License-Identifier: Apache-2.0

import itertools
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from experiments.config import DataConfig
from experiments.data.packing import PackIterDataset, pack_first
from experiments.data.tfds_records import Records, open_records
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.parallel.distributed import from_all_processes

SHUFFLE_WINDOW = 2048
"""Packed sequences are shuffled in windows of this many, so that a batch is not a few documents."""
PREFETCH_BATCHES = 8
"""Batches prepared ahead; they bridge the time in which the next window is filled."""


def open_split(config: DataConfig, split: str) -> Records:
    """Opens one split for random access. Never downloads, builds or asks the network for anything.

    Args:
        config: What to read, and where it is.
        split: `train` or `validation`.

    Returns:
        The records, dicts whose `text` is bytes.

    Raises:
        FileNotFoundError: There are no array_record files of it, or not all of them.
        ValueError: It has no feature `text`.
    """
    advice = (
        "`python -m experiments.corpus` makes the embedded corpus in data/tfds; `tfds build c4/en "
        "--file_format=array_record` makes the real C4, and `tfds convert_format --dataset_version_dir=.../c4/en/3.1.0 "
        "--out_file_format=array_record` turns one of TFRecord files into array_record; both need `pip install "
        "tensorflow apache-beam mlcroissant`, best in an environment of its own; "
        "--data.dir and --data.name, or corpus:FOLDER in fine-tuning, say what to read"
    )
    return open_records(config.dir, config.name, split, features=("text",), advice=advice)


def shuffled_documents(config: DataConfig, *, seed: int, stream: int) -> grain.MapDataset:
    """One stream's share of the train split, over and over, each epoch in its own order.

    Args:
        config: What to read, and where it is.
        seed: Decides the orders; below 2^32.
        stream: Which of the `config.streams` shares. In every epoch each document is in one of them.

    Returns:
        Token arrays, shape=(any,), int32.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    records = grain.MapDataset.source(open_split(config, "train")).shuffle(seed)
    share = records[stream :: config.streams].repeat()
    return share.map(lambda record: tokenizer.encode(record["text"]))


def repeated_sequences(config: DataConfig, *, seed: int, stream: int) -> grain.MapDataset:
    """One stream's share of the first `unique_tokens` tokens, over and over, each epoch in its own order.

    Args:
        config: What to read, and where it is.
        seed: Decides the orders, not the tokens; below 2^32.
        stream: Which of the `config.streams` shares. In every epoch each sequence is in one of them.

    Returns:
        Packed sequences, shape=(sequence_length,), int32.

    Raises:
        ValueError: The split has fewer tokens, or they do not make a sequence for every stream.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    documents = (tokenizer.encode(record["text"]) for record in open_split(config, "train"))
    sequences = pack_first(documents, config.unique_tokens // config.sequence_length, config.sequence_length)
    if len(sequences) < max(config.streams, config.unique_tokens // config.sequence_length):
        raise ValueError(
            f"data.unique_tokens={config.unique_tokens} must make a sequence of {config.sequence_length} tokens for "
            f"each of data.streams={config.streams}, and the train split gives {sequences.size} tokens: pass a number "
            f"from {config.streams * config.sequence_length} up to what the split has"
        )
    return grain.MapDataset.source(sequences).shuffle(seed)[stream :: config.streams].repeat()


def _stream(config: DataConfig, *, rows: int, seed: int, stream: int) -> grain.DatasetIterator:
    """One stream's rows of every batch, shape=(rows, sequence_length), int32, prepared in a thread of its own."""
    # Grain adds the epoch, or the window, to a seed: seeds 0 and 1 would give the same orders an epoch apart.
    words = np.random.SeedSequence(seed).generate_state(2 + stream)
    first, second = int(words[0]) >> 1, int(words[1 + stream]) >> 1
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=32)
    if config.unique_tokens:
        shuffled = repeated_sequences(config, seed=first, stream=stream).to_iter_dataset(options)
    else:
        documents = shuffled_documents(config, seed=first, stream=stream).to_iter_dataset(options)
        packed = PackIterDataset(documents, config.sequence_length)
        shuffled = grain.experimental.WindowShuffleIterDataset(packed, window_size=SHUFFLE_WINDOW, seed=second)
    return iter(
        grain.experimental.ThreadPrefetchIterDataset(shuffled.batch(rows), prefetch_buffer_size=PREFETCH_BATCHES)
    )


class TrainIterator:
    """One process's rows of every batch of the train split, without end.

    The batches depend on the seed, their size and the number of streams alone: each stream gives a batch an equal
    number of rows, one stream's after the other's, and a process reads the streams of its rows.
    """

    def __init__(self, streams: dict[int, grain.DatasetIterator], rows: np.ndarray, rows_per_stream: int):
        """Use `train_iterator`.

        Args:
            streams: Number of the stream, and the iterator over its rows; all that `rows` come from.
            rows: Which rows of a batch to yield, ascending.
            rows_per_stream: Rows of a batch that come from one stream.
        """
        self._streams = streams
        self._places = (
            np.searchsorted(list(streams), rows // rows_per_stream) * rows_per_stream + rows % rows_per_stream
        )

    def __iter__(self) -> "TrainIterator":
        """Returns itself."""
        return self

    def __next__(self) -> np.ndarray:
        """Returns the next batch's rows, shape=(len(rows), sequence_length), int32."""
        tokens: np.ndarray = np.concatenate([next(stream) for stream in self._streams.values()])[self._places]
        return tokens

    def get_state(self) -> dict[str, Any]:
        """Where the streams of all processes are, counting the batches handed out; all processes must call it.

        Returns:
            The state of every stream by its number, the same on every process, small and fit for JSON.
        """
        states = {str(stream): iterator.get_state() for stream, iterator in self._streams.items()}
        return {name: state for share in from_all_processes(states) for name, state in share.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to where `get_state` was called, with any number of processes: the next batches are the same bits."""
        for stream, iterator in self._streams.items():
            iterator.set_state(state[str(stream)])

    def close(self) -> None:
        """Ends the threads."""
        for iterator in self._streams.values():
            iterator.close()


def train_iterator(config: DataConfig, *, batch_size: int, seed: int, rows: np.ndarray | None = None) -> TrainIterator:
    """Batches of the train split without end. Each epoch has its own order.

    Args:
        config: What to read, and where it is.
        batch_size: Sequences in a batch, over all processes.
        seed: Decides the order.
        rows: Which rows of each batch to yield, ascending; None yields all. No text is read for streams without
            any of them.

    Returns:
        Yields arrays of shape=(len(rows), sequence_length), int32. The next batches are prepared in threads.

    Raises:
        FileNotFoundError: The data set or the tokenizer is not there.
        ValueError: One of them is something else, or the streams cannot share the batch evenly.
    """
    if config.streams < 1 or batch_size % config.streams:
        raise ValueError(
            f"data.streams={config.streams} cannot share batch_size={batch_size} evenly: choose a divisor of it"
        )
    rows = np.arange(batch_size) if rows is None else rows
    share = batch_size // config.streams
    streams = {
        stream: _stream(config, rows=share, seed=seed, stream=stream) for stream in np.unique(rows // share).tolist()
    }
    return TrainIterator(streams, rows, share)


def validation_batches(config: DataConfig, *, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first `eval_tokens` tokens of the validation split, packed as for training, in one fixed order.

    A split with fewer is used up. Every process gets the same batches.

    Args:
        config: What to read, and where it is.
        batch_size: Sequences in a batch.

    Yields:
        Tokens, shape=(batch_size, sequence_length), int32, and which of them are real, the same shape, bool.
        Only the end of the last batch is not: it is filled with zeros, so that all batches have one shape.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    documents, missing = [], config.eval_tokens
    for record in open_split(config, "validation"):
        if missing <= 0:
            break
        documents.append(tokenizer.encode(record["text"])[:missing])
        missing -= len(documents[-1])
    stream = np.concatenate(documents)
    shape = (batch_size, config.sequence_length)
    for start in range(0, len(stream), batch_size * config.sequence_length):
        tokens = stream[start : start + batch_size * config.sequence_length]
        real = np.arange(batch_size * config.sequence_length) < len(tokens)
        yield np.pad(tokens, (0, len(real) - len(tokens))).reshape(shape), real.reshape(shape)


def token_counts(config: DataConfig, vocab_size: int, *, max_documents: int = 2_000) -> np.ndarray:
    """How often each token occurs in the train split: the unigram model that a language model must beat.

    Args:
        config: What to read, and where it is.
        vocab_size: Number of pieces; must be the tokenizer's.
        max_documents: How many to count: the first ones, a fair sample since records are stored in random
            order. The default takes seconds, and is about 2 million tokens of the embedded corpus.

    Returns:
        shape=(vocab_size,), int64.

    Raises:
        ValueError: The vocabulary has another size.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    check_vocab_size(tokenizer, vocab_size)
    counts = np.zeros(vocab_size, np.int64)
    for record in itertools.islice(open_split(config, "train"), max_documents):
        counts += np.bincount(tokenizer.encode(record["text"]), minlength=vocab_size)
    return counts
