"""Corrected decay in the report: norms against their predictions, grids, momenta, AlphaDecay on top, and time."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.statistics import PERPLEXITY, Cell, best_of, compare_cells, summarise
from experiments.report.text import NOT_MADE, number, outcome, p_value, settings, table, with_labels
from experiments.style import COLOURS, MARKERS
from experiments.suites.inference import contrast
from experiments.suites.results import Result

CORRECTED = ("adamc", "scionc")
_NOTHING = (np.zeros(0), np.zeros(0))
SHOWN_AT = (1, 100, 200, 300, 400)
_PANELS = (
    ("weight_l2", "weights, l2"),
    ("weight_spectral", "weights, spectral"),
    ("gradient_l2", "gradient, l2"),
    ("gradient_spectral", "gradient, spectral"),
)


def curve(result: Result, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A number over a run: steps `[n]`, and values `[n]`, NaN where not finite; empty if it was not measured."""
    found = result.curve.get(name)
    if found is None:
        return _NOTHING
    return np.array(found.steps, np.float64), np.array([np.nan if v is None else v for v in found.values], np.float64)


def mean_curve(cell: Cell, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same, averaged over the seeds that have it."""
    curves = [curve(result, name) for result in cell.finished.values()]
    curves = [(steps, values) for steps, values in curves if len(steps)]
    if not curves:
        return _NOTHING
    return curves[0][0], np.mean([values for _, values in curves], axis=0)


def predicted_path(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """The l2 norm of a module's weights that theory gives at every step, from the first one's on.

    The square obeys `s <- (1 - gamma lambda)^2 s + gamma^2 ||u||^2 (2 - a) / a`, with the run's own rates and its
    measured `||u||`; updates are taken for independent of the weights, and for linear in the momentum. Weights and
    updates are geometric means over modules.
    """
    measured, weights = curve(result, "norms/mean/weight_l2")
    if not len(measured):
        return measured, weights
    steps = np.arange(1, result.steps + 1)
    updates_at, updates = curve(result, "norms/mean/update_l2")
    good = np.isfinite(updates)
    rates = np.interp(steps, *curve(result, "train/learning_rate"))
    updates = np.interp(steps, updates_at[good], updates[good])
    optimizer = result.settings["optimizer"]
    share = optimizer["momentum"] if "momentum" in optimizer else 1 - optimizer["b1"]
    coefficients = np.full(len(steps), optimizer["weight_decay"])
    if optimizer["method"] in CORRECTED:
        coefficients = coefficients * rates / optimizer["learning_rate"]
    squares = [weights[0] ** 2]
    for rate, coefficient, update in zip(rates, coefficients, updates, strict=True):
        squares.append((1 - rate * coefficient) ** 2 * squares[-1] + (rate * update) ** 2 * (2 - share) / share)
    return steps, np.sqrt(squares[:-1])


def draw_norms(cells: Sequence[Cell]) -> Figure:
    """Norms over steps, means over seeds of geometric means over modules; dashed: what theory gives for weights."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    for axes, (field, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for index, cell in enumerate(cells):
            steps, values = mean_curve(cell, f"norms/mean/{field}")
            axes.plot(steps, values, color=COLOURS[index], marker=MARKERS[index], markersize=3,
                      label=str(cell.labels["method"]))  # fmt: skip
            if field == "weight_l2" and cell.finished:
                path = predicted_path(next(iter(cell.finished.values())))
                axes.plot(*path, "--", color=COLOURS[index], linewidth=1)
        axes.set(title=title, xlabel="step", yscale="log")
    axes.legend()
    return figure


def _norms(book: Book, scale: str) -> Part:
    cells = book.cells["correction-norms", scale]
    rows = []
    for cell in cells:
        measured = sum("norms/mean/weight_l2" in result.curve for result in cell.finished.values())
        name = f"{cell.labels['method']} (n = {measured})"
        for field, words in (
            ("weight_l2", "weights"),
            ("steady_state_l2", "weights, steady state"),
            ("gradient_l2", "gradient"),
        ):
            rows.append([f"{name}: {words}", *_at(*mean_curve(cell, f"norms/mean/{field}"))])
        paths = [path for path in map(predicted_path, cell.finished.values()) if len(path[0])]
        steps, values = (paths[0][0], np.mean([path[1] for path in paths], axis=0)) if paths else _NOTHING
        rows.insert(-1, [f"{name}: weights, predicted", *_at(steps, values)])
    head = ("geometric mean over modules, l2", *(f"step {step}" for step in SHOWN_AT))
    line = (
        "`predicted` starts from the first measurement and follows the run's rates and update norms; `steady state` is "
        "where the norm would settle if the rates of that step stayed. At the last step the learning rate is near 0."
    )
    return Part(
        line, table(head, rows), functools.partial(draw_norms, cells) if any(c.finished for c in cells) else None
    )


def _at(steps: np.ndarray, values: np.ndarray) -> list[str]:
    found = dict(zip(steps.astype(int).tolist(), values.tolist(), strict=True))
    return [f"{found[step]:.3g}" if math.isfinite(found.get(step, math.nan)) else "" for step in SHOWN_AT]


def draw_grid(cells: Sequence[Cell]) -> Figure:
    """Validation loss over the peak coefficient."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, methods in zip(figure.subplots(1, 2), (("AdamW", "AdamC"), ("Scion", "ScionC")), strict=True):
        for index, method in enumerate(methods):
            points = [(float(cell.labels["weight decay"]), np.mean(list(cell.values("loss").values())))
                      for cell in cells if cell.labels["method"] == method and cell.values("loss")]  # fmt: skip
            axes.plot(*zip(*points, strict=True) if points else ((), ()), color=COLOURS[index], marker=MARKERS[index],
                      label=method)  # fmt: skip
        axes.set(xscale="log", xlabel="peak coefficient", ylabel="validation loss in nats")
        axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
        axes.minorticks_off()
        axes.legend()
    return figure


def _grid(book: Book, scale: str) -> Part:
    cells, rows, best = book.cells["correction-grid", scale], [], []
    for method in settings(cells, "method"):
        own = [cell for cell in cells if cell.labels["method"] == method]
        chosen = best_of(own, PERPLEXITY)
        for cell in own:
            text = number(cell)
            rows.append([str(method), f"{cell.labels['weight decay']:g}", f"**{text}**" if cell is chosen else text])
        best += [f"{method} {chosen.labels['weight decay']:g}"] if chosen else []
    line = f"Validation perplexity; the best coefficient of each: {', '.join(best)}."
    return Part(line, table(("method", "peak coefficient", "perplexity"), rows), functools.partial(draw_grid, cells))


def _two_by_two(book: Book, scale: str) -> Part:
    cells = book.cells["correction-two-by-two", scale]
    by_place = {(cell.labels["coefficient"], cell.labels["shares"]): cell for cell in cells}
    rows = [[coefficient, *(number(by_place[coefficient, shares]) for shares in ("alike", "by alpha"))]
            for coefficient in ("constant", "corrected")]  # fmt: skip
    gains = {}
    for coefficient in ("constant", "corrected"):
        alike, by_alpha = (by_place[coefficient, shares].values("loss") for shares in ("alike", "by alpha"))
        gains[coefficient] = {seed: by_alpha[seed] - alike[seed] for seed in alike.keys() & by_alpha.keys()}
    shared = gains["constant"].keys() & gains["corrected"].keys()
    line = "Validation perplexity."
    if len(shared) > 1:
        both = contrast(gains["corrected"], gains["constant"])
        line += (
            " What AlphaDecay changes with the corrected coefficient, minus what it changes with the constant one: "
            f"{both.mean:+.4f} nats, 95 % interval {both.low:+.4f} to {both.high:+.4f}, {p_value(both.p)}, "
            f"n = {both.n}."
        )
    return Part(line, table(("coefficient", "all weights alike", "shared out by alpha, mean 1"), rows))


def draw_momenta(cells: Sequence[Cell]) -> Figure:
    """Validation loss over the effective learning rate, a line each momentum."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="peak effective learning rate", ylabel="validation loss in nats")
    for index, momentum in enumerate(settings(cells, "momentum")):
        points = [(float(cell.labels["effective learning rate"]), summary.mean)
                  for cell in cells if cell.labels["momentum"] == momentum
                  and (summary := summarise(cell.values("loss")))]  # fmt: skip
        if points:
            axes.plot(
                *zip(*points, strict=True), color=COLOURS[index], marker=MARKERS[index], label=f"a = {momentum:g}"
            )
    axes.legend()
    return figure


def _momenta(book: Book, scale: str) -> Part:
    cells = book.cells["momentum-transfer", scale]
    rates, rows, best = settings(cells, "effective learning rate"), [], []
    for momentum in settings(cells, "momentum"):
        own = {rate: with_labels(cells, momentum=momentum, effective_learning_rate=rate) for rate in rates}
        chosen = best_of([cell for cell in own.values() if cell], PERPLEXITY)
        texts = [number(cell) if cell else NOT_MADE for cell in own.values()]
        bold = [f"**{text}**" if cell is chosen else text for text, cell in zip(texts, own.values(), strict=True)]
        rows.append([f"a = {momentum:g}", *bold])
        best += [f"{chosen.labels['effective learning rate']:g} at a = {momentum:g}"] if chosen else []
    line = f"Validation perplexity; the best of each momentum is bold: {', '.join(best)}."
    head = ("momentum", *(f"effective rate {rate:g}" for rate in rates))
    return Part(line, table(head, rows), functools.partial(draw_momenta, cells))


def _equal_seconds(book: Book, scale: str) -> Part:
    cells, rows = book.cells["equal-seconds", scale], []
    for cell in cells:
        results = list(cell.finished.values())
        seconds = [result.cpu_seconds for result in results if result.cpu_seconds is not None]
        steps = {result.steps for result in results}
        rows.append([str(cell.labels["method"]), number(cell), ", ".join(map(str, steps)) or NOT_MADE,
                     f"{np.median(seconds):.1f}" if seconds else NOT_MADE])  # fmt: skip
    scion = cells[0] if cells else None
    lines = [f"Scion against {cell.labels['method']}: {outcome(compare_cells(scion, cell, PERPLEXITY))}."
             for cell in cells[1:] if scion]  # fmt: skip
    return Part(" ".join(lines), table(("", "perplexity", "steps", "CPU seconds, median"), rows))


SECTIONS = (
    Section(
        "Corrected decay: norms over training",
        "Corrected decay is to hold weight norms steady, and with them gradient norms. Geometric means over the 21 "
        "modules, then means over seeds.",
        "correction-norms",
        _norms,
    ),
    Section(
        "Corrected decay: peak coefficients",
        "A corrected coefficient takes less away over a run than a constant one of the same peak: its grid is as wide, "
        "and 1.35 times higher (4/3 without warm-up).",
        "correction-grid",
        _grid,
    ),
    Section(
        "Corrected decay and AlphaDecay, two by two",
        "AdamW. The corrected peak is the tuned AdamC's, the constant coefficient the tuned AdamW's; AlphaDecay's "
        "ratios have a mean of 1 over modules, so that a row has one mean decay.",
        "correction-two-by-two",
        _two_by_two,
    ),
    Section(
        "Corrected decay: momentum and the learning rate",
        "Scion at four momenta a. If what counts is gamma sqrt((2 - a) / a), the best one is the same for all. The "
        "peak of gamma times the coefficient is the same throughout.",
        "momentum-transfer",
        _momenta,
    ),
    Section(
        "Scion against AdamW in time",
        "Both tuned as above. CPU seconds of one core count compiling and validating; other work ran on the machine.",
        "equal-seconds",
        _equal_seconds,
    ),
)
