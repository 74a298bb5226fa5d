"""Norms of every module's weights, gradient and update along a run: measured, logged and drawn."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import optax_alphadecay as oad
from experiments.methods import Method, Scion
from experiments.style import COLOURS, MARKERS
from experiments.training.metrics import MetricsLog, series
from experiments.training.optimizers import MODULES, make_schedule
from experiments.training.step import TrainState, make_gradients
from experiments.training.task import Run

_MEAN = "norms/mean/"
_PANELS = (
    ("weights", (("weight_l2", "l2"), ("weight_spectral", "spectral"), ("steady_state_l2", "steady state, l2"))),
    ("gradient", (("gradient_l2", "l2"), ("gradient_spectral", "spectral"))),
    ("update / learning rate", (("update_l2", "l2"), ("update_spectral", "spectral"))),
    ("learning rate", (("effective_learning_rate", "effective"), ("contribution", "Total Update Contribution"))),
)


def norm_logger(run: Run, log: MetricsLog) -> Callable[[int, Any], None]:
    """Makes what measures norms before a step, where the settings ask for it.

    A program of its own computes the gradient once more, so that the steps themselves cost the same with and without.

    Args:
        run: The run.
        log: Where norms go, by the names of `oad.norm_scalars`. Those at step k are of the weights that step k moves.

    Returns:
        A function of the step, counted from 1, and its batch.
    """
    config, every = run.config, run.config.norms_every
    if not every:
        return lambda step, pieces: None
    gradients_of = make_gradients(run.graphdef, run.task.network.spec_of)
    schedule, momentum = make_schedule(config.optimizer, config.steps), momentum_of(config.optimizer)

    @jax.jit
    def measure(state: TrainState, pieces: Any, step: jax.Array) -> oad.ModuleNorms:
        gradients, _ = gradients_of(state.params, pieces)
        return oad.module_norms(
            run.optimizer,
            gradients,
            state.opt_state,
            state.params,
            learning_rate=schedule(step - 1),
            momentum=momentum,
            averages=None if momentum == 1 else averages_of,
            modules=MODULES,
        )

    def log_norms(step: int, pieces: Any) -> None:
        if step == 1 or step % every == 0:
            with jax.transfer_guard("allow"), jax.set_mesh(run.mesh):
                norms = measure(run.state, pieces, step)
                log.write(step, oad.norm_scalars(norms, run.state.params, modules=MODULES))

    return log_norms


def momentum_of(config: Method) -> float:
    """The share of the newest gradient in the running mean that an update follows."""
    return config.momentum if isinstance(config, Scion) else 1 - config.b1


def averages_of(state: optax.OptState) -> Any:
    """The running mean of gradients in an optimizer's state."""
    return optax.tree.get(state, "mu", optax.tree.get(state, "momentum"))


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
