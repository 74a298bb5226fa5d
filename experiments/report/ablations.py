"""Figures 4 to 9: AlphaDecay with other settings, at each of the paper's three base rates."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from experiments.report import figures
from experiments.report.data import Book, mean_ratio
from experiments.report.parts import Part
from experiments.report.statistics import PERPLEXITY, Cell, best_of
from experiments.report.text import column, number, p_value, settings, table, with_labels
from experiments.style import COLOURS
from experiments.suites.identity import name_of
from experiments.suites.inference import SIGNIFICANCE, Contrast, contrast, holm
from experiments.suites.paper import ablated
from experiments.suites.scales import SCALES, base_config

WORDS = {
    "linear": "linear",
    "sqrt": "square root",
    "log2": "logarithm",
    "sigmoid": "sigmoid in each block",
    "pl_alpha_hill": "alpha of the power law",
    "grad_norm": "norm of the gradient",
    "frobenius_norm": "Frobenius norm",
    "spectral_norm": "spectral norm",
    "stable_rank": "stable rank",
    "median": "median",
    "fix_finger": "fix-finger",
    "goodness_of_fit": "goodness of fit",
}
"""Settings of the ablations; others are shown as they are."""
UNIFORM = "Uniform decay"
MOST_NOTES = 8
"""Incomplete settings are named up to this number, and counted beyond."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The cells of one figure at one scale, by base rate and setting."""

    rates: tuple[float, ...]
    base: str
    """The setting that the others are held against, in words: the paper's, but for the steps between refreshes."""
    cells: Mapping[float, Mapping[str, Cell]]
    """By base rate, then by setting in words; uniform decay at that rate is the last, if it was made."""

    @property
    def rows(self) -> list[str]:
        """The settings, and uniform decay, top down."""
        return list(dict.fromkeys(name for cells in self.cells.values() for name in cells))

    def contrasts(self) -> dict[tuple[float, str], tuple[Contrast, float]]:
        """Each setting minus the base one at the same rate, and its p, corrected over all of the figure by Holm."""
        pairs = {(rate, name): (cell.values("loss"), self.cells[rate][self.base].values("loss"))
                 for rate in self.rates for name, cell in self.cells[rate].items() if name != self.base}  # fmt: skip
        found = {key: contrast(*pair) for key, pair in pairs.items() if pair[0].keys() & pair[1].keys()}
        corrected = holm([each.p for each in found.values()])
        return {key: (each, p) for (key, each), p in zip(found.items(), corrected, strict=True)}


def part_of(suite: str, *, timed: bool = False) -> Callable[[Book, str], Part]:
    """What figures 5 to 9 show at a scale.

    Args:
        suite: The figure's.
        timed: Whether the time of a run is told, too.
    """

    def part(book: Book, scale: str) -> Part:
        ablation = _read(book, suite, scale)
        line = f"{_in_a_line(ablation)} {_seconds(ablation) if timed else ''}".strip()
        texts = (_table(ablation), missing(book.cells[suite, scale]))
        return Part(line, "\n".join(text for text in texts if text), functools.partial(draw, ablation))

    return part


def decays(book: Book, scale: str) -> Part:
    """Figure 4: perplexity and alpha against the decay rate."""
    cells = book.cells["figure-4", scale]
    lowest = []
    for method in settings(cells, "method"):
        if best := best_of((cell for cell in cells if cell.labels["method"] == method), PERPLEXITY):
            lowest.append(f"{method} {number(best)} at decay {best.labels['weight decay']:g}")
    line = f"Lowest perplexity: {', '.join(lowest)}."
    return Part(line, missing(cells), functools.partial(figures.draw_decays, cells))


def _read(book: Book, suite: str, scale: str) -> Ablation:
    cells = book.cells[suite, scale]
    base = base_config(SCALES[scale])
    names = {name_of(ablated(base, SCALES[scale], decay, base.seed)) for decay in SCALES[scale].ablations.decays}
    by_rate: dict[float, dict[str, Cell]] = {}
    chosen = ""
    for cell in cells:
        by_rate.setdefault(float(cell.labels["weight decay"]), {})[_words(cell)] = cell
        chosen = _words(cell) if names & set(cell.names.values()) else chosen
    for rate, of_rate in by_rate.items():
        uniform = with_labels(book.cells["figure-4", scale], method="Uniform", weight_decay=rate)
        if uniform and uniform.finished:
            of_rate[UNIFORM] = uniform
    return Ablation(tuple(by_rate), chosen, by_rate)


