"""The report's tables: methods at several decays and over seeds, decay of equal mean, and what was tuned."""
# SPDX-License-Identifier: Apache-2.0

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.report.data import REPORTED, Book, mean_ratio
from experiments.report.statistics import (
    ACCURACY,
    PERPLEXITY,
    Cell,
    Comparison,
    Measure,
    best_of,
    compare_cells,
    verdict,
)
from experiments.report.text import (
    COUPLINGS,
    NOT_MADE,
    column,
    number,
    outcome,
    regime,
    settings,
    table,
    with_labels,
)
from experiments.suites.paper import METHODS
from experiments.suites.scales import SCALES

OURS = "AlphaDecay"
TABLES = {"adam": ("table-2", "tuned-adam", "sweep-adam"), "adamw": ("table-3", "tuned-adamw", "sweep-adamw")}
"""By coupling: the table, its tuned column and the sweep behind that."""


class Contest(NamedTuple):
    """The methods under one setting."""

    scale: str
    coupling: str
    setting: str
    """The base decay, or how it was chosen."""
    methods: dict[str, Cell]

    def against_uniform(self) -> Comparison | None:
        """AlphaDecay and Uniform."""
        return compare_cells(self.methods[OURS], self.methods["Uniform"], PERPLEXITY)

    def best_rival(self) -> str:
        """The method with the best mean among those that are not AlphaDecay."""
        rivals = {name: cell for name, cell in self.methods.items() if name != OURS}
        best = best_of(rivals.values(), PERPLEXITY)
        return next(name for name, cell in rivals.items() if cell is best)

    def against_best(self) -> Comparison | None:
        """AlphaDecay and the best other method."""
        return compare_cells(self.methods[OURS], self.methods[self.best_rival()], PERPLEXITY)


def contests(book: Book) -> list[Contest]:
    """Every setting of the language models in which AlphaDecay and Uniform have a seed in common."""
    found = []
    for scale in REPORTED:
        for coupling, (suite, tuned, _) in TABLES.items():
            cells = book.cells[suite, scale]
            for rate in settings(cells, "weight decay"):
                found.append(Contest(scale, coupling, f"{rate:g}", _methods(cells, rate)))
            found.append(Contest(scale, coupling, "tuned", _methods(book.cells[tuned, scale])))
    return [
        contest
        for contest in found
        if {OURS, "Uniform"} <= contest.methods.keys()
        and (comparison := contest.against_uniform())
        and comparison.p is not None
    ]


def in_short(book: Book) -> str:
    """The main comparisons: how often AlphaDecay wins and loses, then each of them."""
    made = contests(book)
    if not made:
        return "AlphaDecay and Uniform have no run in common yet.\n"
    lines = []
    for scale, coupling in dict.fromkeys((contest.scale, contest.coupling) for contest in made):
        here = [contest for contest in made if (contest.scale, contest.coupling) == (scale, coupling)]
        tuned = [f" Tuned, it is {outcome(each.against_uniform())}." for each in here if each.setting == "tuned"]
        lines.append(
            f"- {regime(scale)}, {COUPLINGS[coupling]}: against Uniform, AlphaDecay is "
            f"{_tally(each.against_uniform() for each in here)} settings; against the best other method it is "
            f"{_tally(each.against_best() for each in here)}.{''.join(tuned)}"
        )
    for scale in book.scales("equal-mean"):
        against = [f"against {name}, AlphaDecay is {_tally(found.values())}"
                   for name, found in _at_equal_mean(book, "equal-mean", scale).items()]  # fmt: skip
        lines.append(f"- {regime(scale)}, at equal mean decay: {'; '.join(against)}.")
    for scale in book.scales("equal-mean-seeds"):
        lines.append(f"- {regime(scale)}, with more seeds: {equal_mean_in_a_line(book, 'equal-mean-seeds', scale)}")
    rows = [
        [regime(each.scale), COUPLINGS[each.coupling], each.setting, outcome(each.against_uniform()),
         f"{each.best_rival()}: {outcome(each.against_best())}"]
        for each in made
    ]  # fmt: skip
    headings = ("regime", "optimizer", "base decay", "AlphaDecay against Uniform", "AlphaDecay against the best other")
    return "\n".join(lines) + "\n\n" + table(headings, rows, numbers=False)


