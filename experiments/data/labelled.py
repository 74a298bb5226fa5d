"""Labelled texts of a folder of JSON lines, of TFDS or of the embedded corpus, without copies in two splits."""
# SPDX-License-Identifier: Apache-2.0

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data import speeches
from experiments.data.documents import SPLITS, fingerprint
from experiments.data.labelled_folder import read_folder
from experiments.data.tfds_records import open_records
from experiments.data.tokenizer import Tokenizer, load_tokenizer
from experiments.finetune_config import LabelledBatch, LabelledConfig

TEXT_FEATURES = ("text", "sentence", "description", "review")
"""What TFDS sets call their text."""
NO_LABEL = -1
"""Label of the test texts of sets that keep them secret."""


class Example(NamedTuple):
    """One text."""

    text: str
    label: int
    source: str
    """Where it is from, as errors name it."""


class LabelledText(NamedTuple):
    """A task: its texts by split, and the names of its labels."""

    labels: tuple[str, ...]
    splits: Mapping[str, Sequence[Example]]
    """`train`, `validation`, and `test` if there is one."""
    dropped: Mapping[str, int]
    """By split, texts that were left out because a later split has a copy of them."""
    left_out: Sequence[str] = ()
    """Files of the folder that are of no split."""

    @property
    def scored(self) -> str:
        """The split that a finished model is scored on."""
        return "test" if "test" in self.splits else "validation"

    @property
    def digest(self) -> str:
        """Of all texts and labels, in their order: 12 hexadecimal digits."""
        everything = hashlib.sha256(repr(self.labels).encode())
        for split, examples in self.splits.items():
            everything.update(repr((split, [(each.text, each.label) for each in examples])).encode())
        return everything.hexdigest()[:12]


@functools.lru_cache(maxsize=2)
def load(config: LabelledConfig) -> LabelledText:
    """Reads a task.

    Args:
        config: Which, and where it is.

    Returns:
        The texts. A text with a copy in the test split is dropped from the others, and one with a copy in the
        validation split from the train split.

    Raises:
        FileNotFoundError: The data is not there, or a split of it.
        ValueError: A text is empty or has no label or an unknown one, or all have the same.
    """
    left_out: Sequence[str] = ()
    if config.source == "embedded":
        labels, examples = speeches.labelled(config.name)
        splits = {split: [Example(*each) for each in found] for split, found in examples.items()}
    elif config.source == "folder":
        labels, found, left_out = read_folder(config.dir)
        splits = {split: [Example(*each) for each in examples] for split, examples in found.items()}
    else:
        labels, splits = _from_tfds(config)
    _check_texts(splits)
    splits = _with_validation(splits, config)
    splits, dropped = without_copies(splits)
    _check_labels(splits, dropped, config.name)
    return LabelledText(labels, splits, dropped, left_out)


