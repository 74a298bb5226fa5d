"""Reads C4, or the embedded corpus in its place, as batches of packed token sequences."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
import sentencepiece
import tensorflow_datasets as tfds

from experiments.config import DataConfig
from experiments.records import Records

SHUFFLE_WINDOW = 2048
"""Packed sequences are shuffled in windows of this many, so that a batch is not a few documents."""
PREFETCH_BATCHES = 8
"""Batches prepared ahead; they bridge the time in which the next window is filled."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A sentencepiece vocabulary. Every document becomes BOS, its pieces, EOS."""

    processor: sentencepiece.SentencePieceProcessor

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self.processor.vocab_size()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Turns a document into tokens.

        Args:
            text: The document; bytes are read as UTF-8.

        Returns:
            shape=(n,), int32: the pieces between BOS and EOS. A mark that the vocabulary lacks is left out,
            as T5's lacks BOS.
        """
        bos, eos = self.processor.bos_id() >= 0, self.processor.eos_id() >= 0
        tokens: np.ndarray = self.processor.encode(text, add_bos=bos, add_eos=eos, out_type="numpy")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """Turns tokens, shape=(n,), back into text; BOS and EOS vanish."""
        text: str = self.processor.decode(tokens.tolist())
        return text


def load_tokenizer(path: pathlib.Path) -> Tokenizer:
    """Loads a sentencepiece model.

    Args:
        path: The .model file.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is something else.
    """
    advice = (
        "`python -m experiments.corpus` makes data/sotu-1024.model; "
        "--data.tokenizer takes it or any other sentencepiece .model file"
    )
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path.absolute()}: {advice}")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path.absolute()} is not a sentencepiece model: {advice}") from error
    return Tokenizer(processor)


def check_vocab_size(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Checks that the model has one embedding row for every piece.

    Args:
        tokenizer: The vocabulary.
        vocab_size: Rows of the embedding.

    Raises:
        ValueError: They differ.
    """
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} pieces and the model {vocab_size} embedding rows: "
            f"pass --model.vocab-size {tokenizer.vocab_size} or another --data.tokenizer"
        )


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
    directory = config.dir.absolute()
    advice = (
        "`python -m experiments.corpus` makes the embedded corpus in data/tfds; `tfds build c4/en "
        "--file_format=array_record` makes the real C4, and `tfds convert_format --dataset_version_dir=... "
        "--out_file_format=array_record` turns one of TFRecord files into array_record; "
        "--data.dir and --data.name say what to read"
    )
    try:
        source = tfds.data_source(config.name, data_dir=directory, split=split, download=False)
    # For data that is not there, TFDS raises any of these by the data set's name: not found, or format not supported.
    except (ValueError, NotImplementedError, OSError) as error:
        raise FileNotFoundError(
            f"no {split} split of {config.name}, as array_record, in {directory}: {advice}"
        ) from error
    if "text" not in source.dataset_info.features:
        features = ", ".join(sorted(source.dataset_info.features))
        raise ValueError(f"{config.name} in {directory} has no feature `text` but {features}: {advice}")
    for path in source.dataset_info.splits[split].filepaths:
        if not path.exists():
            raise FileNotFoundError(f"{config.name} is incomplete, {path} is missing: {advice}")
    return Records(source, split)


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


def shuffled_documents(config: DataConfig, *, seed: int, process_index: int, process_count: int) -> grain.MapDataset:
    """One process's share of the train split, over and over, each epoch in its own order.

    Args:
        config: What to read, and where it is.
        seed: Decides the orders; below 2^32.
        process_index: Which share.
        process_count: Number of shares. In every epoch each document is in one of them.

    Returns:
        Token arrays, shape=(any,), int32.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    records = grain.MapDataset.source(open_split(config, "train")).shuffle(seed)
    share = records[process_index::process_count].repeat()
    return share.map(lambda record: tokenizer.encode(record["text"]))


def train_iterator(
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.DatasetIterator:
    """Batches of the train split without end. Each epoch has its own order.

    Args:
        config: What to read, and where it is.
        batch_size: Sequences in a batch, over all processes.
        seed: Decides the order.
        process_index: Which share of the documents to read; None means this process's.
        process_count: Number of shares; None means one for each process.

    Returns:
        Yields arrays of shape=(batch_size // process_count, sequence_length), int32. The next batches are
        prepared in a thread, but `get_state()` counts only those handed out. It is a small dict, fit for
        JSON; after `set_state()` the next batches are the same bit for bit. grain.checkpoint.CheckpointSave
        and CheckpointRestore keep it in an Orbax checkpoint.

    Raises:
        FileNotFoundError: The data set or the tokenizer is not there.
        ValueError: One of them is something else, or the batch cannot be shared out evenly.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if batch_size % count:
        raise ValueError(f"batch_size={batch_size} cannot be shared out evenly among {count} processes")
    # Grain adds the epoch, or the window, to a seed: seeds 0 and 1 would give the same orders an epoch apart.
    document_seed, window_seed = (int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(2))
    documents = shuffled_documents(config, seed=document_seed, process_index=index, process_count=count)
    stream = documents.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=32))
    stream = PackIterDataset(stream, config.sequence_length)
    stream = grain.experimental.WindowShuffleIterDataset(stream, window_size=SHUFFLE_WINDOW, seed=window_seed)
    stream = stream.batch(batch_size // count)
    return iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=PREFETCH_BATCHES))


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
