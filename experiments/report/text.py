"""Results in words and Markdown: numbers, tables whose best is bold, and the commands that make them."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping, Sequence

from experiments.report.statistics import (
    PERPLEXITY,
    SIGNIFICANCE,
    Comparison,
    Measure,
    Place,
    best_of,
    compare_places,
    summarise,
    verdict,
)

NOT_MADE = "not made"
LEGEND = (
    "Mean ± standard deviation over seeds; the best of a column is bold, and † marks what a t-test paired by seed does "
    f"not tell from it (p ≥ {SIGNIFICANCE})."
)
REGIMES = {"nano": "Repeated data (nano)", "nano-fresh": "Fresh data (nano-fresh)"}
"""What the small scales are about; others go by their names."""
DATA_SETS = {"digits": "Digits (nano)", "imagenet": "ImageNet"}
"""What a Vision Transformer learns, by its preset."""
COUPLINGS = {"adam": "Adam", "adamw": "AdamW"}


def regime(scale: str) -> str:
    """A scale in words."""
    return REGIMES.get(scale, f"The paper's {scale.upper()} model")


def command(suite: str, scale: str = "nano") -> str:
    """The command that makes the runs of a table or figure, as Markdown."""
    return f"`python -m experiments.suites {suite} --scale {scale}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A Markdown table, ending in a newline; numbers are set to the right, all but the first column."""
    lines = [columns, ["---", *["---:" if numbers else "---"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def p_value(p: float) -> str:
    """Such as `p = 0.031`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(place: Place, measure: Measure = PERPLEXITY) -> str:
    """Mean and standard deviation of a place, and how many runs they are of unless all are there."""
    summary = summarise(place.values(measure.shown, measure.factor))
    if summary is None:
        return "failed" if place.failures else NOT_MADE
    text = f"{summary.mean:.2f}" + ("" if summary.std is None else f" ± {summary.std:.2f}")
    notes = [] if summary.n == len(place.names) else [f"n = {summary.n} of {len(place.names)}"]
    notes += [f"{place.failures} failed"] if place.failures else []
    return f"{text} ({', '.join(notes)})" if notes else text


def column(rows: Mapping[str, Place], measure: Measure = PERPLEXITY, *, against: str = "") -> dict[str, str]:
    """The cells of settings that compete.

    Args:
        rows: A place for each setting.
        measure: What is shown, and what is tested.
        against: The setting that all others are tested against, in a second line of their cells; empty for none.

    Returns:
        A cell for each setting; the best is bold, and those that cannot be told from it have a dagger.
    """
    best, cells = best_of(rows.values(), measure), {}
    for name, place in rows.items():
        text = number(place, measure)
        if best is place:
            text = f"**{text}**"
        elif best and (comparison := compare_places(place, best, measure)) and is_tie(comparison):
            text += " †"
        rival = rows.get(against)
        if rival and rival is not place and (comparison := compare_places(place, rival, measure)):
            text += "" if comparison.p is None else f"<br>{p_value(comparison.p)}"
        cells[name] = text
    return cells


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


def settings(places: Iterable[Place], label: str) -> list[str | float]:
    """The values that a label takes, in the order of the places."""
    return list(dict.fromkeys(place.labels[label] for place in places if label in place.labels))


def with_labels(places: Iterable[Place], **labels: str | float) -> Place | None:
    """The place that has these labels, `_` in a keyword standing for a space; None if there is none."""
    wanted = {name.replace("_", " "): value for name, value in labels.items()}
    return next((place for place in places if wanted.items() <= place.labels.items()), None)
