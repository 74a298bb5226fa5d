"""The contrasts of a question: which arm has the lower loss, by how much, and how sure that is."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.statistics import Cell
from experiments.style import COLOURS
from experiments.suites.inference import Contrast, contrast, holm
from experiments.suites.questions import Question
from experiments.suites.questions.catalogue import QUESTIONS

WIDEST = 0.3
"""Nats; an interval that reaches farther is cut there in a plot."""


class Row(NamedTuple):
    """One contrast of a question."""

    first: str
    second: str
    is_primary: bool
    found: Contrast | None
    """None before both arms have a run with the same seed."""
    p: float
    """Corrected within the secondary contrasts; NaN where not tested."""


def contrasts(question: Question, cells: Sequence[Cell]) -> list[Row]:
    """The contrasts of a question: the primary one as it is, the others corrected together by Holm's method."""
    losses = losses_of(cells)
    pairs = [question.primary, *question.secondary]
    found = [paired(losses, *pair) for pair in pairs]
    raw = [each.p if each else math.nan for each in found]
    corrected = [raw[0], *holm(raw[1:])]
    return [Row(*pair, i == 0, found[i], corrected[i]) for i, pair in enumerate(pairs)]


def losses_of(cells: Sequence[Cell]) -> dict[str, dict[int, float]]:
    """Validation losses by arm and seed."""
    return {str(cell.labels["arm"]): cell.values("loss") for cell in cells}


def paired(losses: Mapping[str, Mapping[int, float]], first: str, second: str) -> Contrast | None:
    """Compares two arms; None if they have no seed in common."""
    ours, theirs = losses.get(first, {}), losses.get(second, {})
    return contrast(ours, theirs) if ours.keys() & theirs.keys() else None


def baseline_of(question: Question) -> str:
    """The arm that all others are held against: Uniform decay, or else the second one of the primary contrast."""
    return "Uniform" if "Uniform" in question.arms else question.primary[1]


def against_baseline(book: Book, name: str) -> dict[str, Contrast]:
    """The difference of every arm of a question to its baseline, by arm."""
    question = QUESTIONS[name]
    baseline, losses = baseline_of(question), losses_of(book.cells[name, question.scale])
    found = {arm: paired(losses, arm, baseline) for arm in question.arms if arm != baseline}
    return {arm: each for arm, each in found.items() if each}


def draw_contrasts(book: Book, name: str) -> Figure:
    """A forest plot of a question's contrasts; left of 0 the first arm has the lower loss."""
    rows = contrasts(QUESTIONS[name], book.cells[name, QUESTIONS[name].scale])
    lines = [(f"{row.first} - {row.second}", row.found, row.is_primary) for row in rows]
    return _forest(lines, "difference of validation loss in nats; negative: the first is better")


def draw_front(book: Book) -> Figure:
    """The forest plot of the first page: every arm of every question against tuned Uniform decay."""
    lines: list[tuple[str, Contrast | None, bool]] = []
    for name, question in QUESTIONS.items():
        found, ours, baseline = against_baseline(book, name), question.primary[0], baseline_of(question)
        told = "" if baseline == "Uniform" else f" - {baseline}"
        lines.append((f"{question.title}{'' if found else ': not made'}", None, True))
        lines += [(f"{arm}{told}", each, arm == ours) for arm, each in found.items()]
    return _forest(lines, "validation loss minus that of tuned Uniform decay, in nats; negative is better")


def _forest(lines: Sequence[tuple[str, Contrast | None, bool]], label: str) -> Figure:
    """A line each, top to bottom: its name, its mean and interval, and whether it is the one asked; or a heading."""
    figure = Figure(figsize=(9, 1.1 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for height, (_, found, is_asked) in enumerate(reversed(lines)):
        if found:
            colour = COLOURS[5] if is_asked else COLOURS[0]
            low, high = max(-WIDEST, found.low), min(WIDEST, found.high)
            axes.plot([low, high], [height, height], color=colour, linewidth=2.5)
            axes.plot([found.mean], [height], "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(lines)), [text for text, *_ in reversed(lines)])
    for label_of_row, (_, found, _) in zip(axes.get_yticklabels(), reversed(lines), strict=True):
        label_of_row.set_fontweight("normal" if found else "bold")
    axes.set_ylim(-0.7, len(lines) - 0.3)
    figure.supxlabel(label, fontsize="medium")
    return figure