def methods_by_decay(book: Book, suite: str, scale: str, tuned: str = "", measure: Measure = PERPLEXITY) -> str:
    """Methods down, decays across; each method is tested against AlphaDecay.

    Args:
        book: The results.
        suite: Table 2, 3 or 5.
        scale: Where.
        tuned: The suite of the last column, in which each method has its own learning rate and decay; empty for none.
        measure: What is shown, and what is tested.

    Returns:
        A Markdown table.
    """
    cells = book.cells[suite, scale]
    rates = settings(cells, "weight decay")
    columns = [column(_methods(cells, rate), measure, against=OURS) for rate in rates]
    headings = ["method", *(f"decay {rate:g}" for rate in rates)]
    if tuned:
        best = _methods(book.cells[tuned, scale])
        # Who is best is known once all are there.
        complete = len(best) == len(METHODS)
        texts = column(best, measure, against=OURS) if complete else {n: number(p, measure) for n, p in best.items()}
        columns.append({name: f"{texts[name]}<br>{_chosen(cell)}" for name, cell in best.items()})
        headings.append("best tuned")
    names = [name for name in METHODS.values() if any(name in texts for texts in columns)]
    return table(headings, [[name, *(texts.get(name, NOT_MADE) for texts in columns)] for name in names])


def methods_by_seed(cells: Sequence[Cell]) -> str:
    """Table 4: every seed, and AlphaDecay's t-test against each other method."""
    rows, texts = {str(cell.labels["method"]): cell for cell in cells}, {}
    for name, cell in rows.items():
        values = cell.values(PERPLEXITY.shown)
        texts[name] = [
            f"{values[seed]:.2f}" if seed in values else "failed" if seed in cell.results else NOT_MADE
            for seed in cell.names
        ]
    seeds = [f"seed {seed}" for seed in next(iter(rows.values())).names]
    ours, means = rows[OURS], column(rows)
    tests = {name: "" if cell is ours else outcome(compare_cells(ours, cell, PERPLEXITY))
             for name, cell in rows.items()}  # fmt: skip
    return table(
        ("method", *seeds, "mean ± std", "AlphaDecay is"),
        [[name, *texts[name], means[name], tests[name]] for name in rows],
    )


