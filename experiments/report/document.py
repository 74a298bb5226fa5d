"""Assembles the report: its head, its sections, and what was made and what was not."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from experiments.presets import PRESETS
from experiments.report import notes, published, questions, tables
from experiments.report.data import REPORTED, Book, read_results
from experiments.report.figures import save
from experiments.report.parts import Section
from experiments.report.sections import FURTHER, SECTIONS
from experiments.report.statistics import SIGNIFICANCE
from experiments.report.text import DATA_SETS, NOT_MADE, command, regime, rerun, table
from experiments.suites.paper import SUITES
from experiments.suites.questions.catalogue import QUESTIONS
from experiments.suites.results import Result
from experiments.suites.scales import SCALES


def write(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes report.md and figures/*.svg, and removes figures of an earlier report.

    Args:
        source: Folder of the results: `SCALE.jsonl`, and `notes.md` if there are notes.
        target: Where to write.

    Returns:
        The report.
    """
    book, prose, figures = read_results(source), notes.read(source / "notes.md"), target / "figures"
    parts = [
        f"# Results\n\n{_ABOUT}",
        f"## In short\n\n{prose.get('In short', '')}\n\n{questions.front(book, figures)}",
        "## Questions",
        *questions.sections(book, prose, figures),
        "## Further experiments",
        *(_section(section, book, figures, prose) for section in FURTHER),
        *(f"## {heading}\n\n{prose[heading]}" for heading in (CORRECTIONS, OBJECTIONS) if heading in prose),
        f"## Appendix: the paper's tables and figures, first protocol\n\n{_FIRST}\n\n{tables.in_short(book)}",
        *(_section(section, book, figures, prose) for section in SECTIONS if section not in FURTHER),
        f"## Appendix: what was made\n\n{_head(book)}\n\n{_status(book)}\n{published.perplexities()}",
    ]
    report = target / "report.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    report.write_text(text)
    for figure in figures.glob("*.svg"):
        if f"({figures.name}/{figure.name})" not in text:
            figure.unlink()
    return report


CORRECTIONS = "What the first report got wrong"
OBJECTIONS = "Appendix: objections and answers"
"""Sections of `notes.md` beside those of the questions and the first page."""
_ABOUT = (
    "Written by `python -m experiments.report` from the files SCALE.jsonl and notes.md beside it; the same files give "
    "the same bytes. Do not edit. The text of the small scales is addresses of US presidents to Congress or, where a "
    "question says so, books, in a vocabulary of 1,024 pieces: their perplexities say nothing about C4's."
)
_FIRST = (
    "Made before the questions, at a learning rate of 6e-3, which is too high for Adam at this scale, and with "
    "settings picked on a seed that was then tested. "
    "Validation loss in nats a token (the logarithm of perplexity), each method with the same seeds. Better and worse "
    f"mean p < {SIGNIFICANCE} in a paired t-test (`scipy.stats.ttest_rel`). Not told apart means p above that, which "
    "does not show that two are equal: the interval says how far apart they may be. A negative difference means that "
    "AlphaDecay's loss is lower. p is not corrected for the number of comparisons, and the best other method is picked "
    "by the same runs, which favours it. All t-tests of language models below compare losses, too."
)


def _head(book: Book) -> str:
    """What the report rests on."""
    found = book.every_result()
    failures = [result for result in found if result.failed]
    hours = sum(result.seconds or 0.0 for result in found) / 3600
    lines = [
        f"- runs: {len(found)} ({', '.join(f'{scale} {len(by)}' for scale, by in book.found.items() if by)}), "
        f"{hours:.1f} hours of one process, compiling and validating included",
        f"- failed runs: {len(failures)}",
        *(f"  - `{result.name}`: {' '.join(result.error.split())}" for result in failures),
        *(
            f"- {regime(scale)}: {PRESETS[SCALES[scale].preset].about.splitlines()[0]}"
            for scale, by in book.found.items()
            if by
        ),
        f"- devices: {_counted(result.device for result in found)}",
        f"- commits: {_counted(_short(result.commit) for result in found)}",
        f"- versions: {_versions(found)}",
    ]
    strays = sum(len(book.strays(scale)) for scale in REPORTED)
    if strays:
        lines.append(f"- {strays} of the runs belong to no table or figure: their settings are no longer planned")
    return "\n".join(lines)


def _preset(scale: str) -> str:
    """What a scale's preset is, in a line."""
    return PRESETS[SCALES[scale].preset].about.splitlines()[0]


