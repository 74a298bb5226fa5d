"""Results in words and Markdown: numbers, tables whose best is bold, and the commands that make them."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping, Sequence

from experiments.report.statistics import (
    PERPLEXITY,
    SIGNIFICANCE,
    Cell,
    Comparison,
    Measure,
    best_of,
    compare_cells,
    summarise,
    verdict,
)

NOT_MADE = "not made"
LEGEND = (
    "Mean ± standard deviation over seeds; the best of a column is bold, and † marks what a t-test paired by seed does "
    f"not tell from it (p ≥ {SIGNIFICANCE})."
)
REGIMES = {
    "nano": "Repeated data (nano)",
    "nano-fresh": "Fresh data (nano-fresh)",
    "nano-long": "Fresh data, long (nano-long)",
    "small": "Repeated data (small)",
}
"""What the small scales are about; others go by their names."""
DATA_SETS = {"digits": "Digits", "imagenet": "ImageNet"}
"""What a Vision Transformer learns, by its preset."""
COUPLINGS = {"adam": "Adam", "adamw": "AdamW"}


def regime(scale: str) -> str:
    """A scale in words."""
    return REGIMES.get(scale, f"The paper's {scale.upper()} model")


def command(suite: str, scale: str = "nano") -> str:
    """The command that makes the runs of a table or figure, as Markdown."""
    return f"`python -m experiments.suites {suite} --scale {scale}`"


def rerun(cells: Iterable[Cell]) -> str:
    """The commands that make one run of each cell again and compare it, folded away; empty if none was made."""
    lines = []
    for cell in cells:
        if cell.finished:
            labels = ", ".join(f"{name} {value}" for name, value in cell.labels.items())
            name = cell.names[next(iter(cell.finished))]
            lines.append(f"python -m experiments.suites.rerun {name}  # {labels}")
    if not lines:
        return ""
    block = "\n".join(["```bash", *lines, "```"])
    return f"<details><summary>Make a run again and compare it, one of each setting</summary>\n\n{block}\n\n</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A Markdown table, ending in a newline; numbers are set to the right, all but the first column."""
    lines = [columns, ["---", *["---:" if numbers else "---"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(texts)} |\n" for texts in lines)


def p_value(p: float) -> str:
    """Such as `p = 0.031`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(cell: Cell, measure: Measure = PERPLEXITY) -> str:
    """Mean and standard deviation of a cell, and how many runs they are of unless all are there."""
    summary = summarise(cell.values(measure.shown, measure.factor))
    if summary is None:
        return "failed" if cell.failures else NOT_MADE
    text = f"{summary.mean:.2f}" + ("" if summary.std is None else f" ± {summary.std:.2f}")
    notes = [] if summary.n == len(cell.names) else [f"n = {summary.n} of {len(cell.names)}"]
    notes += [f"{cell.failures} failed"] if cell.failures else []
    return f"{text} ({', '.join(notes)})" if notes else text


def column(rows: Mapping[str, Cell], measure: Measure = PERPLEXITY, *, against: str = "") -> dict[str, str]:
    """The texts of settings that compete.

    Args:
        rows: A cell for each setting.
        measure: What is shown, and what is tested.
        against: The setting that all others are tested against, in a second line of their texts; empty for none.

    Returns:
        A cell for each setting; the best is bold, and those that cannot be told from it have a dagger.
    """
    best, texts = best_of(rows.values(), measure), {}
    for name, cell in rows.items():
        text = number(cell, measure)
        if best is cell:
            text = f"**{text}**"
        elif best and (comparison := compare_cells(cell, best, measure)) and is_tie(comparison):
            text += " †"
        rival = rows.get(against)
        if rival and rival is not cell and (comparison := compare_cells(cell, rival, measure)):
            text += "" if comparison.p is None else f"<br>{p_value(comparison.p)}"
        texts[name] = text
    return texts


def is_tie(comparison: Comparison) -> bool:
    """Whether a t-test was made and does not tell the two apart, or they are the same."""
    return comparison.difference == 0 or (comparison.p is not None and comparison.p >= SIGNIFICANCE)


def outcome(comparison: Comparison | None, measure: Measure = PERPLEXITY) -> str:
    """A comparison in words, such as `**worse** (+0.012 nats, p = 0.008, n = 5)`."""
    if comparison is None:
        return NOT_MADE
    n, difference, p, interval = comparison
    facts = [f"{round(difference, 3) + 0.0:+.3f} {measure.unit}"]
    facts += [] if p is None else [p_value(p)]
    facts += [] if interval is None else ["95 % interval {:+.3f} to {:+.3f}".format(*interval)]
    facts += [f"n = {n}"]
    return f"**{verdict(comparison, measure)}** ({', '.join(facts)})"


def settings(cells: Iterable[Cell], label: str) -> list[str | float]:
    """The values that a label takes, in the order of the cells."""
    return list(dict.fromkeys(cell.labels[label] for cell in cells if label in cell.labels))


def with_labels(cells: Iterable[Cell], **labels: str | float) -> Cell | None:
    """The cell that has these labels, `_` in a keyword standing for a space; None if there is none."""
    wanted = {name.replace("_", " "): value for name, value in labels.items()}
    return next((cell for cell in cells if wanted.items() <= cell.labels.items()), None)
