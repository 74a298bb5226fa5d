"""Pre-trains a LLaMA: `python -m experiments.train PRESET [options]`. Started again, it resumes."""
# SPDX-License-Identifier: Apache-2.0

import collections
import contextlib
import dataclasses
import importlib.util
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
from flax import nnx

import optax_alphadecay as oad
from experiments import figures
from experiments.checkpoints import Checkpoints, claim_workdir
from experiments.config import Config, from_command_line
from experiments.data import check_vocab_size, load_tokenizer, train_iterator
from experiments.evaluate import Validation, evaluate, unigram_of, validation_set, verdict
from experiments.llama import Llama, next_token_loss, num_parameters
from experiments.metrics_log import MetricsLog, read_metrics
from experiments.optimizers import MODULES, MODULEWISE, make_optimizer, make_schedule, refreshes
from experiments.progress import Progress


class TrainState(NamedTuple):
    """What a step turns into the next."""

    params: Any
    opt_state: Any


@dataclasses.dataclass
class Run:
    """A run, ready to take its next step."""

    config: Config
    graphdef: nnx.GraphDef[Llama]
    optimizer: optax.GradientTransformation
    batches: grain.DatasetIterator
    checkpoints: Checkpoints
    state: TrainState
    step: int
    """Optimizer steps made."""


class Diverged(Exception):
    """The loss or its gradient is not finite."""


def main(args: Sequence[str] | None = None) -> int:
    """Trains and reports.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0, or 1 after an error that the message explains, or 130 when interrupted.
    """
    config = from_command_line(args)
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    try:
        run = set_up(config)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with run.checkpoints, contextlib.closing(run.batches):
        try:
            introduce(run, console)
            fit(run, console)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            console.print("Interrupted. The same command goes on from the newest checkpoint.")
            return 130
        conclude(run, console)
    return 0


def set_up(config: Config) -> Run:
    """Opens the data, draws the weights, and restores the newest checkpoint if there is one.

    Args:
        config: The run.

    Returns:
        The run at its first step, or where its newest checkpoint is.

    Raises:
        ValueError: If settings contradict each other, the data or the run in `config.workdir`.
        FileNotFoundError: If the data or the tokenizer is missing.
    """
    check(config)
    check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
    batches = train_iterator(config.data, batch_size=config.batch_size, seed=config.seed)
    graphdef, weights = nnx.split(Llama(config.model, rngs=nnx.Rngs(config.seed)))
    params = nnx.to_pure_dict(weights)
    optimizer = make_optimizer(config.optimizer, config.steps)
    opt_state = optimizer.init(params)
    claim_workdir(config)
    checkpoints = Checkpoints(config.workdir / "checkpoints")
    step, params, opt_state = checkpoints.restore(params, opt_state, batches)
    return Run(config, graphdef, optimizer, batches, checkpoints, TrainState(params, opt_state), step)


def check(config: Config) -> None:
    """Checks what the types do not say.

    Raises:
        ValueError: If a count is not positive, the batch cannot be cut into equal pieces, or wandb is missing.
    """
    for name in ("steps", "batch_size", "accumulate", "log_every", "eval_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1.")
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be cut into accumulate={config.accumulate} equal pieces: "
            "choose a divisor."
        )
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs Weights & Biases: pip install wandb, or leave the option out.")