def _section(section: Section, book: Book, figures: pathlib.Path, prose: Mapping[str, str]) -> str:
    """A table or figure at every scale that has enough of it, and what the notes say of it."""
    scales = book.scales(section.suite) if section.suite in SUITES else []
    lines = [f"### {section.heading}", *([section.about] if scales else [])]
    for scale in scales:
        part = section.part(book, scale)
        subject = DATA_SETS[SCALES[scale].vision] if SUITES[section.suite].vision else regime(scale)
        lines.append(f"**{subject}.** {part.line}")
        if part.draw:
            name = f"{section.suite}-{scale}.svg"
            save(part.draw, figures / name)
            lines.append(f"![{section.heading}]({figures.name}/{name})")
        lines += [part.table] if part.table else []
        lines += [_made_by(section, book, scale), rerun(book.cells[section.suite, scale])]
    if not scales:
        smallest = next(scale for scale in REPORTED if section.suite not in SUITES or book.cells[section.suite, scale])
        lines.append(f"{NOT_MADE.capitalize()}: {_commands(section, smallest)}.")
    lines += [section.after()] if section.after else []
    lines += [prose[section.suite]] if section.suite in prose else []
    return "\n\n".join(line.strip("\n") for line in lines if line)


def _made_by(section: Section, book: Book, scale: str) -> str:
    """The command of a table or figure, and what it has still to make."""
    made, failed, planned = book.tally(section.suite, scale)
    seeds = max(len(cell.names) for cell in book.cells[section.suite, scale])
    notes = [f"{planned} runs", f"{seeds} {'seed' if seeds == 1 else 'seeds'} a setting"]
    notes += [] if made == planned else [f"{made} made so far"]
    notes += [f"{failed} failed"] if failed else []
    listed = ", ".join(notes)
    return f"Made by {_commands(section, scale, f' ({listed})')}."


def _commands(section: Section, scale: str, notes: str = "") -> str:
    """The command of a table or figure, notes, and the commands of its last column."""
    tuned = ", then ".join(command(suite, scale) for suite in section.tuned)
    return f"{command(section.suite, scale)}{notes}" + (f"; the last column by {tuned}" if tuned else "")


def _status(book: Book) -> str:
    """Runs made of every table and figure at every scale."""
    rows = []
    for suite in SUITES:
        counts = [book.tally(suite, scale) for scale in REPORTED]
        texts = [f"{made}/{planned}" + (f" ({failed} failed)" if failed else "") if planned else _nothing(suite, scale)
                 for scale, (made, failed, planned) in zip(REPORTED, counts, strict=True)]  # fmt: skip
        rows.append([f"`{suite}`", *texts])
    about = (
        f"Runs made of those planned; what is missing is made by {command('NAME', 'SCALE')}, which says with "
        "`--plan` how long it takes. Tables and figures share runs, and show a scale once more than half of their "
        "cells have one. `waits`: its runs depend on a sweep still to make. The Vision Transformer is ImageNet's, and "
        "stands under `60m`."
    )
    return f"{about}\n\n{table(('suite', *REPORTED), rows)}"


def _nothing(suite: str, scale: str) -> str:
    """What stands where a suite has no runs at a scale: that it waits, or nothing if it will never have any."""
    question, chosen = QUESTIONS.get(suite.removesuffix("-tuning")), SCALES[scale]
    if question:
        return "" if question.scale != scale else "waits"
    is_undrawn = suite.startswith("figure-") and not chosen.ablation_seeds
    return "" if chosen.only_questions or SUITES[suite].vision or is_undrawn else "waits"


def _counted(words: Iterable[str]) -> str:
    """Words with how often each occurs."""
    return ", ".join(f"{word} ({count})" for word, count in sorted(Counter(words).items())) or "none"


def _short(commit: str) -> str:
    """The first seven digits of a commit, and whether files differed from it."""
    digits, plus, changes = commit.partition("+")
    return f"{digits[:7]}{plus}{changes}"


def _versions(found: Sequence[Result]) -> str:
    """Every package with its versions; counted if runs differ."""
    seen: dict[str, list[str]] = {}
    for result in found:
        for package, version in result.versions.items():
            seen.setdefault(package, []).append(version)
    return ", ".join(
        f"{package} {versions[0] if len(set(versions)) == 1 else _counted(versions)}"
        for package, versions in seen.items()
    )
