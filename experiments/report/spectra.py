"""Figure 2: spectra of the modules of two runs, and their power-law fits."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.report import figures
from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.text import with_labels
from experiments.style import draw_spectrum
from experiments.suites.results import Result

_ALPHA, _SPECTRUM = "alpha/", "spectrum/"
_SHOWN = (0, 1 / 3, 2 / 3, 1)
"""Which spectra a panel has, by their place between the heaviest tail and the lightest."""


def section() -> Section:
    """Figure 2."""
    return Section(
        "Figure 2: spectra and their power-law fits",
        "After the last step, with Adam. Marks: the share of eigenvalues that are at least so large; lines: the fits, "
        "whose slope is 1 - alpha. Of each run the heaviest tail, the lightest, and two between.",
        "figure-2",
        _part,
    )


def alphas_of(result: Result) -> dict[str, float]:
    """Alpha of every module, from the heaviest tail to the lightest."""
    found = {name: curve.values[0] for name, curve in result.curve.items() if name.startswith(_ALPHA)}
    alphas = {name.removeprefix(_ALPHA): alpha for name, alpha in found.items() if alpha is not None}
    return dict(sorted(alphas.items(), key=lambda item: item[1]))


def _part(book: Book, scale: str) -> Part:
    cells = {method: with_labels(book.cells["figure-2", scale], method=method) for method in ("Uniform", "AlphaDecay")}
    runs = {method: next(iter(cell.finished.values())) for method, cell in cells.items() if cell and cell.finished}
    if not runs:
        return Part("Both of its runs have failed.")
    spans = []
    for method, run in runs.items():
        alphas = alphas_of(run)
        (first, low), *_, (last, high) = alphas.items()
        spans.append(f"{method}: {low:.2f} (`{first}`) to {high:.2f} (`{last}`)")
    return Part(f"Alpha, {'; '.join(spans)}.", draw=functools.partial(draw, runs))


def draw(runs: Mapping[str, Result]) -> Figure:
    """A panel for each run, with four of its spectra."""
    figure = Figure(figsize=(figures.WIDTH, 4), layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, run) in zip(panels, runs.items(), strict=True):
        ranked = list(alphas_of(run).items())
        for index, quantile in enumerate(_SHOWN):
            name, alpha = ranked[round(quantile * (len(ranked) - 1))]
            draw_spectrum(axes, np.array(run.curve[_SPECTRUM + name].values, np.float64), alpha, name, index)
        axes.set_title(method)
        axes.legend(loc="upper right", fontsize="small")
    panels[0].set_ylabel("share of eigenvalues at least so large")
    figure.supxlabel("eigenvalue of W Wᵀ / median eigenvalue", fontsize="medium")
    return figure
