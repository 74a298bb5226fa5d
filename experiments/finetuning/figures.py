"""Draws a run of fine-tuning: its losses, and its accuracy beside the baselines."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from experiments.finetuning.bag_of_words import Baselines
from experiments.style import COLOURS, STYLE
from experiments.training.metrics import series


def draw(
    workdir: pathlib.Path, metrics: list[dict[str, float]], split: str, found: Any, baselines: Baselines
) -> list[pathlib.Path]:
    """Draws the figures of a finished run, as PNG files in `figures/` of the working directory.

    Args:
        workdir: The run's folder.
        metrics: Its metrics.jsonl, read.
        split: What the finished model was scored on.
        found: How it did there: `loss` and `accuracy`.
        baselines: How the baselines do there.

    Returns:
        The files.
    """
    directory = workdir / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = {
            "loss": draw_losses(metrics, baselines),
            "accuracy": draw_accuracy(metrics, split, found.accuracy, baselines),
        }
        for name, figure in figures.items():
            figure.savefig(directory / f"{name}.png")
    return [directory / f"{name}.png" for name in figures]


def draw_losses(metrics: list[dict[str, float]], baselines: Baselines) -> Figure:
    """Loss over steps: of the batches, of texts trained on, and of the validation split."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(title="Loss", xlabel="step", ylabel="nats per text")
    axes.plot(*series(metrics, "train/loss"), color=COLOURS[4], linewidth=1, label="batches")
    axes.plot(*series(metrics, "validation/seen_loss"), color=COLOURS[1], marker="s", label="texts trained on")
    axes.plot(*series(metrics, "validation/loss"), color=COLOURS[0], marker="o", label="validation")
    axes.axhline(baselines.bag_of_words_loss, color=COLOURS[5], linestyle="--", label="bag of words")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def draw_accuracy(metrics: list[dict[str, float]], split: str, accuracy: float, baselines: Baselines) -> Figure:
    """Accuracy on the validation split over steps, and that of the finished model and of the baselines."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(title="Accuracy", xlabel="step", ylabel="share of texts")
    steps, values = series(metrics, "validation/accuracy")
    axes.plot(steps, values, color=COLOURS[0], marker="o", linewidth=2, label="validation")
    axes.plot(steps[-1:], [accuracy], color=COLOURS[2], marker="D", linestyle="", label=f"{split}, at the end")
    lines = {
        "bag of words": (baselines.bag_of_words, COLOURS[5], "--"),
        "majority class": (baselines.majority, COLOURS[6], ":"),
    }
    for name, (value, colour, style) in lines.items():
        axes.axhline(value, color=colour, linestyle=style, label=f"{name}, {split}")
    axes.set_xlim(left=0)
    axes.legend()
    return figure
