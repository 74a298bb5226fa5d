"""Batches of text: nothing lost or read twice, exact resumption, and errors that say what to do."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import grain
import numpy as np
import pytest
import sentencepiece
import tensorflow_datasets as tfds

from experiments.config import DataConfig
from experiments.data import corpus, text
from experiments.data.tokenizer import load_tokenizer

VOCAB_SIZE = 512
SMALL_WINDOW = 64


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Ten short addresses to train on and two to validate on, in sequences of 32 tokens."""
    made = corpus.prepare(tmp_path_factory.mktemp("corpus"), VOCAB_SIZE, texts=corpus.addresses()[:12])
    return DataConfig(dir=made.dir, tokenizer=made.tokenizer, sequence_length=32, eval_tokens=1000)


def encoded(config: DataConfig, split: str) -> list[np.ndarray]:
    """Every document of a split, by sentencepiece alone."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(config.tokenizer))
    source = tfds.data_source("c4/en:3.1.0", data_dir=config.dir, split=split, download=False)
    return [np.array([1, *processor.encode(record["text"].decode()), 2], np.int32) for record in source]


def as_multiset(arrays: Iterable[np.ndarray]) -> collections.Counter[tuple[int, ...]]:
    return collections.Counter(tuple(array.tolist()) for array in arrays)


def take(batches: Any, count: int) -> np.ndarray:
    return np.stack(list(itertools.islice(batches, count)))


@pytest.mark.parametrize("shares", [1, 3])
def test_every_epoch_has_every_document_once_over_all_streams(config: DataConfig, shares: int) -> None:
    config = dataclasses.replace(config, streams=shares)
    streams = [text.shuffled_documents(config, seed=5, stream=stream) for stream in range(shares)]
    all_of_them = encoded(config, "train")
    sizes = [len(range(index, len(all_of_them), shares)) for index in range(shares)]
    epochs = [
        [stream[epoch * size + i] for stream, size in zip(streams, sizes, strict=True) for i in range(size)]
        for epoch in range(2)
    ]
    for epoch in epochs:
        assert as_multiset(epoch) == as_multiset(all_of_them)
    firsts = [[document.tolist() for document in epoch] for epoch in epochs]
    assert firsts[0] != firsts[1]


def test_batches_are_the_packed_documents_in_another_order(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "SHUFFLE_WINDOW", SMALL_WINDOW)
    batches = take(text.train_iterator(config, batch_size=8, seed=3), 3 * SMALL_WINDOW // 8)
    assert batches.shape == (24, 8, 32) and batches.dtype == np.int32
    windows = batches.reshape(3, SMALL_WINDOW, 32)
    seed = int(np.random.SeedSequence(3).generate_state(2)[0]) >> 1
    documents = text.shuffled_documents(config, seed=seed, stream=0)
    stream = np.concatenate([documents[i] for i in range(40)])[: windows.size].reshape(windows.shape)
    for window, expected in zip(windows, stream, strict=True):
        assert as_multiset(window) == as_multiset(expected)
        assert not np.array_equal(window, expected)


def test_seed_decides_the_order(config: DataConfig) -> None:
    first, again, other = (take(text.train_iterator(config, batch_size=4, seed=seed), 4) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("done", [0, 1, 7, 8, 13])
def test_resumes_bit_for_bit(config: DataConfig, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    monkeypatch.setattr(text, "SHUFFLE_WINDOW", SMALL_WINDOW)  # eight batches of eight
    running = text.train_iterator(config, batch_size=8, seed=0)
    list(itertools.islice(running, done))
    state = json.loads(json.dumps(running.get_state()))
    expected = take(running, 12)
    fresh = text.train_iterator(config, batch_size=8, seed=0)
    fresh.set_state(state)
    np.testing.assert_array_equal(take(fresh, 12), expected)
    running.set_state(state)
    np.testing.assert_array_equal(take(running, 12), expected)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [4, 5, 6, 7], [3, 4], [0, 5, 7], [6]])
def test_batch_is_the_same_whoever_reads_it(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, rows: list[int]
) -> None:
    monkeypatch.setattr(text, "SHUFFLE_WINDOW", SMALL_WINDOW)
    config = dataclasses.replace(config, streams=4)
    whole = text.train_iterator(config, batch_size=8, seed=0)
    some = text.train_iterator(config, batch_size=8, seed=0, rows=np.array(rows))
    np.testing.assert_array_equal(take(some, 40), take(whole, 40)[:, rows])

    # A process takes its streams from the states of all, whatever rows it had when they were saved.
    state = json.loads(json.dumps(whole.get_state()))
    expected = take(whole, 9)[:, rows]
    some.set_state(state)
    np.testing.assert_array_equal(take(some, 9), expected)


def test_streams_read_different_documents_in_different_orders(config: DataConfig) -> None:
    config = dataclasses.replace(config, streams=2)
    batches = take(text.train_iterator(config, batch_size=8, seed=0), 4)
    first, second = (as_multiset(half.reshape(-1, 32)) for half in np.split(batches, 2, axis=1))
    assert first.keys().isdisjoint(second)


def test_process_opens_only_the_streams_of_its_rows(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    shuffled_documents = text.shuffled_documents

    def note(config: DataConfig, *, seed: int, stream: int) -> grain.MapDataset:
        opened.append(stream)
        return shuffled_documents(config, seed=seed, stream=stream)

    monkeypatch.setattr(text, "shuffled_documents", note)
    config = dataclasses.replace(config, streams=4)
    text.train_iterator(config, batch_size=8, seed=0, rows=np.array([3, 4])).close()
    assert opened == [1, 2]


@pytest.mark.parametrize("streams", [0, 3, 16])
def test_streams_must_share_the_batch(config: DataConfig, streams: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.streams={streams} cannot share batch_size=8 evenly"):
        text.train_iterator(dataclasses.replace(config, streams=streams), batch_size=8, seed=0)


@pytest.mark.parametrize("eval_tokens", [1, 128, 1000, 10**9])
def test_validation_is_the_start_of_its_split(config: DataConfig, eval_tokens: int) -> None:
    config = dataclasses.replace(config, eval_tokens=eval_tokens)
    batches = list(text.validation_batches(config, batch_size=4))
    expected = np.concatenate(encoded(config, "validation"))[:eval_tokens]
    assert len(batches) == -(-len(expected) // 128)
    for tokens, real in batches:
        assert tokens.shape == real.shape == (4, 32)
        assert tokens.dtype == np.int32 and real.dtype == np.bool_
    tokens, real = (np.concatenate(parts).ravel() for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(tokens[real], expected)
    assert real[: len(expected)].all() and not tokens[~real].any()


def test_token_counts(config: DataConfig) -> None:
    documents = encoded(config, "train")
    for max_documents in (3, 2000):
        expected = collections.Counter(np.concatenate(documents[:max_documents]).tolist())
        counts = text.token_counts(config, VOCAB_SIZE, max_documents=max_documents)
        assert counts.shape == (VOCAB_SIZE,) and counts.dtype == np.int64
        assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected


def test_wrong_vocabulary_size(config: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"512 pieces and the model 1000 .* --model.vocab-size 512"):
        text.token_counts(config, 1000)


def advice(directory: pathlib.Path) -> str:
    return rf"{directory}.*experiments\.corpus.*tfds build c4/en.*convert_format.*--data\.dir"


@pytest.mark.parametrize("name", ["c4/en:3.1.0", "c4/en:3.0.1", "c4/webtextlike:3.1.0", "mnist:3.0.1"])
def test_missing_data(config: DataConfig, tmp_path: pathlib.Path, name: str) -> None:
    shutil.copytree(config.dir / "c4/en/3.1.0", tmp_path / "c4/en/9.9.9")
    absent = dataclasses.replace(config, dir=tmp_path, name=name)
    there = r"; there is c4/en:9\.9\.9 \(array_record\)\."
    with pytest.raises(FileNotFoundError, match=f"no train split of {name}.*{there}.*{advice(pathlib.Path())}"):
        text.train_iterator(absent, batch_size=4, seed=0)


def test_folder_that_is_not_quite_the_right_one(config: DataConfig, tmp_path: pathlib.Path) -> None:
    for wrong in (config.dir / "c4", config.dir / "c4/en", config.dir / "c4/en/3.1.0", config.dir.parent):
        with pytest.raises(FileNotFoundError, match=f"; it is in {config.dir}: pass that folder"):
            text.open_split(dataclasses.replace(config, dir=wrong), "train")
    with pytest.raises(FileNotFoundError, match="; there is no such folder"):
        text.open_split(dataclasses.replace(config, dir=tmp_path / "none"), "train")
    with pytest.raises(FileNotFoundError, match="; that folder has no data set"):
        text.open_split(dataclasses.replace(config, dir=tmp_path), "train")


def test_tfrecord_is_refused(config: DataConfig, tmp_path: pathlib.Path) -> None:
    shutil.copytree(config.dir, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "c4/en/3.1.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    convert = f"--dataset_version_dir={tmp_path}/c4/en/3.1.0 --out_file_format=array_record"
    needed = "pip install tensorflow apache-beam mlcroissant"
    with pytest.raises(FileNotFoundError, match=f"it is there as tfrecord: .*{convert}.*{needed}"):
        text.open_split(dataclasses.replace(config, dir=tmp_path), "train")


def test_incomplete_copy(config: DataConfig, tmp_path: pathlib.Path) -> None:
    shutil.copytree(config.dir, tmp_path, dirs_exist_ok=True)
    (shard,) = (tmp_path / "c4/en/3.1.0").glob("*validation*")
    shard.unlink()
    copy = dataclasses.replace(config, dir=tmp_path)
    text.open_split(copy, "train")
    with pytest.raises(FileNotFoundError, match=f"incomplete, {shard} is missing"):
        text.open_split(copy, "validation")


class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """A data set without text."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"number": np.int64, "parity": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, int]]]:
        return ((number, {"number": number, "parity": number % 2}) for number in range(3))