def make_train_step(graphdef: nnx.GraphDef[Llama], optimizer: optax.GradientTransformation) -> jax.stages.Wrapped:
    """Builds one optimizer step.

    Args:
        graphdef: The model without its parameters.
        optimizer: The whole update.

    Returns:
        A jitted function of the state, which is donated, and of int32 tokens `[accumulate, batch, length]`. It
        returns the next state, and the float32 scalars `train/loss` and `train/gradient_norm` (before clipping).
    """

    def loss_of(params: Any, tokens_BxL: jax.Array) -> jax.Array:
        return next_token_loss(nnx.merge(graphdef, params), tokens_BxL)

    def train_step(state: TrainState, tokens_AxBxL: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def add_piece(total: Any, tokens_BxL: jax.Array) -> tuple[Any, jax.Array]:
            loss, gradients = jax.value_and_grad(loss_of)(state.params, tokens_BxL)
            return jax.tree.map(jnp.add, total, gradients), loss

        total, losses = jax.lax.scan(add_piece, jax.tree.map(jnp.zeros_like, state.params), tokens_AxBxL)
        gradients = jax.tree.map(lambda gradient: gradient / len(losses), total)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {"train/loss": losses.mean(), "train/gradient_norm": optax.tree.norm(gradients)}
        return TrainState(optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def introduce(run: Run, console: rich.console.Console) -> None:
    """Says what is about to be trained, and which modules get a decay of their own."""
    config, method = run.config, run.config.optimizer
    tokens = config.batch_size * config.data.sequence_length
    console.print(
        f"{num_parameters(run.state.params):,} parameters | {config.steps:,} steps of {tokens:,} tokens | "
        f"{method.method} ({method.coupling}) at weight decay {method.weight_decay:g}"
    )
    if method.method in MODULEWISE:
        rows = oad.module_table(run.state.opt_state, run.state.params, modules=MODULES)
        console.print(f"{len(rows)} modules get a decay of their own, all other parameters the base rate:")
        leaves = collections.Counter((row.name.rpartition("/")[0], row.shape) for row in rows)
        for (name, (m, n)), count in leaves.items():
            console.print(f"  {name}: {count} of {m} x {n}")
    if run.step:
        verb = "Finished before, at" if run.step == config.steps else "Going on from"
        console.print(f"{verb} step {run.step}: {run.checkpoints.latest()}")


def fit(run: Run, console: rich.console.Console) -> None:
    """Takes the steps that are left. Step k + 1 is under way before the numbers of step k are looked at.

    Args:
        run: The run; its state and step are moved on.
        console: Where to show the progress.

    Raises:
        Diverged: If the loss or the gradient is not finite.
    """
    config = run.config
    if run.step == config.steps:
        return
    pieces = (config.accumulate, config.batch_size // config.accumulate, config.data.sequence_length)
    console.print("Compiling the step ...")
    train_step = (
        make_train_step(run.graphdef, run.optimizer).lower(run.state, jax.ShapeDtypeStruct(pieces, jnp.int32)).compile()
    )
    learning_rates = np.asarray(jax.vmap(make_schedule(config.optimizer, config.steps))(jnp.arange(config.steps)))
    progress = Progress(console, start=run.step, steps=config.steps, tokens_per_step=math.prod(pieces))

    def look_at(step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values, run.checkpoints)
        progress.update(step, values["train/loss"])
        if step == 1 or step % config.log_every == 0:
            values["train/learning_rate"] = float(learning_rates[step - 1])
            log.write(step, {**values, "train/tokens_per_second": progress.tokens_per_second})

    with MetricsLog(config, start=run.step) as log, progress, jax.transfer_guard("disallow"):
        under_way = None
        for step in range(run.step + 1, config.steps + 1):
            tokens_AxBxL = jax.device_put(next(run.batches).reshape(pieces))
            run.state, metrics = train_step(run.state, tokens_AxBxL)
            run.step = step
            if under_way:
                look_at(*under_way)
            under_way = step, metrics
            if due := tasks(config, step):
                look_at(*under_way)
                under_way = None
                with progress.pause(), jax.transfer_guard("allow"):
                    for task in due:
                        task(run, log, console)


def check_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> None:
    """Stops a run whose numbers have gone bad, before a checkpoint of them is saved."""
    for name, value in values.items():
        if not math.isfinite(value):
            # The parameters after step - 1 are those that gave this value.
            good = checkpoints.latest(below=step - 1)
            raise Diverged(
                f"{name} is {value} at step {step}. Last good checkpoint: {good or 'none'}. "
                "The same command would fail again: lower --optimizer.learning-rate, with another --workdir."
            )


def tasks(config: Config, step: int) -> list[Callable[[Run, MetricsLog, rich.console.Console], None]]:
    """What to do after a step. The checkpoint is last: all that was logged up to its step is then on disk."""
    last = step == config.steps
    due = {
        log_modules: refreshes(config.optimizer, step),
        validate: last or step % config.eval_every == 0,
        save: last or step % config.checkpoint_every == 0,
    }
    return [task for task, is_due in due.items() if is_due]


def log_modules(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Logs the score and the ratio of every module after a refresh."""
    log.write(run.step, oad.scalars(run.state.opt_state, run.state.params, modules=MODULES))


def validate(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Logs and shows the validation loss."""
    validation = evaluate(run.graphdef, run.state.params, validation_set(run.config))
    values = {"loss": validation.loss, "perplexity": validation.perplexity, "tokens": validation.tokens}
    log.write(run.step, {f"validation/{name}": value for name, value in values.items()})
    steps = f"step {run.step}/{run.config.steps}"
    console.print(f"{steps} | validation loss {validation.loss:.4f} | perplexity {validation.perplexity:.2f}")


def save(run: Run, log: MetricsLog, console: rich.console.Console) -> None:
    """Saves a checkpoint."""
    run.checkpoints.save(run.step, run.state.params, run.state.opt_state, run.batches)


def conclude(run: Run, console: rich.console.Console) -> None:
    """Prints the results of a finished run and draws its figures."""
    config, state = run.config, run.state
    metrics_path = config.workdir / "metrics.jsonl"
    metrics = read_metrics(metrics_path)
    final = next(line for line in reversed(metrics) if "validation/loss" in line)
    baseline = unigram_of(config)
    console.print()
    if config.optimizer.method in MODULEWISE:
        rows = oad.module_table(state.opt_state, state.params, modules=MODULES)
        console.print(oad.format_table(rows, weight_decay=config.optimizer.weight_decay), end="\n\n")
    else:
        console.print(f"{config.optimizer.method} has no modules: no table, no figures of alpha and decay.\n")
    paths: list[tuple[str, pathlib.Path | None]] = [
        *(("figure", path) for path in figures.draw(config, metrics, state.params, baseline.loss)),
        ("checkpoint", run.checkpoints.latest()),
        ("metrics", metrics_path),
        ("TensorBoard", config.workdir / "tensorboard"),
    ]
    for name, path in paths:
        console.print(f"{name:<12}{path}")
    validation = Validation(final["validation/loss"], int(final["validation/tokens"]))
    console.print(f"\n{verdict(validation, baseline)}")


if __name__ == "__main__":
    sys.exit(main())
