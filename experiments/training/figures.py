"""Draws a run: its losses, alpha of its modules over training, the decay of each, and a few spectra."""
# SPDX-License-Identifier: Apache-2.0

import math
import pathlib
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import optax_alphadecay as oad
from experiments.config import Config
from experiments.methods import AlphaDecay, Method
from experiments.style import COLOURS, MARKERS, STYLE, draw_spectrum
from experiments.training.metrics import series
from experiments.training.norms import draw_norms, has_norms
from experiments.training.optimizers import MODULEWISE


class Module(NamedTuple):
    """What a run has logged about one module."""

    kind: str
    """Name of the layer it belongs to, such as `q_proj`."""
    block: int
    """Which transformer block it is in."""
    steps: np.ndarray
    """When it was measured, int64 `[n]`."""
    scores: np.ndarray
    """What was measured, float64 `[n]`."""
    ratios: np.ndarray
    """Its weight decay over the base rate from then on, float64 `[n]`."""


class Spectrum(NamedTuple):
    """Eigenvalues of one module."""

    name: str
    eigenvalues: np.ndarray
    """Ascending, float32 `[N]`."""
    alpha: float
    """Exponent of the Hill fit to the upper half."""


def draw(config: Config, metrics: list[dict[str, float]], params: Any, baseline: float) -> list[pathlib.Path]:
    """Draws the figures that make sense for the method, as PNG files in `figures/` of the working directory.

    Args:
        config: The run.
        metrics: Its metrics.jsonl, read.
        params: Its parameters; matrices under `layers` are stacked, `[blocks, m, n]`.
        baseline: Loss of a unigram model on the validation tokens, in nats.

    Returns:
        The files. Scores over training and the decay of each module are drawn only if the method has modules, norms
        only if they were measured.
    """
    directory = config.workdir / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = {"loss": draw_losses(metrics, baseline), "spectra": draw_spectra(spectra_of(params))}
        if isinstance(config.optimizer, MODULEWISE):
            modules = modules_of(metrics)
            score = score_name(config.optimizer)
            figures[score] = draw_scores(modules, score)
            figures["decay"] = draw_decay(modules)
        if has_norms(metrics):
            figures["norms"] = draw_norms(metrics)
        for name, figure in figures.items():
            figure.savefig(directory / f"{name}.png")
    return [directory / f"{name}.png" for name in figures]


def draw_losses(metrics: list[dict[str, float]], baseline: float) -> Figure:
    """Training and validation loss over steps, and the unigram model's as a line to get under."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(title="Loss", xlabel="step", ylabel="nats per token")
    steps, losses = series(metrics, "train/loss")
    axes.plot(steps, losses, color=COLOURS[4], linewidth=1.5, label="training")
    steps, losses = series(metrics, "validation/loss")
    label = f"validation (perplexity {math.exp(losses[-1]):.1f} at the end)"
    axes.plot(steps, losses, color=COLOURS[0], marker="o", markersize=5, linewidth=2, label=label)
    label = f"unigram model (perplexity {math.exp(baseline):.1f})"
    axes.axhline(baseline, color=COLOURS[5], linestyle="--", linewidth=1.5, label=label)
    axes.set_xlim(left=0)
    axes.legend()
    return figure


def draw_scores(modules: list[Module], name: str) -> Figure:
    """Scores of each kind of module at every refresh: the mean over the blocks bold, each block faint."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    title = f"Modules over training: {name}"
    axes = figure.add_subplot(title=title, xlabel="step", ylabel=f"{name} (bold: mean over blocks)")
    ends, lines = {}, {}
    for index, kind in enumerate(dict.fromkeys(module.kind for module in modules)):
        blocks = [module for module in modules if module.kind == kind]
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for block in blocks:
            axes.plot(block.steps, block.scores, color=colour, linewidth=0.8, alpha=0.25)
        mean = np.mean([block.scores for block in blocks], axis=0)
        ends[kind] = float(mean[-1])
        lines[kind], *_ = axes.plot(blocks[0].steps, mean, color=colour, marker=marker, markersize=5, linewidth=2)
    axes.set_xlim(left=0)
    top_down = sorted(ends, key=lambda kind: -ends[kind])
    figure.legend([lines[kind] for kind in top_down], top_down, loc="outside right center")
    return figure


def draw_decay(modules: list[Module]) -> Figure:
    """Weight decay of each module after the last refresh, over the base rate: kinds down, blocks across."""
    kinds = list(dict.fromkeys(module.kind for module in modules))
    ratios = np.full((len(kinds), 1 + max(module.block for module in modules)), np.nan)
    for module in modules:
        ratios[kinds.index(module.kind), module.block] = module.ratios[-1]
    figure = Figure(figsize=(max(7.0, 2.5 + 0.45 * ratios.shape[1]), 1.4 + 0.4 * len(kinds)), layout="constrained")
    axes = figure.add_subplot(title=f"Weight decay after step {modules[0].steps[-1]}", xlabel="block")
    image = axes.imshow(ratios, cmap="cividis", aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xticks(range(ratios.shape[1]))
    middle = (np.nanmin(ratios) + np.nanmax(ratios)) / 2
    for (row, column), ratio in np.ndenumerate(ratios):
        text_colour = "white" if ratio < middle else "black"
        axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", color=text_colour, fontsize=9)
    figure.colorbar(image, label="decay / base rate")
    return figure


def draw_spectra(spectra: list[Spectrum]) -> Figure:
    """Four spectra, from the heaviest tail to the lightest, each with its power-law fit; see `draw_spectrum`."""
    ranked = sorted(spectra, key=lambda spectrum: spectrum.alpha)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(
        title="Spectra and their power-law fits",
        xlabel="eigenvalue of W Wᵀ / median eigenvalue",
        ylabel="share of larger eigenvalues",
    )
    for index, quantile in enumerate((0, 1 / 3, 2 / 3, 1)):
        name, values, alpha = ranked[round(quantile * (len(ranked) - 1))]
        draw_spectrum(axes, values, alpha, name, index)
    axes.legend(loc="upper right")
    return figure


def modules_of(metrics: list[dict[str, float]]) -> list[Module]:
    """Gathers what a metrics.jsonl says about every module, in the order of the modules."""
    prefix = "alphadecay/score/"
    names = [name.removeprefix(prefix) for line in metrics for name in line if name.startswith(prefix)]
    modules = []
    for name in dict.fromkeys(names):
        *_, kind, _, block = name.split("/")
        steps, scores = series(metrics, f"alphadecay/score/{name}")
        _, ratios = series(metrics, f"alphadecay/ratio/{name}")
        modules.append(Module(kind, int(block), steps, scores, ratios))
    return modules


def spectra_of(params: Any) -> list[Spectrum]:
    """Eigenvalues and alphas of all matrices in the transformer blocks, those without an alpha left out."""
    spectra = []
    for path, stack in jax.tree_util.tree_leaves_with_path(params["layers"]):
        if stack.ndim == 3:
            kind = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-2]
            for block, (values, alpha) in enumerate(zip(*jax.device_get(_measure(stack)), strict=True)):
                spectra.append(Spectrum(f"{kind} of block {block}", values, float(alpha)))
    return [spectrum for spectrum in spectra if math.isfinite(spectrum.alpha)]


@jax.jit
def _measure(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    eigenvalues = oad.eigenvalues(stack)
    return eigenvalues, oad.median()(eigenvalues)


def score_name(config: Method) -> str:
    """What the scores of the modules are, in a word."""
    if not isinstance(config, AlphaDecay):
        return "grad_norm"
    return "alpha" if config.metric == "pl_alpha_hill" else config.metric
