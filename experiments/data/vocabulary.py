"""Trains the vocabulary of a corpus."""
# SPDX-License-Identifier: Apache-2.0

import io
import os
import pathlib
from collections.abc import Iterable, Iterator

import sentencepiece

FEWEST_PIECES = 260
"""3 marks, 256 bytes, and a character."""
_LONGEST_LINE = 2**20
"""In bytes."""
TOKENIZER_CHARACTERS = 20_000_000
"""A vocabulary is trained on so many characters of the train split at most: all of the embedded corpus."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: pathlib.Path) -> None:
    """Trains a byte-pair vocabulary with LLaMA's settings: rare characters become bytes, so none is unknown.

    Args:
        texts: What to train on. The same texts give the same file, byte for byte.
        vocab_size: Number of pieces: 3 special ones (0 unknown, 1 BOS, 2 EOS), 256 bytes, characters, merges.
        path: Where the sentencepiece model goes; it appears there complete or not at all.

    Raises:
        ValueError: The texts have too many characters, or too few pairs, for a vocabulary of this size.
    """
    if vocab_size < FEWEST_PIECES:
        raise ValueError(
            f"--vocab-size {vocab_size}: 3 marks and 256 bytes are pieces, so give {FEWEST_PIECES} or more"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for line in text.split("\n") for part in _parts(line)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            max_sentence_length=_LONGEST_LINE,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no vocabulary of {vocab_size} pieces fits this text: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    incomplete.write_bytes(model.getvalue())
    incomplete.replace(path)


def _parts(line: str) -> Iterator[str]:
    """A line in parts that sentencepiece reads: it would pass over a longer one."""
    step = _LONGEST_LINE // 4  # bytes of a character, at most
    return (line[start : start + step] for start in range(0, len(line), step))


def sample(texts: Iterable[str]) -> Iterator[str]:
    """The first texts, up to `TOKENIZER_CHARACTERS`."""
    left = TOKENIZER_CHARACTERS
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text