def equal_mean(book: Book, suite: str, scale: str) -> str:
    """Uniform, AlphaDecay and its reverse at the same mean decay, and how much more the plain AlphaDecay decays."""
    cells = book.cells[suite, scale]
    rates = settings(cells, "weight decay")
    columns = [column(_methods(cells, rate), against="Uniform") for rate in rates]
    rows = [[name, *(texts[name] for texts in columns)] for name in columns[0]]
    plain = [_plain(book, scale, rate) for rate in rates]
    rows.append(["AlphaDecay as in the paper", *(number(cell) if cell else NOT_MADE for cell in plain)])
    ratios = [_mean_ratio(cell) for cell in plain]
    rows.append(["its mean decay / base rate", *(NOT_MADE if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
    return table(("method", *(f"decay {rate:g}" for rate in rates)), rows)


def mean_of_weights(book: Book, scale: str) -> str:
    """What equal means over modules are over weights, of which some modules have more."""
    cells, means = book.cells["equal-mean", scale], []
    for name in settings(cells, "method"):
        made = [result for cell in cells if cell.labels["method"] == name for result in cell.finished.values()]
        ratios = [mean_ratio(result, of_weights=True) for result in made if result.refreshes]
        if ratios:
            means.append(f"{name} {sum(ratios) / len(ratios):.2f}")
    return f"Mean over weights instead of modules, over the base rate: {', '.join(means)}." if means else ""


def equal_mean_over_seeds(book: Book, scale: str) -> str:
    """Uniform, AlphaDecay and its reverse at the same mean decay, with many seeds at one decay."""
    texts = column(_methods(book.cells["equal-mean-seeds", scale]), against="Uniform")
    return table(("method", "perplexity"), texts.items())


def equal_mean_in_a_line(book: Book, suite: str, scale: str) -> str:
    """AlphaDecay with mean 1 against Uniform and against its reverse, at each decay."""
    return " ".join(
        f"AlphaDecay with mean 1 against {rival}: "
        f"{'; '.join(f'{outcome(comparison)} at decay {rate:g}' for rate, comparison in found.items())}."
        for rival, found in _at_equal_mean(book, suite, scale).items()
    )


def sweep_steps(cells: Sequence[Cell]) -> str:
    """Validation loss by length of the run and decay."""
    rates, lengths = settings(cells, "weight decay"), settings(cells, "steps")
    rows = []
    for length in lengths:
        row = {rate: with_labels(cells, steps=length, weight_decay=rate) for rate in rates}
        best = best_of([cell for cell in row.values() if cell], PERPLEXITY)
        texts = [number(cell) if cell else NOT_MADE for cell in row.values()]
        bold = [f"**{text}**" if cell and cell is best else text
                for text, cell in zip(texts, row.values(), strict=True)]  # fmt: skip
        rows.append([f"{length:g}", *bold])
    return table(("steps", *(f"decay {rate:g}" for rate in rates)), rows)


def sweep_vision(cells: Sequence[Cell]) -> str:
    """Accuracy by decay, in one row."""
    texts = column({f"decay {cell.labels['weight decay']:g}": cell for cell in cells}, ACCURACY)
    return table(("", *texts), [["accuracy", *texts.values()]])


def methods_by_decay_in_a_line(book: Book, suite: str, scale: str, tuned: str, measure: Measure) -> str:
    """The best method of each column, and how AlphaDecay does against Uniform over all of them."""
    cells = book.cells[suite, scale]
    columns = {f"at decay {rate:g}": _methods(cells, rate) for rate in settings(cells, "weight decay")}
    if tuned and len(methods := _methods(book.cells[tuned, scale])) == len(METHODS):
        columns["tuned"] = methods
    best = {name: best_of(methods.values(), measure) for name, methods in columns.items()}
    names = ", ".join(f"{cell.labels['method']} {name}" for name, cell in best.items() if cell)
    found = [compare_cells(methods[OURS], methods["Uniform"], measure)
             for methods in columns.values() if {OURS, "Uniform"} <= methods.keys()]  # fmt: skip
    return f"Best: {names}. Against Uniform, AlphaDecay is {_tally(found, measure)}."


def _methods(cells: Iterable[Cell], rate: str | float | None = None) -> dict[str, Cell]:
    """Places by method, at one decay if they have several."""
    return {
        str(cell.labels["method"]): cell for cell in cells if rate is None or cell.labels.get("weight decay") == rate
    }


def _chosen(cell: Cell) -> str:
    """The learning rate and the decay of the runs of a cell."""
    if not cell.results:
        return ""
    optimizer = next(iter(cell.results.values())).settings["optimizer"]
    decay = "" if optimizer["method"] == "none" else f", decay {optimizer['weight_decay']:g}"
    return f"lr {optimizer['learning_rate']:g}{decay}"


def _plain(book: Book, scale: str, rate: str | float) -> Cell | None:
    """AlphaDecay as in the paper, from the table of the ablations' coupling."""
    suite = TABLES[SCALES[scale].main][0]
    return with_labels(book.cells[suite, scale], method=OURS, weight_decay=rate)


def _mean_ratio(cell: Cell | None) -> float | None:
    """Mean over seeds of a run's mean decay over its base rate."""
    ratios = [mean_ratio(result) for result in cell.finished.values()] if cell else []
    return sum(ratios) / len(ratios) if ratios else None


def _tally(comparisons: Iterable[Comparison | None], measure: Measure = PERPLEXITY) -> str:
    """How often the first setting wins, in words."""
    words = Counter("not made" if found is None else verdict(found, measure) for found in comparisons)
    parts = [
        ("better in", words["better"]),
        ("worse in", words["worse"]),
        ("not told apart in", words["not told apart"] + words["the same"]),
        ("not tested in", words["not tested"] + words["not made"]),
    ]
    return f"{', '.join(f'{name} {count}' for name, count in parts if count)} of {words.total()}"


def _at_equal_mean(book: Book, suite: str, scale: str) -> dict[str, dict[str | float, Comparison | None]]:
    """AlphaDecay with mean 1 against Uniform and against its reverse, by decay."""
    cells = book.cells[suite, scale]
    by_rate = {rate: _methods(cells, rate) for rate in settings(cells, "weight decay")}
    return {
        words: {rate: compare_cells(methods["AlphaDecay, mean 1"], methods[rival], PERPLEXITY)
                for rate, methods in by_rate.items()}
        for words, rival in (("Uniform", "Uniform"), ("its reverse", "AlphaDecay reversed, mean 1"))
    }  # fmt: skip