def without_copies(splits: Mapping[str, Sequence[Example]]) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Drops texts that have a copy in a later split, see `documents.fingerprint`, and counts them by split."""
    later: set[bytes] = set()
    kept: dict[str, list[Example]] = {}
    for split in reversed([split for split in SPLITS if split in splits]):
        marked = [(fingerprint(example.text), example) for example in splits[split]]
        kept[split] = [example for mark, example in marked if mark not in later]
        later |= {mark for mark, _ in marked}
    return dict(reversed(kept.items())), {split: len(splits[split]) - len(kept[split]) for split in reversed(kept)}


def encode(examples: Sequence[Example], tokenizer: Tokenizer, length: int) -> LabelledBatch:
    """Turns texts into tokens.

    Args:
        examples: The texts.
        tokenizer: The vocabulary of the model.
        length: Tokens of a row. Of a longer text the first are taken, and its end mark.

    Returns:
        All texts as one batch, NumPy arrays.
    """
    tokens, lengths = np.zeros((len(examples), length), np.int32), np.zeros(len(examples), np.int32)
    for row, example in enumerate(examples):
        encoded = tokenizer.encode(example.text)
        if len(encoded) > length:
            encoded = np.append(encoded[: length - 1], encoded[-1])
        tokens[row, : len(encoded)], lengths[row] = encoded, len(encoded)
    return LabelledBatch(tokens, lengths, np.array([example.label for example in examples], np.int32))


@functools.lru_cache(maxsize=2)
def encoded_splits(config: LabelledConfig) -> dict[str, LabelledBatch]:
    """All texts of a task as tokens, by split; raises what `load` and `load_tokenizer` do."""
    tokenizer = load_tokenizer(config.tokenizer)
    return {
        split: encode(examples, tokenizer, config.sequence_length) for split, examples in load(config).splits.items()
    }


class LabelledBatches:
    """One process's rows of every batch, without end: epoch after epoch, each in its own order, and none is cut short.

    The order depends on the seed and the number of texts alone.
    """

    def __init__(self, examples: LabelledBatch, *, batch_size: int, seed: int, rows: np.ndarray):
        """Takes all texts of a split.

        Args:
            examples: NumPy arrays.
            batch_size: Texts in a batch, over all processes.
            seed: Decides the order.
            rows: Which rows of each batch to yield, ascending.
        """
        self._examples, self._batch_size, self._seed, self._rows = examples, batch_size, seed, rows
        self._made = 0

    def __iter__(self) -> "LabelledBatches":
        """Returns itself."""
        return self

    def __next__(self) -> LabelledBatch:
        """Returns the next batch's rows."""
        number = len(self._examples.labels)
        places = self._made * self._batch_size + self._rows
        self._made += 1
        chosen = np.array([self._order(int(place) // number)[int(place) % number] for place in places])
        return LabelledBatch(*(part[chosen] for part in self._examples))

    def _order(self, epoch: int) -> np.ndarray:
        return _order(self._seed, epoch, len(self._examples.labels))

    def get_state(self) -> dict[str, Any]:
        """How many batches were made."""
        return {"batches": self._made}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to where `get_state` was called."""
        self._made = state["batches"]

    def close(self) -> None:
        """Does nothing: there are no threads."""


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, number: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(number)


def _from_tfds(config: LabelledConfig) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """The splits of a TFDS set that was built as array_record; a test split without labels is left out."""
    advice = (
        f"`tfds build {config.name} --file_format=array_record` makes it (it needs `pip install tensorflow apache-beam "
        "mlcroissant`, best in an environment of its own); --data-dir says where it is. The tasks half-century and "
        "party need no data"
    )
    train = open_records(config.dir, config.name, "train", features=("label",), advice=advice)
    feature = config.text_feature or next((name for name in TEXT_FEATURES if name in train.features), "text")
    splits = {}
    for split in SPLITS:
        if split in train.splits:
            records = open_records(config.dir, config.name, split, features=(feature, "label"), advice=advice)
            examples = [
                Example(record[feature].decode(), int(record["label"]), f"record {number} of {config.name} {split}")
                for number, record in enumerate(records)
            ]
            if not (split == "test" and all(example.label == NO_LABEL for example in examples)):
                splits[split] = examples
    return tuple(getattr(train.features["label"], "names", None) or ()), splits


def _with_validation(splits: dict[str, list[Example]], config: LabelledConfig) -> dict[str, list[Example]]:
    """Holds out a part of the train split if asked to; refuses a task without a split that it needs."""
    _check_has_train(splits, config.name)
    if splits.get("validation"):
        if config.hold_out:
            raise ValueError(f"{config.name} has a validation split: leave out --hold-out {config.hold_out:g}")
        return splits
    if not config.hold_out:
        raise FileNotFoundError(
            f"{config.name} has no validation split but {', '.join(splits)}: --hold-out 0.1 holds out a tenth of the "
            "train split, by a hash of the texts"
        )
    whole = splits["train"]
    is_held_out = [int.from_bytes(fingerprint(each.text)[:4], "big") < config.hold_out * 2**32 for each in whole]
    parts = {
        "train": [each for each, held in zip(whole, is_held_out, strict=True) if not held],
        "validation": [each for each, held in zip(whole, is_held_out, strict=True) if held],
    }
    return {**splits, **parts}


def _check_has_train(splits: Mapping[str, Sequence[Any]], name: str) -> None:
    if not splits.get("train"):
        raise FileNotFoundError(f"{name} has no train split but {', '.join(splits) or 'nothing'}")


def _check_texts(splits: Mapping[str, Sequence[Example]]) -> None:
    for example in (example for examples in splits.values() for example in examples):
        if not example.text.strip():
            raise ValueError(f"{example.source} has an empty text: take it out")
        if example.label < 0:
            raise ValueError(f"{example.source} has the label {example.label}: labels count from 0")


def _check_labels(splits: Mapping[str, Sequence[Example]], dropped: Mapping[str, int], name: str) -> None:
    learnt = {example.label for example in splits["train"]}
    for split, examples in splits.items():
        found = {example.label for example in examples}
        if split == "train" and len(found) == 1:
            raise ValueError(f"the train split of {name} has one class only, {min(found)}: there is nothing to learn")
        if not found and dropped[split]:
            raise ValueError(f"all texts of the {split} split of {name} have a copy in a later split")
        if not found:
            raise ValueError(f"the {split} split of {name} has no text: hold out more of the train split, or less")
        if unknown := found - learnt:
            raise ValueError(
                f"the {split} split of {name} has the label {min(unknown)}, counted from 0, and the train split has no "
                "text with it: nothing can be learnt of it"
            )
