"""Pre-trains a LLaMA: `python -m experiments.train PRESET [options]`. Started again, it resumes."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
from flax import nnx

import optax_alphadecay as oad
from experiments.config import Config, RunConfig, check
from experiments.data.text import TrainIterator, train_iterator
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.evaluate import Validation, evaluate, unigram_of, validation_set, verdict
from experiments.models.llama import Llama, abstract_model, num_parameters
from experiments.parallel import distributed, sharding
from experiments.presets import from_command_line
from experiments.training import figures, preemption
from experiments.training.checkpoints import Checkpoints, claim_workdir
from experiments.training.lock import owned
from experiments.training.metrics import MetricsLog, lacks, read_metrics
from experiments.training.optimizers import MODULES, MODULEWISE, make_optimizer, make_schedule, refreshes
from experiments.training.preemption import Preempted, Preemption
from experiments.training.progress import Progress
from experiments.training.step import TrainState, compile_train_step, first_state
from experiments.training.task import Diverged, Run, Workload, check_finite, log_modules, save, validate


class Pretraining:
    """Next-token prediction on C4 by a LLaMA."""

    network: Callable[..., nnx.Module] = Llama
    unit = "tokens"

    def units_per_step(self, config: Config) -> int:
        """Tokens in a batch."""
        return config.batch_size * config.data.sequence_length

    def open(self, config: Config, rows: np.ndarray) -> TrainIterator:
        """Opens the train split and its tokenizer."""
        check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
        return train_iterator(config.data, batch_size=config.batch_size, seed=config.seed, rows=rows)

    def validate(self, run: Run) -> tuple[dict[str, float], str]:
        """Measures the perplexity."""
        batches = run.preemption.watch(validation_set(run.config))
        measured = evaluate(run.graphdef, run.state.params, batches, run.mesh)
        values = {"loss": measured.loss, "perplexity": measured.perplexity, "tokens": measured.tokens}
        return values, f"validation loss {measured.loss:.4f} | perplexity {measured.perplexity:.2f}"

    def report(
        self, config: Config, metrics: list[dict[str, float]], params: Any
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Draws the figures, and holds the last perplexity against a unigram model's."""
        final = next(line for line in reversed(metrics) if "validation/loss" in line)
        baseline = unigram_of(config)
        paths = [("figure", path) for path in figures.draw(config, metrics, params, baseline.loss)]
        validation = Validation(final["validation/loss"], int(final["validation/tokens"]))
        return paths, verdict(validation, baseline)


PRETRAINING = Pretraining()


@distributed.ends_together
def main(args: Sequence[str] | None = None) -> int:
    """Trains and reports.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 after an error that the message explains; 130 when interrupted (Ctrl-C); 143 when
        preempted (SIGTERM).
    """
    return launch(from_command_line(args), PRETRAINING)


def launch(config: RunConfig, workload: Workload) -> int:
    """Trains and reports, and explains errors instead of raising them. Returns the exit code, as `main`."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    try:
        with Preemption() as listening:
            return train(config, listening, console, workload)
    except OSError as error:
        print(
            f"error: {error}\nWhat was saved in {config.workdir} is intact. Free space on the disk, or mend what the "
            "message names: the same command then goes on from the newest checkpoint.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from the newest checkpoint.")
        return 130


def train(config: RunConfig, listening: Preemption, console: rich.console.Console, workload: Workload) -> int:
    """Takes a run from wherever it is to its end. Returns the exit code; raises the OSError of a disk or of data."""
    try:
        distributed.join_processes()
        console.quiet = jax.process_index() > 0
        run = set_up(config, listening, workload)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with run.resources:
        try:
            go_on(run, console)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Preempted:
            saved = run.checkpoints.latest() or "the start, for nothing was saved yet"
            console.print(f"Preempted (SIGTERM). The same command goes on from {saved}.")
            return preemption.EXIT_CODE
        conclude(run, console)
    return 0


def run_to_end(
    config: RunConfig, listening: Preemption, console: rich.console.Console, workload: Workload = PRETRAINING
) -> None:
    """Takes a run from wherever it is to its end, without a report. Raises what `set_up` and `fit` do."""
    run = set_up(config, listening, workload)
    with run.resources:
        go_on(run, console)


def set_up(config: RunConfig, listening: Preemption, workload: Workload = PRETRAINING) -> Run:
    """Opens the data, draws the weights, and restores the newest intact checkpoint if there is one.

    Args:
        config: The run.
        listening: What tells the run to stop early.
        workload: What it learns.

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
        batches = stack.enter_context(contextlib.closing(workload.open(config, rows)))
        graphdef, params = abstract_model(config.model, workload.network)
        optimizer = make_optimizer(config.optimizer, config.steps)
        stack.enter_context(owned(config.workdir))
        distributed.from_first_process(lambda: claim_workdir(config))
        checkpoints = stack.enter_context(Checkpoints(config.workdir / "checkpoints"))
        opt_state = jax.eval_shape(optimizer.init, params)
        shapes: TrainState = sharding.abstract(TrainState(params, opt_state), mesh)
        restored = checkpoints.restore(*shapes, batches)
        step, *state = restored or (0, *first_state(config, optimizer, mesh, workload.network))
        return Run(
            config, workload, mesh, graphdef, optimizer, batches, checkpoints, listening, TrainState(*state), step,
            stack.pop_all(),
        )  # fmt: skip