def test_foreign_data(config: DataConfig, tmp_path: pathlib.Path) -> None:
    Numbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    foreign = dataclasses.replace(config, dir=tmp_path, name="numbers:1.0.0")
    with pytest.raises(ValueError, match=f"no feature `text` but number, parity.*{advice(pathlib.Path())}"):
        text.open_split(foreign, "train")
    with pytest.raises(FileNotFoundError, match=r"no validation split of numbers:1\.0\.0.*; it has train\."):
        text.open_split(foreign, "validation")


def test_what_is_wrong_with_the_disk_is_not_taken_for_missing_data(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(config.dir))

    monkeypatch.setattr(tfds, "builder", denied)
    with pytest.raises(PermissionError, match="Permission denied"):
        text.open_split(config, "train")


@pytest.mark.parametrize("streams", [1, 2])
def test_unique_tokens_are_the_first_ones_again_in_every_epoch(config: DataConfig, streams: int) -> None:
    config = dataclasses.replace(config, unique_tokens=32 * 40, streams=streams)
    tokenizer = load_tokenizer(config.tokenizer)
    records = itertools.islice(text.open_split(config, "train"), 30)
    first = np.concatenate([tokenizer.encode(record["text"]) for record in records])[: 32 * 40].reshape(40, 32)
    with contextlib.closing(text.train_iterator(config, batch_size=8, seed=1)) as batches:
        epochs = [np.concatenate([next(batches) for _ in range(5)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(map(bytes, epoch)) == sorted(map(bytes, first))
    assert not np.array_equal(epochs[0], epochs[1])


def test_unique_tokens_depend_on_the_seed_in_order_alone_and_go_on_where_they_were(config: DataConfig) -> None:
    config = dataclasses.replace(config, unique_tokens=32 * 40)
    with contextlib.closing(text.train_iterator(config, batch_size=20, seed=1)) as batches:
        next(batches)
        state = json.loads(json.dumps(batches.get_state()))
        second = next(batches)
    with contextlib.closing(text.train_iterator(config, batch_size=20, seed=1)) as again:
        again.set_state(state)
        assert np.array_equal(next(again), second)
    with contextlib.closing(text.train_iterator(config, batch_size=40, seed=2)) as other:
        assert not np.array_equal(next(other)[20:], second)


@pytest.mark.parametrize(("tokens", "streams"), [(10**9, 1), (33, 2)])
def test_too_many_or_too_few_unique_tokens_are_refused(config: DataConfig, tokens: int, streams: int) -> None:
    config = dataclasses.replace(config, unique_tokens=tokens, streams=streams)
    with pytest.raises(ValueError, match=f"unique_tokens={tokens} must make a sequence of 32"):
        text.train_iterator(config, batch_size=8, seed=0)
