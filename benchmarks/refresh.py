"""What a refresh costs: all modules' alphas, against PyTorch and between fits and solvers."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable

import jax
import numpy as np

import optax_alphadecay as oad
from benchmarks.measure import Row, ratio, take_turns
from benchmarks.programs import preset, weights
from experiments.optimizers import MODULES
from optax_alphadecay.metrics import measure
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
    params = weights(preset(size, "alphadecay"))
    leaves = jax.tree.leaves(params)
    stacks = [stack.as_matrices(leaves[stack.leaf]) for stack in resolve(params, MODULES)]
    modules = f"{sum(len(stack) for stack in stacks)} modules of {size}"

    contenders = {name: _refresh(metric, stacks) for name, metric in _METRICS.items()}
    torch_svdvals = _torch_svdvals(stacks)
    if torch_svdvals is not None:
        contenders["torch"] = torch_svdvals
    seconds = take_turns(contenders, repeats)

    against_torch = f"refresh of the {modules} / torch.linalg.svdvals, one module at a time"
    return [
        ratio(against_torch, seconds, "median", "torch", budget=0.25)
        if "torch" in seconds
        else Row(against_torch, None, "x", 0.25, detail="skipped: needs PyTorch, pip install -e '.[bench]'"),
        ratio("refresh / refresh with solver='eigvalsh'", seconds, "median", "eigvalsh"),
        ratio("refresh with goodness_of_fit() / with median()", seconds, "goodness_of_fit", "median", budget=1.5),
        ratio("refresh with fix_finger() / with median()", seconds, "fix_finger", "median", budget=1.5),
    ]


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
