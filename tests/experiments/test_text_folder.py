"""A corpus of any text: every document in one split and not lost, read as C4 is, and bad files named."""
# SPDX-License-Identifier: Apache-2.0

import gzip
import itertools
import json
import lzma
import os
import pathlib

import pytest
import tensorflow_datasets as tfds

from experiments.config import DataConfig
from experiments.data import corpus, text, vocabulary
from experiments.data.documents import files_in, fingerprint, read_lines
from experiments.data.text_folder import TextFolder
from experiments.data.tokenizer import load_tokenizer

STORIES = [f"Story {n}.\n" + "\n".join(f"On day {d} of story {n} it rained." for d in range(150)) for n in range(45)]


def write(folder: pathlib.Path, files: dict[str, list[str] | str]) -> pathlib.Path:
    """Writes plain text, or lists of texts as JSON lines, compressed as the name says."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps({"text": each, "more": 1}) + "\n" for each in content)
        data = content.encode()
        path.write_bytes({".xz": lzma.compress(data), ".gz": gzip.compress(data)}.get(path.suffix, data))
    return folder


def splits(found: TextFolder) -> dict[str, list[str]]:
    by_split: dict[str, list[str]] = {"train": [], "validation": []}
    for document in found.documents():
        by_split[document.split].append(document.text)
    return by_split


def test_one_document_in_twenty_is_held_out_and_copies_stay_together(tmp_path: pathlib.Path) -> None:
    copies = [story.upper().replace(" ", "  ") for story in STORIES[:3]]
    write(
        tmp_path, {"a.jsonl.xz": STORIES[:20], "b/c.jsonl.gz": STORIES[20:44], "d.txt": STORIES[44], "e.jsonl": copies}
    )
    found = splits(TextFolder(tmp_path, "stories"))
    assert sorted(found["train"] + found["validation"]) == sorted(STORIES + copies)
    marks = {split: set(map(fingerprint, texts)) for split, texts in found.items()}
    assert marks["train"].isdisjoint(marks["validation"]) and len(marks["validation"]) == 2
    # Which are held out depends on the texts alone.
    assert splits(TextFolder(tmp_path / "b", "other")).keys() == found.keys()
    assert splits(TextFolder(write(tmp_path / "one", {"all.jsonl": STORIES}), "x"))["validation"] == [
        story for story in STORIES if story in found["validation"]
    ]


def test_named_splits_are_kept_and_copies_of_held_out_texts_dropped(tmp_path: pathlib.Path) -> None:
    write(
        tmp_path,
        {
            "train.jsonl": [*STORIES[:9], STORIES[10] + " !", " "],
            "validation/one.txt": STORIES[10],
            "test.jsonl": ["out"],
        },
    )
    found = TextFolder(tmp_path, "stories")
    assert splits(found) == {"train": STORIES[:9], "validation": [STORIES[10]]}
    assert (found.copies, found.empty, [path.name for path in found.left_out]) == (1, 1, ["test.jsonl"])
    assert next(found.documents()).url == "stories/train.jsonl:1"


def test_it_is_read_as_c4_is(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "stories", {"all.jsonl": STORIES})
    assert corpus.main(tmp_path / "data", 320, folder) == 0
    made = corpus.Corpus(tmp_path / "data/stories/tfds", tmp_path / "data/stories/stories-320.model")
    printed = capsys.readouterr().out
    assert f"--data.dir {made.dir} --data.tokenizer {made.tokenizer} --data.corpus stories" in printed
    config = DataConfig(dir=made.dir, tokenizer=made.tokenizer, sequence_length=16, eval_tokens=64)
    batches = text.train_iterator(config, batch_size=2, seed=0)
    assert next(batches).shape == (2, 16)
    batches.close()
    passages: dict[str, dict[int, str]] = {}
    for record in itertools.chain(*(text.open_split(config, split) for split in ("train", "validation"))):
        url, _, number = record["url"].decode().partition("#")
        passages.setdefault(url, {})[int(number)] = record["text"].decode()
        assert len(record["text"]) <= corpus.MAX_CHARACTERS
    assert sorted("\n".join(parts[i] for i in range(len(parts))) for parts in passages.values()) == sorted(STORIES)
    assert tfds.builder(corpus.NAME, data_dir=made.dir).info.splits["validation"].num_examples == 2 * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no \.txt or \.jsonl file"),
        ({"one.txt": "alone"}, "has 1 documents to train on and 0 for validation"),
        ({"a.jsonl": "{"}, r"a\.jsonl:1 is not JSON"),
        ({"a.jsonl": '{"text": "fine"}\n\n{"body": 1, "label": 2}'}, r"a\.jsonl:3 has no text but body, label"),
        ({"a.jsonl": "[1]"}, r"a\.jsonl:1 has no text but list"),
        ({"a.jsonl": '{"text": 3}'}, r"a\.jsonl:1 has no text but text: each line must"),
        ({"a.jsonl": "[" * 100_000}, r"a\.jsonl:1 cannot be read as JSON"),
        ({"a.jsonl": '{"text": "a", "n": ' + "1" * 5000 + "}"}, r"a\.jsonl:1 cannot be read as JSON"),
        ({"a.jsonl": '{"text": "a \\ud800"}'}, r"a\.jsonl:1 has half of a surrogate pair"),
    ],
)
def test_bad_folders_are_told_in_a_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], files: dict[str, list[str] | str], message: str
) -> None:
    folder = write(tmp_path / "bad", files)
    folder.mkdir(exist_ok=True)
    assert corpus.main(tmp_path / "data", 320, folder) == 1
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        raise ValueError(printed)
    assert not list((tmp_path / "data").rglob("*.model"))


def test_bytes_that_are_no_text_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    (tmp_path / "cut.jsonl.xz").write_bytes(lzma.compress(b'{"text": "a"}\n' * 99)[:-20])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:-12])
    (tmp_path / "no.jsonl.gz").write_bytes(b"plain")
    packed = bytearray(gzip.compress(os.urandom(9999).hex().encode()))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "odd.jsonl.gz").write_bytes(bytes(packed))
    (tmp_path / "second.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}')
    for path, message in zip(
        files_in(tmp_path),
        [
            "not a whole .gz file",
            "not a whole .xz file",
            "is not UTF-8.*at byte 1",
            "not a whole .gz file",
            "not a whole .gz file",
            ":2 is not UTF-8.*at byte 10",
        ],
        strict=True,
    ):
        with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
            list(read_lines(path, tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        files_in(tmp_path / "none")
    with pytest.raises(ValueError, match="the name 'a b' of a corpus"):
        corpus.prepare_text(tmp_path, tmp_path, "a b")


def test_endings_of_lines_and_of_names_do_not_matter(tmp_path: pathlib.Path) -> None:
    (tmp_path / "A.TXT").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "b.JSONL").write_bytes(b'\xef\xbb\xbf{"text": "four"}\r\n\r\n{"text": "five"}\r\n')
    (tmp_path / "c.jsonl").write_bytes('{"text": "six"}\r{"text": "\u2028seven"}\n\u3000\n{"text": 8}'.encode())
    files = files_in(tmp_path)
    found = [line.text for path in files[:2] for line in read_lines(path, tmp_path)]
    assert found == ["one\ntwo\nthree\n", "four", "five"]
    lines = read_lines(files[2], tmp_path)
    assert [next(lines)[:2] for _ in range(2)] == [("c.jsonl:1", "six"), ("c.jsonl:2", "\u2028seven")]
    with pytest.raises(ValueError, match=r"c\.jsonl:4 has no text"):
        next(lines)


def test_a_name_that_is_no_text_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("a")
    with pytest.raises(ValueError, match=r"the name of the file .* is not UTF-8"):
        files_in(tmp_path)


def test_a_corpus_is_of_one_text(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = write(tmp_path / "stories", {"all.jsonl": STORIES}), tmp_path / "data"
    assert corpus.main(data, 320, folder) == 0
    assert "was there already" not in capsys.readouterr().out
    assert corpus.main(data, 320, folder) == 0
    assert "was there already and is kept" in capsys.readouterr().out
    write(tmp_path / "stories", {"all.jsonl": STORIES[1:]})
    assert corpus.main(data, 320, folder) == 1
    assert "was made of other text than is in" in capsys.readouterr().err
    assert corpus.main(data, 320, folder, "others") == 0
    assert corpus.main(data, 320, tmp_path / "gone", "others") == 0, "what is there is kept"
    (data / "others" / "source.sha256").unlink()  # made before this was noted
    assert corpus.main(data, 320, folder, "others") == 0


def test_long_lines_are_learnt_from(tmp_path: pathlib.Path) -> None:
    line = "\u00e9" * 600_000 + "xyzzy " * 10_000
    vocabulary.train_tokenizer([line], 280, tmp_path / "some.model")
    pieces = {load_tokenizer(tmp_path / "some.model").processor.id_to_piece(at) for at in range(280)}
    assert "\u00e9" in pieces
    with pytest.raises(ValueError, match=r"--vocab-size 0: .*give 260 or more"):
        vocabulary.train_tokenizer([line], 0, tmp_path / "none.model")
