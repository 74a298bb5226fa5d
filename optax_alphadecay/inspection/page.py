"""The report as one page of HTML that needs no network."""
# SPDX-License-Identifier: Apache-2.0

import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optax_alphadecay.inspection.comparison import labels
from optax_alphadecay.inspection.fits import fit_all
from optax_alphadecay.inspection.records import Inspection, ModuleRecord, rows_of
from optax_alphadecay.inspection.summary import sentences

_POINTS = 160
"""Points of a spectrum that are drawn: the largest all, then ever fewer."""


def render(inspections: Sequence[Inspection]) -> str:
    """Write the page.

    Names from checkpoints are data of the page and are shown as text, whatever is in them.

    Args:
      inspections: of one checkpoint, or of several to compare.

    Returns:
      HTML with its styles, its program and its data in it.
    """
    files = importlib.resources.files("optax_alphadecay.inspection")
    html, css, script = (files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    data = {"checkpoints": [_data(*pair) for pair in zip(labels(inspections), inspections, strict=True)]}
    # Nothing in the data can end the element that holds it.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return html.replace("{{css}}", css).replace("{{script}}", script).replace("{{data}}", text)


def plain(value: Any) -> Any:
    """Make a value that JSON has: no NaN, no tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def _data(label: str, inspection: Inspection) -> dict[str, Any]:
    return {
        "label": label,
        "source": inspection.source,
        "weight_decay": inspection.weight_decay,
        "summary": sentences(inspection),
        "modules": [_module(module) for module in inspection],
        "left_out": [[tensor.name, list(tensor.shape), tensor.dtype, tensor.reason] for tensor in inspection.left_out],
    }


def _module(module: ModuleRecord) -> dict[str, Any]:
    fits = fit_all(module.eigenvalues, module.dtype)
    return {
        **{name: _short(plain(value)) for name, value in rows_of(module).items()},
        "spectrum": _points(module.eigenvalues),
        "fits": [
            [_short(plain(value)) for value in (fit.alpha, fit.xmin, _tail_share(module.eigenvalues, fit.xmin))]
            for fit in fits
        ],
    }


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _points(eigenvalues: np.ndarray) -> list[list[float]]:
    """Thin out the spectrum: ``[eigenvalue, share of the eigenvalues that are as large]``, from the largest on."""
    n = len(eigenvalues)
    ranks = np.unique(np.geomspace(1, n, _POINTS).round().astype(int))
    values = eigenvalues[n - ranks]
    kept = np.isfinite(values) & (values > 1e-12 * abs(eigenvalues[-1]))
    return [[_short(float(value)), _short(rank / n)] for value, rank in zip(values[kept], ranks[kept], strict=True)]


def _tail_share(eigenvalues: np.ndarray, xmin: float) -> float:
    return float((eigenvalues >= xmin).mean()) if math.isfinite(xmin) else math.nan
