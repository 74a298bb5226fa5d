"""Draws what is inside a model: accuracy of probes by layer, ranks by head, norms over training."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.finetuning.inside import Inside
from experiments.finetuning.probing import Probe
from experiments.finetuning.ranks import Ranks
from experiments.style import COLOURS, MARKERS, STYLE
from experiments.training.metrics import series

NORM = "norm/"
"""Begins the names of root mean squares of weights in metrics.jsonl."""
MLP = ("gate_proj", "up_proj", "down_proj")


def draw(directory: pathlib.Path, found: Inside, metrics: list[dict[str, float]]) -> list[pathlib.Path]:
    """Draws all figures, as PNG files.

    Args:
        directory: Where to.
        found: What was measured.
        metrics: The pre-training run's metrics.jsonl, read; norms are drawn if it has them.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = {"probes": draw_probes(found.probes, found.majority), "ranks": draw_ranks(found.ranks)}
        if any(name.startswith(NORM) for line in metrics for name in line):
            figures["norms"] = draw_norms(metrics)
        for name, figure in figures.items():
            figure.savefig(directory / f"{name}.png")
    return [directory / f"{name}.png" for name in figures]


def draw_probes(probes: Sequence[Probe], majority: float) -> Figure:
    """Accuracy by layer, on texts trained on and on others."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(title="Linear probes of the last token's state", xlabel="block", ylabel="accuracy")
    layers = [each.layer for each in probes]
    axes.plot(
        layers, [each.accuracy for each in probes], color=COLOURS[0], marker="o", linewidth=2, label="scored split"
    )
    axes.plot(layers, [each.train_accuracy for each in probes], color=COLOURS[4], marker="s", label="train split")
    axes.axhline(majority, color=COLOURS[6], linestyle=":", label="majority class")
    axes.set_xticks(layers)
    axes.legend()
    return figure


def draw_ranks(ranks: Mapping[str, list[list[Ranks]]]) -> Figure:
    """Pseudo-rank of each product by block: one mark a head, a line through the means."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    title = "Pseudo-rank of attention's products, over the width of a head"
    axes = figure.add_subplot(title=title, xlabel="block", ylabel="pseudo-rank")
    for index, (product, blocks) in enumerate(ranks.items()):
        values = np.array([[head.pseudo for head in heads] for heads in blocks])
        colour, marker = COLOURS[index], MARKERS[index]
        for block, heads in enumerate(values):
            axes.plot([block] * len(heads), heads, color=colour, marker=marker, linestyle="", alpha=0.4)
        axes.plot(values.mean(axis=1), color=colour, marker=marker, linewidth=2, label=product)
    axes.set_xticks(range(len(next(iter(ranks.values())))))
    axes.set_ylim(0, 1.05)
    axes.legend()
    return figure


def draw_norms(metrics: list[dict[str, float]]) -> Figure:
    """Root mean square of the weights of each type of matrix at every validation; MLPs are dashed."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(title="Size of the weights", xlabel="step", ylabel="root mean square")
    names = dict.fromkeys(name for line in metrics for name in line if name.startswith(NORM))
    for index, name in enumerate(names):
        kind = name.removeprefix(NORM)
        style = "--" if kind in MLP else "-"
        axes.plot(*series(metrics, name), color=COLOURS[index % len(COLOURS)], linestyle=style, marker="o", label=kind)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
