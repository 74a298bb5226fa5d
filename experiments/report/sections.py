"""The report's tables and figures: where each gets its runs, and what it shows in a line."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.report import ablations, correction, figures, spectra, tables
from experiments.report.data import Book, first_and_last_agree, last_refresh, mean_ratio
from experiments.report.parts import Part, Section
from experiments.report.plasticity import comparison, inside, rates
from experiments.report.published import refresh_seconds
from experiments.report.statistics import ACCURACY, PERPLEXITY, Measure, best_of, compare_cells
from experiments.report.text import LEGEND, outcome, settings, with_labels
from experiments.suites.results import Result

P_LEGEND = (
    "p: AlphaDecay and the method, t-test paired by seed. Best tuned: each method with the learning rate and decay of "
    "its lowest loss in the sweep, whose one seed is the first of these: a little too good for all of them."
)
ABLATION = (
    "AlphaDecay with Adam and other settings, at three base rates and the learning rate that is best here. Mean decay: "
    "of the modules, over the base rate; it differs between settings. Under each perplexity: the loss minus that of "
    "the base setting at this rate, paired by seed, and its p, corrected over the whole figure by Holm's method. Red: "
    "p < 0.05. Bold: the lowest of a column."
)
SWEEP = (
    "Validation loss of one seed; framed: the lowest with a decay, which the column best tuned repeats over seeds. "
    "Column 0 is the same in all maps: no decay."
)


def _by_decay(suite: str, tuned: str = "", measure: Measure = PERPLEXITY) -> Callable[[Book, str], Part]:
    """Tables 2, 3 and 5."""
    return lambda book, scale: Part(
        tables.methods_by_decay_in_a_line(book, suite, scale, tuned, measure),
        tables.methods_by_decay(book, suite, scale, tuned, measure),
    )


def _by_seed(book: Book, scale: str) -> Part:
    cells = book.cells["table-4", scale]
    ours, uniform = (with_labels(cells, method=method) for method in ("AlphaDecay", "Uniform"))
    compared = compare_cells(ours, uniform, PERPLEXITY) if ours and uniform else None
    best = best_of(cells, PERPLEXITY)
    line = f"Best mean: {best.labels['method'] if best else 'none'}. AlphaDecay against Uniform: {outcome(compared)}."
    return Part(line, tables.methods_by_seed(cells))


def _equal_mean(book: Book, scale: str) -> Part:
    line = f"{tables.equal_mean_in_a_line(book, 'equal-mean', scale)} {tables.mean_of_weights(book, scale)}"
    return Part(line, tables.equal_mean(book, "equal-mean", scale))


def _equal_mean_over_seeds(book: Book, scale: str) -> Part:
    line = tables.equal_mean_in_a_line(book, "equal-mean-seeds", scale)
    return Part(line, tables.equal_mean_over_seeds(book, scale))


def _structure(draw: Callable[[Any, Any], Figure], suite: str) -> Callable[[Book, str], Part]:
    """Figures 1 and 3."""

    def part(book: Book, scale: str) -> Part:
        runs = [with_labels(book.cells[suite, scale], method=method) for method in ("Uniform", "AlphaDecay")]
        uniform, ours = (next(iter(cell.finished.values()), None) if cell else None for cell in runs)
        if uniform is None or ours is None:
            return Part("One of its two runs has failed.")
        alphas = [reading.score for reading in last_refresh(uniform)]
        kinds = sorted(by_kind := _means_by_kind(uniform), key=lambda kind: -by_kind[kind])
        line = (
            f"Under uniform decay alpha is {np.nanmin(alphas):.2f} to {np.nanmax(alphas):.2f} at the last refresh, "
            f"highest (lightest tail) in `{kinds[0]}` and lowest in `{kinds[-1]}` on average; over modules it "
            f"correlates with alpha before the first step by {first_and_last_agree(uniform):.2f}. AlphaDecay's mean "
            f"decay over the run is {mean_ratio(ours):.2f} times its base rate."
        )
        return Part(line, draw=functools.partial(draw, uniform, ours))

    return part


def _means_by_kind(result: Result) -> dict[str, float]:
    """Mean alpha of each type of module at the last refresh."""
    readings = last_refresh(result)
    return {
        kind: float(np.nanmean([reading.score for reading in readings if reading.kind == kind]))
        for kind in {reading.kind: None for reading in readings}
    }


def _sweep(suite: str) -> Callable[[Book, str], Part]:
    def part(book: Book, scale: str) -> Part:
        cells, best = book.cells[suite, scale], []
        for method in settings(cells, "method"):
            of_method = [cell for cell in cells if cell.labels["method"] == method]
            if cell := best_of(of_method, PERPLEXITY):
                loss, labels = next(iter(cell.values("loss").values())), cell.labels
                best.append(
                    (loss, f"{method} {loss:.3f} (lr {labels['learning rate']:g}, decay {labels['weight decay']:g})")
                )
        line = f"Lowest validation loss of each method, one seed: {', '.join(text for _, text in sorted(best))}."
        return Part(line, ablations.missing(cells), functools.partial(figures.draw_sweep, cells))

    return part


def _steps(book: Book, scale: str) -> Part:
    line = "Validation perplexity of uniform decay; the best decay of each length is bold. One seed."
    return Part(line, tables.sweep_steps(book.cells["sweep-steps", scale]))


def _vision_sweep(book: Book, scale: str) -> Part:
    line = "Top-1 accuracy in percent of uniform decay with Adam; the best is bold. One seed."
    return Part(line, tables.sweep_vision(book.cells["sweep-vision", scale]))


FURTHER = (*correction.SECTIONS, comparison.section(), inside.section(), rates.section())
"""What is neither a question nor of the paper."""
SECTIONS = (
    *FURTHER,
    Section("Table 2: five methods at three decays, Adam", f"Validation perplexity. {LEGEND} {P_LEGEND}", "table-2",
            _by_decay("table-2", "tuned-adam"), tuned=("sweep-adam", "tuned-adam")),
    Section("Table 3: five methods at three decays, AdamW", f"Validation perplexity. {LEGEND} {P_LEGEND}", "table-3",
            _by_decay("table-3", "tuned-adamw"), tuned=("sweep-adamw", "tuned-adamw")),
    Section("Table 4: five methods over seeds", f"Validation perplexity at the base decay. {LEGEND}", "table-4",
            _by_seed),
    Section(
        "Equal mean decay",
        "AlphaDecay applies more decay than its base rate says. Here its ratios are divided by their mean, so that "
        f"only who gets how much differs from Uniform; reversed, heavy tails get the most. {LEGEND} "
        "p is against Uniform.",
        "equal-mean", _equal_mean,
    ),
    Section("Equal mean decay, with more seeds", f"The same at one decay, to see smaller differences. {LEGEND} p is "
            "against Uniform.", "equal-mean-seeds", _equal_mean_over_seeds),
    Section("Table 5: vision", f"Top-1 accuracy in percent. {LEGEND} p: AlphaDecay and the method.", "table-5",
            _by_decay("table-5", measure=ACCURACY)),
    Section("Figure 1: alpha and decay by type of module", "One mark a module, a bar at the mean of each type; last "
            "refresh of one run each.", "figure-1", _structure(figures.draw_types, "figure-1")),
    spectra.section(),
    Section("Figure 3: alpha and decay by layer", "Bright is high; last refresh of one run each.", "figure-3",
            _structure(figures.draw_layers, "figure-3")),
    Section("Figure 4: perplexity and alpha against the decay rate", "Error bars: standard deviation over seeds. "
            "Alphas are those of the last refresh. Adam, at the learning rate that is best here.", "figure-4",
            ablations.decays),
    Section("Figure 5: assignment functions", f"How scores become decay rates. {ABLATION}", "figure-5",
            ablations.part_of("figure-5")),
    Section("Figure 6: what to measure on a module", f"The score that decay follows. {ABLATION}", "figure-6",
            ablations.part_of("figure-6")),
    Section("Figure 7: power-law fits", f"How alpha is read off a spectrum. {ABLATION}", "figure-7",
            ablations.part_of("figure-7"), after=refresh_seconds),
    Section("Figure 8: steps between refreshes", f"A gap longer than the run means one refresh at its start. Times are "
            "of the training steps, without compiling and validating; other work ran on the machine, and "
            f"benchmarks/results.md has the cost of a refresh. {ABLATION}",
            "figure-8", ablations.part_of("figure-8", timed=True)),
    Section("Figure 9: scaling ranges", f"The ratios (s1, s2) of the heaviest and the lightest tail. {ABLATION}",
            "figure-9", ablations.part_of("figure-9")),
    Section("Sweep: learning rate and decay, Adam", SWEEP, "sweep-adam", _sweep("sweep-adam")),
    Section("Sweep: learning rate and decay, AdamW", SWEEP, "sweep-adamw", _sweep("sweep-adamw")),
    Section("Sweep: decay of the Vision Transformer", "The network and the steps of table 5.", "sweep-vision",
            _vision_sweep),
    Section("Sweep: length of the run", "Half and twice the steps.", "sweep-steps", _steps),
)  # fmt: skip
