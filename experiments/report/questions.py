"""Questions in the report: their arms, their contrasts, and whether they were asked before their runs."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, number, p_value, table
from experiments.style import COLOURS
from experiments.suites import provenance
from experiments.suites.inference import SIGNIFICANCE, Contrast, contrast, holm
from experiments.suites.questions import Question
from experiments.suites.questions.catalogue import QUESTIONS, file_of

QUESTION = (
    "Asked, with its arms and seeds, before its runs were made. Perplexity: mean ± standard deviation over seeds. "
    "Contrasts are paired by seed; p of the secondary ones is corrected by Holm's method."
)

TUNING = "What the settings of its arms were chosen on: seeds that nothing is tested on."


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
    losses = {str(cell.labels["arm"]): cell.values("loss") for cell in cells}
    pairs = [question.primary, *question.secondary]
    found = [contrast(losses[a], losses[b]) if losses[a].keys() & losses[b].keys() else None for a, b in pairs]
    raw = [each.p if each else math.nan for each in found]
    corrected = [raw[0], *holm(raw[1:])]
    return [Row(*pair, i == 0, found[i], corrected[i]) for i, pair in enumerate(pairs)]


def check_asked_before(name: str, cells: Sequence[Cell]) -> str:
    """Says whether a question was committed before its runs were made.

    Args:
        name: A key of `QUESTIONS`.
        cells: Its runs.

    Returns:
        A sentence with the commits.

    Raises:
        ValueError: If a run's commit does not have the question as it stands now.
    """
    asked = provenance.last_change(file_of(name))
    commits = sorted({result.commit for cell in cells for result in cell.results.values()})
    if not commits:
        return "No run was made yet."
    if asked is None:
        return "Whether it was asked before its runs cannot be told outside of a repository."
    for commit in commits:
        if not provenance.is_ancestor(asked, commit.partition("+")[0]):
            raise ValueError(
                f"{file_of(name).name} was last changed in {asked[:7]}, which is not before its runs, made at "
                f"{commit[:7]}: make the runs again, or put the question back as it was."
            )
    return f"Asked in {asked[:7]}, before its runs at {', '.join(commit[:7] for commit in commits)}."


def line(book: Book, name: str, scale: str) -> str:
    """The question, its answer, and what was planned."""
    question, cells = QUESTIONS[name], book.cells[name, scale]
    seeds = len(question.test_seeds)
    plan = (
        f"{seeds} seeds an arm, which find {question.effect} nats with a probability of {question.power:.2f} if paired "
        f"differences deviate by {question.deviation}. {question.stopping} Tuned on the seeds "
        f"{', '.join(map(str, question.tuning_seeds))} alone."
    )
    return f"{question.hypothesis} {_answer(contrasts(question, cells)[0])} {plan} {check_asked_before(name, cells)}"


def tables(book: Book, name: str, scale: str) -> str:
    """The arms, and the contrasts."""
    question, cells = QUESTIONS[name], book.cells[name, scale]
    arms = [[str(cell.labels["arm"]), number(cell), question.arms[str(cell.labels["arm"])].about] for cell in cells]
    rows = [
        [f"{row.first} - {row.second}", "primary" if row.is_primary else "secondary", *_numbers(row)]
        for row in contrasts(question, cells)
    ]
    heads = ("contrast", "", "difference in nats", "95 % interval", "p", "seeds")
    return f"{table(('arm', 'perplexity', 'what it is'), arms, numbers=False)}\n{table(heads, rows)}"


def draw(book: Book, name: str, scale: str) -> Figure:
    """A forest plot: each contrast with its interval; left of 0 the first arm has the lower loss."""
    rows = [row for row in contrasts(QUESTIONS[name], book.cells[name, scale]) if row.found]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        if row.found:
            colour = COLOURS[5] if row.is_primary else COLOURS[0]
            low, high = (max(-1.0, row.found.low), min(1.0, row.found.high))
            axes.plot([low, high], [height, height], color=colour, linewidth=2.5)
            axes.plot([row.found.mean], [height], "o", color=colour, markersize=7)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row.first} - {row.second}" for row in reversed(rows)])
    axes.set_xlabel("difference of validation loss in nats; negative: the first is better")
    return figure


def drawer(book: Book, name: str, scale: str) -> "functools.partial[Figure] | None":
    """What draws the forest plot; nothing before there is a contrast."""
    found = any(row.found for row in contrasts(QUESTIONS[name], book.cells[name, scale]))
    return functools.partial(draw, book, name, scale) if found else None


def _answer(primary: Row) -> str:
    found = primary.found
    if found is None or math.isnan(found.p):
        return f"**{NOT_MADE.capitalize()} yet.**"
    side = "lower" if found.mean < 0 else "higher"
    if found.p >= SIGNIFICANCE:
        return f"**Not told apart** ({found.mean:+.4f} nats, {p_value(found.p)}, n = {found.n})."
    return f"**{primary.first} is {side}** by {abs(found.mean):.4f} nats ({p_value(found.p)}, n = {found.n})."


def _numbers(row: Row) -> list[str]:
    if row.found is None:
        return [NOT_MADE, "", "", "0"]
    interval = f"{row.found.low:+.4f} to {row.found.high:+.4f}" if math.isfinite(row.found.low) else ""
    return [f"{row.found.mean:+.4f}", interval, "" if math.isnan(row.p) else p_value(row.p), str(row.found.n)]


def sections() -> list[Section]:
    """Two sections a question: its answer, and what its settings were chosen on."""
    made = []
    for name, question in QUESTIONS.items():
        made += [
            Section(f"Question: {question.title}", QUESTION, name, functools.partial(_answered, name)),
            Section(f"Question: {question.title}, tuning", TUNING, f"{name}-tuning", functools.partial(_tuned, name)),
        ]
    return made


def _answered(name: str, book: Book, scale: str) -> Part:
    return Part(line(book, name, scale), tables(book, name, scale), drawer(book, name, scale))


def _tuned(name: str, book: Book, scale: str) -> Part:
    """The settings of every tuned arm, held against the runs that they were chosen on."""
    question = QUESTIONS[name]
    question.check_tuning(book.found[scale])
    rows = [
        [arm, ", ".join(f"{setting.replace('_', ' ')} {made.settings[setting]:g}" for setting in made.grid)]
        for arm, made in question.arms.items()
        if made.grid
    ]
    edges = question.on_edge()
    told = f"At an end of what was tried: {', '.join(edges)}." if edges else "None is at an end of what was tried."
    return Part(f"The best of every tuned arm, by the mean loss of its seeds. {told}", table(("arm", "best"), rows))