def go_on(run: Run, console: rich.console.Console) -> None:
    """Takes a run from where it is to its last step; raises what `fit` does."""
    introduce(run, console)
    make_up(run, console)
    fit(run, console)


def introduce(run: Run, console: rich.console.Console) -> None:
    """Says what is about to be trained, and which modules get a decay of their own."""
    config, method = run.config, run.config.optimizer
    amount = f"{run.workload.units_per_step(config):,} {run.workload.unit}"
    console.print(
        f"{num_parameters(run.state.params):,} parameters | {config.steps:,} steps of {amount} | "
        f"{method.method} ({method.coupling}) at weight decay {method.weight_decay:g}"
    )
    if isinstance(method, MODULEWISE):
        rows = oad.module_table(run.state.opt_state, run.state.params, modules=MODULES)
        console.print(f"{len(rows)} modules get a decay of their own, all other parameters the base rate:")
        leaves = collections.Counter((row.name.rpartition("/")[0], row.shape) for row in rows)
        for (name, (m, n)), count in leaves.items():
            console.print(f"  {name}: {count} of {m} x {n}")
    if run.step:
        verb = "Finished before, at" if run.step == config.steps else "Going on from"
        console.print(f"{verb} step {run.step}: {run.checkpoints.latest()}")


def make_up(run: Run, console: rich.console.Console) -> None:
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
    config, unit = run.config, run.workload.unit
    if run.step == config.steps:
        return
    run.preemption.check()
    console.print("Compiling the step ...")
    train_step = compile_train_step(config, run.graphdef, run.optimizer, run.state, run.mesh)
    run.preemption.check()
    learning_rates = np.asarray(jax.vmap(make_schedule(config.optimizer, config.steps))(jnp.arange(config.steps)))
    progress = Progress(
        console, start=run.step, steps=config.steps, tokens_per_step=run.workload.units_per_step(config), unit=unit
    )

    def look_at(step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values, run.checkpoints)
        progress.update(step, values["train/loss"])
        if step == 1 or step % config.log_every == 0:
            values["train/learning_rate"] = float(learning_rates[step - 1])
            log.write(step, {**values, f"train/{unit}_per_second": progress.tokens_per_second})

    with MetricsLog(config, start=run.step) as log, progress, jax.transfer_guard("disallow"):
        under_way = None
        for step in range(run.step + 1, config.steps + 1):
            pieces = sharding.to_devices(next(run.batches), run.mesh, accumulate=config.accumulate)
            run.state, metrics = train_step(run.state, pieces)
            run.step = step
            if under_way:
                look_at(*under_way)
            under_way = step, metrics
            run.checkpoints.check()
            for task in tasks(config, step, run.preemption):
                if under_way:
                    look_at(*under_way)
                    under_way = None
                with progress.pause(), jax.transfer_guard("allow"):
                    task(run, log, console)
            if run.preemption.at(step):
                raise Preempted


def tasks(
    config: RunConfig, step: int, listening: Preemption
) -> Iterator[Callable[[Run, MetricsLog, rich.console.Console], None]]:
    """What to do after a step, each asked for when the one before is done: a preemption may come at any time.

    The checkpoint is last: all that was logged up to its step is then on disk.
    """
    if refreshes(config.optimizer, step):
        yield log_modules
    if validation_due(config, step) and not listening.at(step):
        yield validate
    if step == config.steps or step % config.checkpoint_every == 0 or listening.at(step):
        yield save


def validation_due(config: RunConfig, step: int) -> bool:
    """Whether a step is followed by a validation."""
    return step == config.steps or step % config.eval_every == 0


def conclude(run: Run, console: rich.console.Console) -> None:
    """Prints the results of a finished run and draws its figures."""
    config, params, newest = run.config, distributed.to_host(run.state.params), run.checkpoints.latest()
    if jax.process_index():
        return
    metrics_path = config.workdir / "metrics.jsonl"
    metrics = read_metrics(metrics_path)
    written, result = run.workload.report(config, metrics, params)
    console.print()
    if isinstance(config.optimizer, MODULEWISE):
        rows = oad.module_table(run.state.opt_state, params, modules=MODULES)
        console.print(oad.format_table(rows, weight_decay=config.optimizer.weight_decay), end="\n\n")
    else:
        console.print(f"{config.optimizer.method} has no modules: no table, no figures of alpha and decay.\n")
    paths: list[tuple[str, pathlib.Path | None]] = [
        *written,
        ("checkpoint", newest),
        ("metrics", metrics_path),
        ("TensorBoard", config.workdir / "tensorboard"),
    ]
    for name, path in paths:
        console.print(f"{name:<12}{path}")
    console.print(f"\n{result}")


if __name__ == "__main__":
    sys.exit(main())
