"""The training loop: sets a run up, takes its steps, and stops or goes on where it has to."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console

from experiments.config import RunConfig, check
from experiments.models.common import abstract_model
from experiments.parallel import distributed, sharding
from experiments.training.checkpoints import Checkpoints
from experiments.training.metrics import MetricsLog, lacks
from experiments.training.norms import norm_logger
from experiments.training.optimizers import make_optimizer, make_schedule, refreshes
from experiments.training.preemption import Preempted, Preemption
from experiments.training.progress import Progress
from experiments.training.step import TrainState, compile_train_step, first_state
from experiments.training.summary import print_summary
from experiments.training.task import Run, Task, check_finite, log_modules, save, validate
from experiments.training.workdir import claim_workdir, owned


def run_to_end(config: RunConfig, preemption: Preemption, console: rich.console.Console, task: Task) -> None:
    """Takes a run from wherever it is to its end, without a report. Raises what `set_up` and `fit` do."""
    run = set_up(config, preemption, task)
    with run.resources:
        resume(run, console)


def set_up(config: RunConfig, preemption: Preemption, task: Task) -> Run:
    """Opens the data, draws the weights, and restores the newest intact checkpoint if there is one.

    Args:
        config: The run.
        preemption: What tells the run to stop early.
        task: What it learns.

    Returns:
        The run at its first step, or where its newest intact checkpoint is.

    Raises:
        ValueError: If settings contradict each other, the data or the run in `config.workdir`, or if every
            checkpoint there is damaged, or if another process works there.
        FileNotFoundError: If data is missing.
    """
    check(config)
    mesh = sharding.make_mesh(config)
    with contextlib.ExitStack() as stack:
        rows = sharding.rows_of_process(mesh, config.batch_size)
        batches = stack.enter_context(contextlib.closing(task.open(config, rows)))
        graphdef, params = abstract_model(config.model, task.network)
        optimizer = make_optimizer(config.optimizer, config.steps)
        stack.enter_context(owned(config.workdir))
        distributed.from_first_process(lambda: claim_workdir(config))
        checkpoints = stack.enter_context(Checkpoints(config.workdir / "checkpoints"))
        opt_state = jax.eval_shape(optimizer.init, params)
        shapes: TrainState = sharding.abstract(TrainState(params, opt_state), mesh, task.network.spec_of)
        restored = checkpoints.restore(*shapes, batches)
        step, *state = restored or (0, *_begin(config, optimizer, mesh, task))
        return Run(
            config, task, mesh, graphdef, optimizer, batches, checkpoints, preemption, TrainState(*state), step,
            stack.pop_all(),
        )  # fmt: skip


def _begin(
    config: RunConfig, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, task: Task
) -> TrainState:
    """The state before the first step: random weights, or what the task begins with."""
    state = first_state(config, optimizer, mesh, task.network)
    params = task.first_params(config, mesh, state.params)
    if params is state.params:
        return state
    places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    return TrainState(params, jax.jit(optimizer.init, out_shardings=places)(params))


def resume(run: Run, console: rich.console.Console) -> None:
    """Takes a run from where it is to its last step; raises what `fit` does."""
    print_summary(run, console)
    run_missed_validation(run, console)
    fit(run, console)


def run_missed_validation(run: Run, console: rich.console.Console) -> None:
    """Makes the validation of the last checkpoint's step, if a preemption cut it short."""
    path = run.config.workdir / "metrics.jsonl"
    if not run.step or not validation_due(run.config, run.step):
        return
    if distributed.from_first_process(lambda: lacks(path, run.step, "validation/loss")):
        with MetricsLog(run.config, start=run.step) as log:
            validate(run, log, console)
        run.preemption.check()


def fit(run: Run, console: rich.console.Console) -> None:
    """Takes the steps that are left. Step k + 1 is under way before the numbers of step k are looked at.

    Args:
        run: The run; its state and step are moved on.
        console: Where to show the progress.

    Raises:
        Diverged: If the loss or the gradient is not finite.
        Preempted: If the run has to stop; the step under way was finished and saved.
        OSError: If the data cannot be read, or a checkpoint or the metrics not be written.
    """
    config, unit = run.config, run.task.unit
    if run.step == config.steps:
        return
    run.preemption.check()
    console.print("Compiling the step ...")
    train_step = compile_train_step(config, run.graphdef, run.optimizer, run.state, run.mesh, run.task.network.spec_of)
    run.preemption.check()
    learning_rates = np.asarray(jax.vmap(make_schedule(config.optimizer, config.steps))(jnp.arange(config.steps)))
    progress = Progress(
        console, start=run.step, steps=config.steps, tokens_per_step=run.task.units_per_step(config), unit=unit
    )

    def log_metrics(step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in distributed.fetch(metrics, f"step {step}").items()}
        check_finite(step, values, run.checkpoints)
        progress.update(step, values["train/loss"])
        if step == 1 or step % config.log_every == 0:
            values["train/learning_rate"] = float(learning_rates[step - 1])
            log.write(step, {**values, f"train/{unit}_per_second": progress.tokens_per_second})

    with MetricsLog(config, start=run.step) as log, progress, jax.transfer_guard("disallow"):
        pending, log_norms = None, norm_logger(run, log)
        for step in range(run.step + 1, config.steps + 1):
            pieces = sharding.to_devices(next(run.batches), run.mesh, accumulate=config.accumulate)
            log_norms(step, pieces)
            run.state, metrics = train_step(run.state, pieces)
            run.step = step
            if pending:
                log_metrics(*pending)
            pending = step, metrics
            run.checkpoints.check()
            for action in after_step(config, step, run.preemption):
                if pending:
                    log_metrics(*pending)
                    pending = None
                with progress.pause(), jax.transfer_guard("allow"):
                    action(run, log, console)
            if run.preemption.at(step):
                raise Preempted


def after_step(
    config: RunConfig, step: int, preemption: Preemption
) -> Iterator[Callable[[Run, MetricsLog, rich.console.Console], None]]:
    """What to do after a step, each asked for when the one before is done: a preemption may come at any time.

    The checkpoint is last: all that was logged up to its step is then on disk.
    """
    if refreshes(config.optimizer, step):
        yield log_modules
    if validation_due(config, step) and not preemption.at(step):
        yield validate
    if step == config.steps or step % config.checkpoint_every == 0 or preemption.at(step):
        yield save


def validation_due(config: RunConfig, step: int) -> bool:
    """Whether a step is followed by a validation."""
    return step == config.steps or step % config.eval_every == 0
