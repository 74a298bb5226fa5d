"""What a run learns and from what, the run itself, and what is logged and saved on the way."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
from flax import nnx

import optax_alphadecay as oad
from experiments.models.common import Network
from experiments.parallel import distributed
from experiments.training.checkpoints import Batches, Checkpoints
from experiments.training.decays.relative import relative_decays
from experiments.training.metrics import MetricsLog
from experiments.training.optimizers import MODULES
from experiments.training.preemption import Preempted, Preemption
from experiments.training.step import TrainState


class TrainBatches(Batches, Iterator[Any], Protocol):
    """A process's rows of the batches to train on, without end."""

    def close(self) -> None:
        """Ends its threads."""


class Task(Protocol):
    """What a run learns: all in which one kind of network and data differs from another."""

    network: Network
    """The class of the network; its method `loss` takes a batch."""
    unit: str
    """What the network learns from and the speed is counted in, such as tokens."""

    def units_per_step(self, config: Any) -> int:
        """How many of them one optimizer step takes in."""

    def open(self, config: Any, rows: np.ndarray) -> TrainBatches:
        """Opens the data and checks that it fits the network.

        Args:
            config: The run.
            rows: Which rows of each batch to yield, ascending.

        Raises:
            ValueError: If the data and the settings contradict each other.
            FileNotFoundError: If the data is missing.
        """

    def first_params(self, config: Any, mesh: jax.sharding.Mesh, drawn: Any) -> Any:
        """The parameters that a run begins with.

        Args:
            config: The run.
            mesh: Its devices.
            drawn: Parameters drawn at random.

        Returns:
            `drawn`, or a tree like it.

        Raises:
            ValueError: If they cannot be read.
        """

    def validate(self, run: "Run") -> tuple[dict[str, float], str]:
        """Measures the network on the validation data.

        Returns:
            What to log, by name, and what to show.

        Raises:
            Preempted: If the run has to stop.
        """

    def report(
        self, config: Any, metrics: list[dict[str, float]], params: Any
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Draws what there is to draw of a finished run.

        Args:
            config: The run.
            metrics: All that was logged.
            params: The last parameters, on the host.

        Returns:
            What was written, by name, and the result in one line.
        """


@dataclasses.dataclass
class Run:
    """A run, ready to take its next step."""

    config: Any
    task: Task
    mesh: jax.sharding.Mesh
    graphdef: nnx.GraphDef[Any]
    optimizer: optax.GradientTransformation
    batches: TrainBatches
    checkpoints: Checkpoints
    preemption: Preemption
    state: TrainState
    step: int
    """Optimizer steps made."""
    resources: contextlib.ExitStack
    """Closes the batches and the checkpoints, and gives the run's folder free."""


class Diverged(Exception):
    """The loss or its gradient is not finite."""


def check_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> None:
    """Stops a run whose numbers have gone bad, before a checkpoint of them is saved."""
    for name, value in values.items():
        if not math.isfinite(value):
            # The parameters after step - 1 are those that gave this value.
            good = checkpoints.latest(below=step - 1)
            raise Diverged(
                f"{name} is {value} at step {step}. Last good checkpoint: {good or 'none'}. "
                "The same command would fail again: lower the learning rate, with another --workdir."
            )


def log_modules(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Logs the score and the ratio of every module after a refresh."""
    log.write(run.step, oad.scalars(run.state.opt_state, run.state.params, modules=MODULES))


def validate(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Logs and shows what the task measures, unless a preemption comes first."""
    try:
        values, text = run.task.validate(run)
    except Preempted:
        return  # the run that goes on makes it up
    norms = distributed.fetch(weight_sizes(run.state.params), "norms")
    sizes = {f"norm/{kind}": float(size) for kind, size in norms.items()}
    strengths = relative_decays(run.config.optimizer, run.state.params, run.state.opt_state)
    decays = {f"relative_decay/{kind}": strength for kind, strength in strengths.items()}
    log.write(run.step, {**{f"validation/{name}": value for name, value in values.items()}, **sizes, **decays})
    console.print(f"step {run.step}/{run.config.steps} | {text}")


@jax.jit
def weight_sizes(params: Any) -> dict[str, jax.Array]:
    """Root mean square of the weights of the blocks' matrices, over all blocks, by type, such as `q_proj`."""
    squares = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["layers"]):
        *_, kind, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if name == "kernel":
            squares[kind] = jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))
    return squares


def save(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Saves a checkpoint."""
    run.checkpoints.save(run.step, run.state.params, run.state.opt_state, run.batches)
