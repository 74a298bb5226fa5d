"""Labelled texts: nothing leaks into another split, every text is read once an epoch, and bad input is named."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.data import labelled, speeches
from experiments.data.documents import fingerprint
from experiments.data.labelled import Example, LabelledBatches, encode, load, without_copies
from experiments.data.tokenizer import load_tokenizer
from experiments.finetune_config import LabelledBatch, LabelledConfig

SPLITS = ("train", "validation", "test")


def write(folder: pathlib.Path, **splits: list[tuple[str, object]]) -> LabelledConfig:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return LabelledConfig(folder.name, "folder", folder)


@pytest.mark.parametrize("task", ["party", "half-century"])
def test_no_speaker_document_or_text_is_in_two_splits(task: str) -> None:
    found = load(LabelledConfig(task))
    speaker_of = {speech.url: speech.speaker for speech in speeches.speeches()}
    urls = {split: {example.source.partition("#")[0] for example in found.splits[split]} for split in SPLITS}
    speakers = {split: {speaker_of[url] for url in urls[split]} for split in SPLITS}
    texts = {split: {fingerprint(example.text) for example in found.splits[split]} for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        assert urls[first].isdisjoint(urls[second])
        assert speakers[first].isdisjoint(speakers[second])
        assert texts[first].isdisjoint(texts[second])
    for split in SPLITS:
        assert {example.label for example in found.splits[split]} == set(range(len(found.labels)))
        per_address = collections.Counter(example.source.partition("#")[0] for example in found.splits[split])
        assert max(per_address.values()) <= speeches.PASSAGES_OF_AN_ADDRESS


def test_speakers_are_people_whatever_their_terms() -> None:
    every = speeches.speeches()
    assert {speech.party for speech in every if speech.speaker == "Grover Cleveland"} == {"Democratic"}
    # Two terms apart.
    assert {2018, 2026} <= {speech.year for speech in every if speech.speaker == "Donald J. Trump"}
    named = {"George Washington": 0, "Abraham Lincoln": 1, "Franklin D. Roosevelt": 2, "Ronald Reagan": 3}
    examples = [example for split in load(LabelledConfig("half-century")).splits.values() for example in split]
    labels = {example.source.partition("#")[0]: example.label for example in examples}
    assert all(labels[speech.url] == named[speech.speaker] for speech in every if speech.speaker in named)


def test_copies_in_later_splits_are_dropped_and_counted(tmp_path: pathlib.Path) -> None:
    config = write(
        tmp_path / "copies",
        train=[("one", 0), ("Two, two!", 1), ("three", 0), ("four", 1), ("four", 1)],
        validation=[("two TWO", 1), ("five", 0), ("six", 1)],
        test=[("three.", 0), (" six", 1), ("seven", 1)],
    )
    found = load(config)
    assert {split: [each.text for each in found.splits[split]] for split in SPLITS} == {
        "train": ["one", "four", "four"],
        "validation": ["two TWO", "five"],
        "test": ["three.", " six", "seven"],
    }
    assert found.dropped == {"train": 2, "validation": 1, "test": 0}
    splits = {split: [Example("same", 0, "x")] for split in SPLITS}
    assert without_copies(splits)[1] == {"train": 1, "validation": 1, "test": 0}


def test_a_held_out_part_has_no_copies_and_stays_the_same(tmp_path: pathlib.Path) -> None:
    rows: list[tuple[str, object]] = [(f"text {number}", number % 2) for number in range(200)]
    config = write(tmp_path / "held", train=rows + rows[:40], test=[("other", 0)])
    found = load(dataclasses.replace(config, hold_out=0.2))
    marks = {split: {fingerprint(each.text) for each in examples} for split, examples in found.splits.items()}
    assert marks["train"].isdisjoint(marks["validation"]) and found.dropped["train"] == 0
    assert sum(map(len, found.splits.values())) == 241
    assert 0.1 < len(marks["validation"]) / 200 < 0.3
    smaller = load(dataclasses.replace(write(tmp_path / "less", train=rows[:100]), hold_out=0.2))
    assert {fingerprint(each.text) for each in smaller.splits["validation"]} < marks["validation"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": [("a", None), ("b", 1)], "validation": [("c", 0)]},
            r"train\.jsonl:1 has the label None: each line",
        ),
        (
            {"train": [("a", 0), ("b", 1)], "validation": [("c", 2)]},
            r"validation\.jsonl:1 has the unknown label 2: .*0, 1",
        ),
        ({"train": [("a", 0), (" ", 1)], "validation": [("c", 0)]}, r"train\.jsonl:2 has an empty text"),
        ({"train": [("a", 1), ("b", 1)], "validation": [("c", 1)]}, "the train split of bad has one class only"),
        (
            {"train": [("a", 0), ("b", 1)], "test": [("c", 0)]},
            "bad has no validation split but train, test: --hold-out",
        ),
        ({"validation": [("c", 0)]}, r"bad has no train split but validation: it is train\.jsonl"),
        ({"train": [], "validation": [("c", 0)]}, "bad has no train split but validation"),
        ({"train": [("a", 0), ("b", 1)], "validation": []}, "the validation split of .*bad has no line"),
        (
            {"train": [("a", 0), ("b", "1")], "validation": [("c", 0)]},
            r"train\.jsonl:2 has the label '1' and .*train\.jsonl:1 has 0: write all labels as numbers",
        ),
        ({"train": [("a", True), ("b", 1)], "validation": [("c", 0)]}, r"train\.jsonl:1 has the label True"),
        ({"train": [("a", 0), ("\ud800 b", 1)], "validation": [("c", 0)]}, r"train\.jsonl:2 has half of a surrogate"),
        ({"train": [("a", 0)], "validation": [("A", 0)]}, "all texts of the train split of bad have a copy"),
    ],
)
def test_bad_sets_are_named(tmp_path: pathlib.Path, splits: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load(write(tmp_path / "bad", **splits))
    assert "\n" not in str(error.value)


def test_labels_may_be_words_and_have_names(tmp_path: pathlib.Path) -> None:
    words = write(tmp_path / "words", train=[("a", "no"), ("b", "yes")], validation=[("c", "yes")])
    assert load(words).labels == ("no", "yes")
    assert [each.label for each in load(words).splits["validation"]] == [1]
    named = write(tmp_path / "named", train=[("a", 0), ("b", 2), ("c", 1)], validation=[("d", 1)])
    (tmp_path / "named" / "labels.txt").write_bytes("\ufeffvery bad\r\nso so\r\n\r\ngood \r\n".encode())
    assert load(named).labels == ("very bad", "so so", "good")
    assert [each.label for each in load(named).splits["validation"]] == [1]
    words = write(tmp_path / "order", train=[("a", "so so"), ("b", "good")], validation=[("c", "so so")])
    (tmp_path / "order" / "labels.txt").write_text("so so\ngood")
    assert [each.label for each in load(words).splits["train"]] == [0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"bad\ngood\nbad\n", r"labels\.txt has 'bad' twice"),
        (b"bad\n\xff", r"labels\.txt is not UTF-8: .* at byte 4"),
        (b"bad", "unknown label 1: the labels are 0, those of labels.txt"),
        (b"bad\ngood\nnone", "names 'none', and no text of the train split has that label: the first line names"),
    ],
)
def test_bad_names_of_labels_are_told(tmp_path: pathlib.Path, names: bytes, message: str) -> None:
    config = write(tmp_path / "bad", train=[("a", 0), ("b", 1)], validation=[("c", 1)], test=[("d", 0)])
    (tmp_path / "bad" / "labels.txt").write_bytes(names)
    with pytest.raises(ValueError, match=message):
        load(config)


def test_files_of_no_split_are_told(tmp_path: pathlib.Path) -> None:
    config = write(tmp_path / "task", train=[("a", 0), ("b", 1)], validation=[("c", 1)])
    (tmp_path / "task" / "TEST").mkdir()
    (tmp_path / "task" / "TEST" / "x.jsonl").write_text("{}")
    (tmp_path / "task" / "train-2.jsonl").write_text("{}")
    (tmp_path / "task" / "train.txt").write_text("more")
    for number in range(9):
        (tmp_path / "none" / f"{number}.jsonl").parent.mkdir(exist_ok=True)
        (tmp_path / "none" / f"{number}.jsonl").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no train split but 0\.jsonl, .*, 4\.jsonl and 4 more: it is train"):
        load(LabelledConfig("none", "folder", tmp_path / "none"))
    (tmp_path / "task" / "test.JSONL").write_text('{"text": "d", "label": 1}')
    assert load(config).left_out == ("TEST/x.jsonl", "train-2.jsonl", "train.txt")
    assert [each.text for each in load(config).splits["test"]] == ["d"]


def test_a_digest_is_of_texts_labels_and_their_names(tmp_path: pathlib.Path) -> None:
    rows: list[tuple[str, object]] = [("a", 0), ("b", 1)]
    other: list[tuple[str, object]] = [("a", 1), ("b", 0)]
    digests = []
    for number, (train, names) in enumerate([(rows, ""), (rows, ""), (other, ""), (rows, "no\nyes")]):
        config = write(tmp_path / str(number), train=train, validation=[("c", 0)])
        (tmp_path / str(number) / "labels.txt").write_text(names)
        digests.append(load(config).digest)
    assert digests[0] == digests[1] and len({*digests}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out": 1.5}, "--hold-out 1.5: give a share"),
        ({"hold_out": float("nan")}, "--hold-out nan"),
        ({"hold_out": -0.1}, "--hold-out -0.1"),
        ({"sequence_length": 1}, "--sequence-length 1"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledConfig(**options)


def test_a_part_is_not_held_out_twice(tmp_path: pathlib.Path) -> None:
    config = write(tmp_path / "task", train=[("a", 0), ("b", 1)], validation=[("c", 1)])
    with pytest.raises(ValueError, match=r"task has a validation split: leave out --hold-out 0\.2"):
        load(dataclasses.replace(config, hold_out=0.2))
    alone = write(tmp_path / "alone", train=[("a", 0), ("b", 1)])
    with pytest.raises(ValueError, match="the validation split of alone has no text: hold out more"):
        load(dataclasses.replace(alone, hold_out=1e-9))


def test_copies_are_found_however_letters_are_encoded() -> None:
    assert fingerprint("Caf\u00e9 noir") == fingerprint("cafe\u0301  NOIR!")
    assert fingerprint("\u2764\ufe0f ok") == fingerprint("\u2764 ok")
    assert fingerprint("\u0915\u093e") != fingerprint("\u0915\u0940"), "vowel signs of Hindi are no points"


def test_texts_keep_their_end_mark_when_cut(tiny_command: list[str]) -> None:
    tokenizer = load_tokenizer(pathlib.Path(tiny_command[tiny_command.index("--data.tokenizer") + 1]))
    texts = ["short", "a much longer text about nothing in particular, cut before its end"]
    batch = encode([Example(text, label, "x") for label, text in enumerate(texts)], tokenizer, 12)
    for row, text in enumerate(texts):
        whole = tokenizer.encode(text)
        length = int(batch.lengths[row])
        assert length == min(12, len(whole)) and not batch.tokens[row, length:].any()
        np.testing.assert_array_equal(batch.tokens[row, : length - 1], whole[: length - 1])
        assert batch.tokens[row, length - 1] == whole[-1]
    np.testing.assert_array_equal(batch.labels, [0, 1])


def numbered(number: int) -> LabelledBatch:
    every = np.arange(number, dtype=np.int32)
    return LabelledBatch(every[:, None], every, every)


def test_every_epoch_has_every_text_once_in_its_own_order() -> None:
    batches = LabelledBatches(numbered(10), batch_size=4, seed=3, rows=np.arange(4))
    read = np.concatenate([next(batches).labels for _ in range(5)])
    assert sorted(read[:10]) == sorted(read[10:]) == list(range(10))
    assert not np.array_equal(read[:10], read[10:])
    other = LabelledBatches(numbered(10), batch_size=4, seed=4, rows=np.arange(4))
    assert not np.array_equal(next(other).labels, read[:4])


def test_batches_resume_and_are_the_same_whoever_reads_them() -> None:
    whole = LabelledBatches(numbered(7), batch_size=4, seed=0, rows=np.arange(4))
    part = LabelledBatches(numbered(7), batch_size=4, seed=0, rows=np.array([1, 3]))
    expected = [next(whole) for _ in range(6)]
    state: dict[str, Any] = {}
    for step, batch in enumerate(expected):
        state = json.loads(json.dumps(part.get_state())) if step == 3 else state
        for ours, theirs in zip(next(part), batch, strict=True):
            np.testing.assert_array_equal(ours, theirs[[1, 3]])
    part.set_state(state)
    np.testing.assert_array_equal(next(part).labels, expected[3].labels[[1, 3]])


class Opinions(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """A set like glue/sst2: its text is called a sentence, and the labels of its test split are secret."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=["negative", "positive"])
        features = tfds.features.FeaturesDict({"sentence": tfds.features.Text(), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(4):
            yield number, {"sentence": f"{split} {number}", "label": -1 if split == "test" else number % 2}


def test_a_set_of_tfds_is_read_by_name(tmp_path: pathlib.Path) -> None:
    Opinions(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    found = load(LabelledConfig("opinions", "tfds", tmp_path))
    assert found.labels == ("negative", "positive") and found.scored == "validation"
    assert {split: sorted(each[:2] for each in examples) for split, examples in found.splits.items()} == {
        split: [(f"{split} {number}", number % 2) for number in range(4)] for split in ("train", "validation")
    }
    with pytest.raises(ValueError, match="has no feature `review` but label, sentence"):
        load(LabelledConfig("opinions", "tfds", tmp_path, text_feature="review"))
    with pytest.raises(
        FileNotFoundError, match=r"no train split of glue/sst2.*there is opinions:2\.0\.0.*tfds build glue"
    ):
        load(LabelledConfig("glue/sst2", "tfds", tmp_path))


def test_no_task_of_that_name() -> None:
    with pytest.raises(ValueError, match="no task 'region': there are party and half-century"):
        load(LabelledConfig("region"))
    labelled.load.cache_clear()


def test_a_label_that_cannot_be_learnt_is_refused() -> None:
    splits = {"train": [Example("a", 0, "x"), Example("b", 1, "x")], "validation": [Example("c", 2, "x")]}
    with pytest.raises(ValueError, match="the validation split of t has the label 2, counted from 0, and the train"):
        labelled._check_labels(splits, {"train": 0, "validation": 0}, "t")
