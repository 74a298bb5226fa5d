"""Questions in the report: their answers, arms and contrasts, and whether they were asked before their runs."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import pathlib
from collections.abc import Mapping, Sequence

from experiments.report.contrasts import Row, against_baseline, baseline_of, contrasts, draw_contrasts, draw_front
from experiments.report.data import Book
from experiments.report.figures import save
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, command, number, p_value, regime, rerun, table
from experiments.suites import provenance
from experiments.suites.cost import Estimate
from experiments.suites.inference import SIGNIFICANCE
from experiments.suites.questions import Arm, Question
from experiments.suites.questions.catalogue import QUESTIONS, file_of
from experiments.suites.questions.readings import KINDS, readings
from experiments.suites.scales import SCALES

FRONT = (
    "Validation loss of each arm minus that of tuned Uniform decay, with its 95 % interval, paired by seed. Methods "
    "have their own best learning rate and decay; controls, such as `Same mean`, `By type` and `MLP only`, take "
    "AlphaDecay's. Left of 0 is better. Red is what the question is about."
)


def front(book: Book, figures: pathlib.Path) -> str:
    """The first page's plot, and a line a question."""
    save(functools.partial(draw_front, book), figures / "questions.svg")
    lines = [
        f"- **{question.title}** ({question.scale}): {_in_short(book, name)}" for name, question in QUESTIONS.items()
    ]
    return "\n\n".join([f"![Questions]({figures.name}/questions.svg)", FRONT, "\n".join(lines)])


def sections(book: Book, notes: Mapping[str, str], figures: pathlib.Path) -> list[str]:
    """A section a question: the answer, its table and figure, what would change it, how it was asked."""
    return [_section(book, name, notes.get(name, ""), figures) for name in QUESTIONS]


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
        return "No test run was made yet."
    if asked is None:
        return "Whether it was asked before its runs cannot be told outside of a repository."
    for commit in commits:
        if not provenance.is_ancestor(asked, commit.partition("+")[0]):
            raise ValueError(
                f"{file_of(name).name} was last changed in {asked[:7]}, which is not before its runs, made at "
                f"{commit[:7]}: make the runs again, or put the question back as it was."
            )
    return f"Asked in {asked[:7]}, before its test runs at {', '.join(commit[:7] for commit in commits)}."


def _section(book: Book, name: str, notes: str, figures: pathlib.Path) -> str:
    question = QUESTIONS[name]
    cells = book.cells[name, question.scale]
    rows = contrasts(question, cells)
    parts = [
        f"### {question.title}",
        f"*{regime(question.scale)}.* {question.hypothesis} {answer(rows[0], len(question.test_seeds))}",
    ]
    if any(row.found for row in rows):
        save(functools.partial(draw_contrasts, book, name), figures / f"{name}.svg")
        parts += [f"![{question.title}]({figures.name}/{name}.svg)", _contrast_table(rows)]
    parts += [_arm_table(question, cells), _reading_table(cells), notes, how_it_was_asked(book, name), rerun(cells)]
    return "\n\n".join(part.strip("\n") for part in parts if part)


def how_it_was_asked(book: Book, name: str) -> str:
    """The plan, the commits, the tuning, and what was not made."""
    question = QUESTIONS[name]
    cells, seeds = book.cells[name, question.scale], len(question.test_seeds)
    plan = (
        f"**How it was asked.** {seeds} seeds an arm, {question.test_seeds[0]} to {question.test_seeds[-1]}, which "
        f"find {question.effect} nats with a probability of {question.power:.2f} if paired differences deviate by "
        f"{question.deviation}. {question.stopping} p of further contrasts is corrected by Holm's method. "
        f"{check_asked_before(name, cells)}"
    )
    return f"{plan} {_tuning(book, name)} {_made(book, name)}"


def answer(primary: Row, planned: int) -> str:
    """The primary contrast in a sentence; not as an answer before all of the planned seeds are made."""
    found = primary.found
    if found is None or math.isnan(found.p):
        return "**No answer yet.**"
    facts = f"95 % interval {found.low:+.4f} to {found.high:+.4f}, {p_value(found.p)}, {found.n} seeds"
    if found.n < planned:
        return (
            f"**No answer before all {planned} seeds are made.** So far {primary.first} minus {primary.second} is "
            f"{found.mean:+.4f} nats ({facts})."
        )
    if found.p >= SIGNIFICANCE:
        return f"**Not told apart**: {found.mean:+.4f} nats ({facts})."
    side, percent = "lower" if found.mean < 0 else "higher", abs(math.expm1(found.mean)) * 100
    return (
        f"**The loss of {primary.first} is {side} than that of {primary.second} by {abs(found.mean):.4f} nats**, or "
        f"{percent:.1f} % of perplexity ({facts})."
    )


