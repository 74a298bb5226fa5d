"""Draws the norms of a run's modules: geometric means over modules, and the norm that decay settles at."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from matplotlib.figure import Figure

from experiments.style import COLOURS, MARKERS
from experiments.training.metrics import series

_MEAN = "norms/mean/"
_PANELS = (
    ("weights", (("weight_l2", "l2"), ("weight_spectral", "spectral"), ("steady_state_l2", "steady state, l2"))),
    ("gradient", (("gradient_l2", "l2"), ("gradient_spectral", "spectral"))),
    ("update / learning rate", (("update_l2", "l2"), ("update_spectral", "spectral"))),
    ("learning rate", (("effective_learning_rate", "effective"), ("contribution", "Total Update Contribution"))),
)


def has_norms(metrics: list[dict[str, float]]) -> bool:
    """Whether a run has measured norms."""
    return any(f"{_MEAN}weight_l2" in line for line in metrics)


def draw_norms(metrics: list[dict[str, float]]) -> Figure:
    """Norms over steps, geometric means over modules; where one is 0 or not finite, there is no line."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for index, (field, label) in enumerate(lines):
            name = f"norms/{field}" if field == "effective_learning_rate" else f"{_MEAN}{field}"
            steps, values = series(metrics, name)
            drawn = np.where(np.isfinite(values) & (values > 0), values, np.nan)
            if not np.isfinite(drawn).any():
                continue
            style = "--" if field == "steady_state_l2" else "-"
            axes.plot(steps, drawn, style, color=COLOURS[index], marker=MARKERS[index], markersize=4, label=label)
        axes.set(title=title, xlabel="step", yscale="log")
        axes.set_xlim(left=0)
        axes.legend()
    return figure
