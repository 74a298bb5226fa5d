"""What a refresh costs: all modules' alphas, against PyTorch and between fits and solvers."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import optax_alphadecay as oad
from benchmarks.measure import Row, ratio, take_turns
from benchmarks.programs import preset, weights
from experiments.training.optimizers import MODULES
from optax_alphadecay.measurement import measure
from optax_alphadecay.modules import resolve

_METRICS = {
    "median": oad.pl_alpha_hill(),
    "goodness_of_fit": oad.pl_alpha_hill(oad.goodness_of_fit()),
    "fix_finger": oad.pl_alpha_hill(oad.fix_finger()),
    "eigvalsh": oad.pl_alpha_hill(solver="eigvalsh"),
}


def refresh(size: str, repeats: int) -> list[Row]:
    """Times one refresh of all modules of a preset at its initial weights.

    Args:
        size: Name of the preset.
        repeats: Turns to time.

    Returns:
        A row each for PyTorch, eigvalsh, and the two other fits.
    """
    stacks = _stacks(weights(preset(size, "alphadecay")))
    modules = f"{sum(len(stack) for stack in stacks)} modules of {size}"

    contenders = {name: _refresh(metric, stacks) for name, metric in _METRICS.items()}
    torch_svdvals = _torch_svdvals(stacks)
    if torch_svdvals is not None:
        contenders["torch"] = torch_svdvals
    seconds = take_turns(contenders, repeats)

    against_torch = f"refresh of the {modules} / torch.linalg.svdvals, one module at a time"
    # Promised for the 60M model; the fits cost the less the larger the matrices are.
    budget = 0.25 if size == "60m" else None
    return [
        ratio(against_torch, seconds, "median", "torch", budget)
        if "torch" in seconds
        else Row(against_torch, None, "x", budget, detail="skipped: needs PyTorch, pip install -e '.[bench]'"),
        ratio(f"{size} refresh / with solver='eigvalsh'", seconds, "median", "eigvalsh"),
        ratio(f"{size} refresh with goodness_of_fit() / with median()", seconds, "goodness_of_fit", "median", 1.5),
        ratio(f"{size} refresh with fix_finger() / with median()", seconds, "fix_finger", "median", 1.5),
    ]


def refresher(params: Any) -> Callable[[], None]:
    """Compiles a refresh of all modules of a model of `experiments`.

    Args:
        params: Its parameters.

    Returns:
        A function that runs it and waits.
    """
    return _refresh(_METRICS["median"], _stacks(params))


def _stacks(params: Any) -> list[jax.Array]:
    leaves = jax.tree.leaves(params)
    return [stack.as_matrices(leaves[stack.leaf]) for stack in resolve(params, MODULES)]


def _refresh(metric: oad.Metric, stacks: list[jax.Array]) -> Callable[[], None]:
    compiled = jax.jit(lambda stacks: measure(metric, stacks, stacks)).lower(stacks).compile()
    return lambda: compiled(stacks).block_until_ready()


def _torch_svdvals(stacks: list[jax.Array]) -> Callable[[], None] | None:
    """What the authors' code does with each module before its fit, on the same matrices; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    matrices = [torch.from_numpy(np.array(matrix)) for stack in stacks for matrix in stack]

    def all_svdvals() -> None:
        for matrix in matrices:
            torch.linalg.svdvals(matrix)

    return all_svdvals
