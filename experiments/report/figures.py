"""Draws the report's figures, as SVG files that are the same bytes wherever they are drawn from the same results."""
# SPDX-License-Identifier: Apache-2.0

import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.report.data import Reading, last_refresh
from experiments.report.statistics import PERPLEXITY, Cell, Summary, summarise
from experiments.report.text import settings, with_labels
from experiments.style import COLOURS, MARKERS, STYLE
from experiments.suites.results import Result

WIDTH = 9.0
"""Inches; about as wide as GitHub shows a file."""
MOST_NUMBERS = 12
"""Heat maps with more columns have no numbers in their texts."""
SEED_COLOUR = "#999999"
_SVG: dict[Any, Any] = {"svg.hashsalt": "optax-alphadecay", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
# Hundredths of a point are enough, and last digits may differ between processors.
_LONG_NUMBER = re.compile(r"(?<!scale\()(?<![\d.])-?\d+\.\d{3,}")
_INDENT = re.compile(r"\n +(?=<)")


def save(draw: Callable[[], Figure], path: pathlib.Path) -> None:
    """Draws a figure under the settings of this report alone, and writes it as SVG without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, **_SVG})
        text = io.StringIO()
        draw().savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    rounded = _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", text.getvalue())
    path.write_text(_INDENT.sub("\n", rounded))


def draw_types(uniform: Result, ours: Result) -> Figure:
    """Figure 1: alpha of every module by its type, and its share of the decay; a line at the mean of each type."""
    figure, axes = _side_by_side(3.4)
    panels = (
        (axes[0], "Alpha under uniform decay", "alpha", [(r.kind, r.score) for r in last_refresh(uniform)]),
        (axes[1], "Decay under AlphaDecay", "decay / base rate", [(r.kind, r.ratio) for r in last_refresh(ours)]),
    )
    for panel, title, label, values in panels:
        kinds = list(dict.fromkeys(kind for kind, _ in values))
        for row, kind in enumerate(kinds):
            of_kind = [value for name, value in values if name == kind]
            colour, marker = COLOURS[row % len(COLOURS)], MARKERS[row % len(MARKERS)]
            panel.plot(of_kind, [row] * len(of_kind), marker, color=colour, markersize=6, alpha=0.7)
            panel.plot([np.nanmean(of_kind)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2.5)
        _name_rows(panel, kinds)
        panel.set(title=title, xlabel=f"{label} (one mark a module)")
    return figure


def draw_layers(uniform: Result, ours: Result) -> Figure:
    """Figure 3: alpha, and the share of the decay, of every module: types down, layers across."""
    figure, axes = _side_by_side(3.4)
    panels: tuple[tuple[Axes, str, list[Reading], Callable[[Reading], float]], ...] = (
        (axes[0], "Alpha under uniform decay", last_refresh(uniform), lambda reading: reading.score),
        (axes[1], "Decay / base rate, AlphaDecay", last_refresh(ours), lambda reading: reading.ratio),
    )
    for panel, title, readings, value in panels:
        kinds = list(dict.fromkeys(reading.kind for reading in readings))
        values = np.full((len(kinds), 1 + max(reading.block for reading in readings)), np.nan)
        for reading in readings:
            values[kinds.index(reading.kind), reading.block] = value(reading)
        _heat_map(panel, values, "{:.2f}")
        _name_rows(panel, kinds)
        panel.set(title=title, xlabel="layer")
        panel.xaxis.set_major_locator(MaxNLocator(MOST_NUMBERS, integer=True))
    return figure


def draw_decays(cells: Sequence[Cell]) -> Figure:
    """Figure 4: perplexity against the decay rate, and below it the mean and the spread of alpha."""
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    top, mean, spread = figure.subplot_mosaic("AA;BC", height_ratios=[1.25, 1]).values()
    rates = settings(cells, "weight decay")
    panels: tuple[tuple[Axes, str, Callable[[Cell], Summary | None]], ...] = (
        (top, "perplexity", lambda cell: summarise(cell.values(PERPLEXITY.shown))),
        (mean, "mean alpha of the modules", lambda cell: summarise(_alphas(cell, np.nanmean))),
        (spread, "std of alpha over modules", lambda cell: summarise(_alphas(cell, np.nanstd))),
    )
    for panel, label, value in panels:
        for index, method in enumerate(settings(cells, "method")):
            points = [(row, summary) for row, rate in enumerate(rates)
                      if (cell := with_labels(cells, method=method, weight_decay=rate))
                      and (summary := value(cell))]  # fmt: skip
            _points(panel, points, index, f"{method}", offset=0.1 * index - 0.05)
        _name_columns(panel, [f"{rate:g}" for rate in rates])
        panel.set(xlabel="weight decay", ylabel=label)
    top.legend()
    return figure


def draw_sweep(cells: Sequence[Cell]) -> Figure:
    """Validation loss over learning rate and decay: one map a method, its best decay above 0 in a frame."""
    methods = [method for method in settings(cells, "method") if method != "WD=0"]
    rates = sorted(float(rate) for rate in settings(cells, "weight decay"))
    speeds = sorted((float(speed) for speed in settings(cells, "learning rate")), reverse=True)
    maps = np.full((len(methods), len(speeds), len(rates)), np.nan)
    for (index, row, col), _ in np.ndenumerate(maps):
        method = methods[index] if rates[col] else "WD=0"
        cell = with_labels(cells, method=method, weight_decay=rates[col], learning_rate=speeds[row])
        maps[index, row, col] = next(iter(cell.values("loss").values()), np.nan) if cell else np.nan
    limits = (np.nanmin(maps), np.nanquantile(maps, 0.8)) if np.isfinite(maps).any() else (0.0, 1.0)
    figure = Figure(figsize=(WIDTH, 1.2 + 1.1 * len(speeds)), layout="constrained")
    for panel, method, losses in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, methods, maps, strict=False):
        _heat_map(panel, losses, "{:.3f}", limits=limits)
        _frame_best(panel, losses)
        _name_rows(panel, [f"{speed:g}" for speed in speeds])
        panel.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        panel.set_title(method)
    figure.supxlabel("weight decay", fontsize="medium")
    figure.supylabel("learning rate", fontsize="medium")
    return figure


def _alphas(cell: Cell, statistic: Callable[[Any], Any]) -> dict[int, float]:
    """A statistic of the alphas of all modules at the last refresh, by seed."""
    return {
        seed: float(statistic([reading.score for reading in last_refresh(result)]))
        for seed, result in cell.finished.items()
    }


def _points(
    axes: Axes, points: Sequence[tuple[float, Summary]], index: int, label: str | None, offset: float = 0
) -> None:
    """A line through means, with error bars; a series has its own colour and marker."""
    axes.errorbar(
        [x + offset for x, _ in points], [summary.mean for _, summary in points],
        yerr=[summary.std or 0.0 for _, summary in points], label=label,
        color=COLOURS[index], marker=MARKERS[index], markersize=7, capsize=4, linewidth=1.5,
    )  # fmt: skip


def _heat_map(axes: Axes, values: np.ndarray, form: str, limits: tuple[float, float] | None = None) -> None:
    """Cells in shades, dark for low, and their numbers; texts without a number are grey."""
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#dddddd")
    columns, rows = range(values.shape[1]), range(values.shape[0])
    axes.pcolormesh(columns, rows, np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, edgecolors="white")
    axes.grid(visible=False)
    for (row, col), value in np.ndenumerate(values) if len(columns) <= MOST_NUMBERS else ():
        if np.isfinite(value):
            colour = "white" if value < (low + high) / 2 else "black"
            axes.text(col, row, form.format(value), ha="center", va="center", color=colour, fontsize=9)
        else:
            axes.text(col, row, "-", ha="center", va="center")


def _frame_best(axes: Axes, losses: np.ndarray) -> None:
    """A frame around the lowest loss with a decay above 0."""
    if np.isfinite(losses[:, 1:]).any():
        row, col = np.unravel_index(np.nanargmin(losses[:, 1:]), losses[:, 1:].shape)
        frame = Rectangle((col + 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[5], linewidth=3, zorder=3)
        axes.add_patch(frame)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows at 0, 1, 2 ... from the top, each with its name."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    """Columns at 0, 1, 2 ..., each with its name."""
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _side_by_side(height: float) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure with two panels in a row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)
