"""What validations and refreshes of recorded runs say, by kind of module."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Sequence

import numpy as np

import optax_alphadecay as oad
from experiments.suites.results import Result

KINDS = {
    "queries and keys": ("q_proj", "k_proj"),
    "values and outputs": ("v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
}
"""Types of modules that are shown together."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """One kind of module at the end of a run."""

    alpha: float | None = None
    """Mean alpha at the last refresh; None if the run measured something else, or nothing."""
    random_alpha: float | None = None
    """Alpha of random matrices of these shapes."""
    size: float | None = None
    """Root mean square of the weights; None if the run did not log it."""
    relative_decay: float | None = None
    """The decay's part of a step over the gradient's."""


def readings(result: Result) -> dict[str, Reading]:
    """The kinds of modules at the end of a run.

    Args:
        result: Of a LLaMA.

    Returns:
        By the names in `KINDS`.
    """
    model = result.settings["model"]
    other_side = {"MLP": model["intermediate_size"]}
    return {
        kind: Reading(
            _alpha(result, names),
            oad.random_matrix_alpha(model["hidden_size"], other_side.get(kind, model["hidden_size"])),
            _logged(result, "norm", names),
            _logged(result, "relative_decay", names),
        )
        for kind, names in KINDS.items()
    }


def _alpha(result: Result, names: Sequence[str]) -> float | None:
    """Mean alpha at the last refresh."""
    if result.refreshes is None or result.settings["optimizer"].get("metric") != "pl_alpha_hill":
        return None
    last = zip(result.refreshes.modules, result.refreshes.scores[-1], strict=True)
    scores = [score for module, score in last if score is not None and set(names) & set(module.split("/"))]
    return float(np.mean(scores)) if scores else None


def _logged(result: Result, what: str, names: Sequence[str]) -> float | None:
    """Mean over types of the last value that was logged."""
    curves = [result.curve.get(f"{what}/{name}") for name in names]
    values = [curve.values[-1] for curve in curves if curve is not None]
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None