def _in_short(book: Book, name: str) -> str:
    """The answer, and the arm that is the best against Uniform."""
    question = QUESTIONS[name]
    row = contrasts(question, book.cells[name, question.scale])[0]
    found = against_baseline(book, name)
    if not found or row.found is None or math.isnan(row.found.p):
        return f"{answer(row, len(question.test_seeds))} {_made(book, name)}"
    best = min(found, key=lambda arm: found[arm].mean)
    low, mean, high = found[best].low, found[best].mean, found[best].high
    told = f"Lowest against {baseline_of(question)}: {best}, {mean:+.4f} nats ({low:+.4f} to {high:+.4f})."
    return f"{answer(row, len(question.test_seeds))} {told} {_made(book, name)}"


def _contrast_table(rows: Sequence[Row]) -> str:
    texts = [[f"{row.first} - {row.second}", "asked" if row.is_primary else "further", *_numbers(row)] for row in rows]
    return table(("contrast", "", "difference in nats", "95 % interval", "p", "seeds"), texts)


def _arm_table(question: Question, cells: Sequence[Cell]) -> str:
    """What every arm is, its settings, and its perplexity."""
    made = {str(cell.labels["arm"]): cell for cell in cells}
    rows = [
        [name, number(made[name]) if name in made else NOT_MADE, _settings(arm), arm.about]
        for name, arm in question.arms.items()
    ]
    return table(("arm", "perplexity", "settings", "what it is"), rows, numbers=False)


def _settings(arm: Arm) -> str:
    if not arm.is_ready:
        return f"waits for {arm.waits_for}" if arm.waits_for else "to be tuned"
    chosen = [("lr", "learning_rate"), ("decay", "weight_decay")]
    return ", ".join(f"{word} {arm.settings[name]:g}" for word, name in chosen if name in arm.settings)


def _reading_table(cells: Sequence[Cell]) -> str:
    """Alpha, sizes of weights and strength of decay at the end of the runs of every arm; nothing if none has them."""
    rows = []
    for cell in cells:
        found = [readings(result) for result in cell.finished.values()]
        row = [str(cell.labels["arm"])]
        for what, digits in (("alpha", 2), ("size", 4), ("relative_decay", 3)):
            row += [_mean([getattr(each[kind], what) for each in found], digits) for kind in KINDS]
        if any(row[1:]):
            rows.append(row)
    if not rows:
        return ""
    first = readings(next(result for cell in cells for result in cell.finished.values()))
    random = ", ".join(f"{first[kind].random_alpha:.2f} {kind}" for kind in KINDS)
    about = (
        f"At the end of the runs: alpha by type of module (random matrices of these shapes have {random}), root mean "
        "square of the weights (0.02 before training), and the decay's part of a step over the gradient's. Means over "
        "the runs that have them."
    )
    heads = [f"{what}: {kind}" for what in ("alpha", "size", "relative decay") for kind in KINDS]
    return f"{about}\n\n{table(('arm', *heads), rows)}"


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else ""


def _numbers(row: Row) -> list[str]:
    if row.found is None:
        return [NOT_MADE, "", "", "0"]
    interval = f"{row.found.low:+.4f} to {row.found.high:+.4f}" if math.isfinite(row.found.low) else ""
    return [f"{row.found.mean:+.4f}", interval, "" if math.isnan(row.p) else p_value(row.p), str(row.found.n)]


def _tuning(book: Book, name: str) -> str:
    """What the settings were chosen on, and whether an optimum lies at an end of what was tried."""
    question = QUESTIONS[name]
    if not question.tuning_seeds:
        return "Its settings are those of another question's arms, and are not tuned."
    made, _, planned = book.tally(f"{name}-tuning", question.scale)
    seeds = ", ".join(map(str, question.tuning_seeds))
    told = f"Settings are tuned on the seeds {seeds} alone: {made} of {planned} runs made."
    is_tested = any(cell.results for cell in book.cells[name, question.scale])
    if not question.is_ready or (made < planned and not is_tested):
        return told
    question.check_tuning(book.found[question.scale])
    edges = question.on_edge()
    return told + (
        f" At an end of what was tried: {', '.join(edges)}." if edges else " No optimum is at an end of its grid."
    )


def _made(book: Book, name: str) -> str:
    """How many test runs were made, and what the others cost."""
    question, found = QUESTIONS[name], book.found[QUESTIONS[name].scale]
    planned = len(question.arms) * len(question.test_seeds)
    made = sum(len(cell.results) for cell in book.cells[name, question.scale])
    if made == planned:
        return f"All {planned} test runs are made."
    estimate = Estimate(SCALES[question.scale], question.every_config(), found)
    hours = (planned - made) * estimate.seconds(question.every_config()[0]) / 3600
    how = command(name, question.scale) if question.is_ready else "after its tuning"
    return f"**{made} of {planned} test runs are made**; the others take about {hours:.1f} core-hours, {how}."