def _in_a_line(ablation: Ablation) -> str:
    """Which settings are told apart from the base one, and in which direction."""
    told: dict[str, list[str]] = {"better": [], "worse": []}
    found = ablation.contrasts()
    for (rate, name), (each, p) in found.items():
        if p < SIGNIFICANCE and name != UNIFORM:
            told["better" if each.mean < 0 else "worse"].append(f"{name} at {rate:g} ({each.mean:+.3f} nats)")
    tested = sum(not math.isnan(p) for (_, name), (_, p) in found.items() if name != UNIFORM)
    verdicts = [f"{word}: {', '.join(names)}" for word, names in told.items() if names]
    seeds = max((each.n for each, _ in found.values()), default=0)
    return (
        f"Against the base setting, {ablation.base}, {tested} comparisons of {seeds} seeds each: "
        f"{'; '.join(verdicts) or 'none is told apart'}."
    )


def _table(ablation: Ablation) -> str:
    """Settings down, base rates across: perplexity, the mean decay over the base rate, p against the base setting."""
    found = ablation.contrasts()
    texts = {rate: column(ablation.cells[rate]) for rate in ablation.rates}

    def text(rate: float, name: str) -> str:
        if name not in texts[rate]:
            return "not made"
        each = found.get((rate, name))
        p = f"<br>{each[0].mean:+.3f}, {p_value(each[1])}" if each and not math.isnan(each[1]) else ""
        return texts[rate][name].replace(" †", "") + p

    rows = [[_name_of_row(name, ablation), _strength(ablation, name), *(text(rate, name) for rate in ablation.rates)]
            for name in ablation.rows]  # fmt: skip
    return table(["setting", "mean decay", *(f"base rate {rate:g}" for rate in ablation.rates)], rows)


def _name_of_row(name: str, ablation: Ablation) -> str:
    return f"{name} (base)" if name == ablation.base else name


def _strength(ablation: Ablation, name: str) -> str:
    """The mean over modules of the decay over the base rate, of the first run of each rate."""
    firsts = [next(iter(cell.finished.values()), None) for cells in ablation.cells.values()
              for key, cell in cells.items() if key == name]  # fmt: skip
    ratios = [mean_ratio(first) for first in firsts if first]
    return f"x {sum(ratios) / len(ratios):.2f}" if ratios else ""


def _seconds(ablation: Ablation) -> str:
    seconds = {
        name: [result.training_seconds for result in cell.finished.values() if result.training_seconds is not None]
        for name, cell in ablation.cells[ablation.rates[0]].items()
        if name != UNIFORM
    }
    fastest = [f"{min(found):.1f} ({name})" for name, found in seconds.items() if found]
    return f"Seconds in steps at {ablation.rates[0]:g}, fastest seed: {', '.join(fastest)}."


def draw(ablation: Ablation) -> Figure:
    """A panel for each base rate: the loss of each setting minus that of the base one, with its 95 % interval."""
    rows = [name for name in ablation.rows if name != ablation.base]
    figure = Figure(figsize=(figures.WIDTH, 1.3 + 0.36 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(ablation.rates), sharex=True, sharey=True, squeeze=False)[0]
    found = ablation.contrasts()
    for axes, rate in zip(panels, ablation.rates, strict=True):
        axes.axvline(0, color="black", linewidth=1)
        for row, name in enumerate(rows):
            if (rate, name) in found:
                each, p = found[rate, name]
                colour = COLOURS[5] if p < SIGNIFICANCE else COLOURS[0]
                if math.isfinite(each.low):
                    axes.plot([each.low, each.high], [row, row], color=colour, linewidth=2.5)
                axes.plot([each.mean], [row], "s" if name == UNIFORM else "o", color=colour, markersize=6)
        axes.set_title(f"base rate {rate:g}")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"validation loss minus that of {ablation.base}, in nats; negative is better", fontsize="medium")
    return figure


def missing(cells: Sequence[Cell]) -> str:
    """What a figure cannot show: cells with fewer runs than planned; empty if there are none."""
    notes = []
    for cell in cells:
        if len(cell.finished) < len(cell.names):
            labels = [f"{name} {WORDS.get(str(value), value)}" for name, value in cell.labels.items()]
            notes.append(f"{', '.join(labels)}: {number(cell)}")
    if len(notes) > MOST_NOTES:
        return f"Incomplete: {len(notes)} of {len(cells)} settings lack runs."
    return f"Incomplete: {'; '.join(notes)}." if notes else ""


def _words(cell: Cell) -> str:
    """The label that an ablation varies, in words."""
    label, value = next(item for item in cell.labels.items() if item[0] != "weight decay")
    return WORDS.get(value, value) if isinstance(value, str) else f"{label} {value:g}"
