"""Loads a sentencepiece vocabulary, and turns documents into tokens and back."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib

import numpy as np
import sentencepiece


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
