"""How all figures look, and what several of them draw."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import numpy as np
from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


def draw_spectrum(axes: Axes, values: np.ndarray, alpha: float, name: str, index: int) -> None:
    """Draws a spectrum with its power-law fit, on logarithmic axes.

    Shown is the share of eigenvalues from each one on. There a power law is a straight line of slope `1 - alpha`, and
    over the cutoff of the fit all lines begin at the same point.

    Args:
        axes: Where to.
        values: Eigenvalues, ascending, `[N]`.
        alpha: Exponent of the Hill fit to their upper half.
        name: What to call it.
        index: Its number in the figure, for colour and marker.
    """
    middle = len(values) // 2
    shares = np.arange(len(values), 0, -1) / len(values)
    colour, marker = COLOURS[index], MARKERS[index]
    axes.plot(values / values[middle], shares, color=colour, marker=marker, markersize=4, linestyle="", alpha=0.5)
    tail = np.geomspace(1, values[-1] / values[middle], 50)
    label = f"{name}, alpha = {alpha:.2f}"
    fit = shares[middle] * tail ** (1 - alpha)
    axes.plot(tail, fit, color=colour, marker=marker, markevery=[0], linewidth=2, label=label)
    axes.set(xscale="log", yscale="log", xlim=(0.05, None))
