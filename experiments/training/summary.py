"""What a run says of itself on the console: what is about to be trained, and what came out."""
# SPDX-License-Identifier: Apache-2.0

import collections
import pathlib

import jax
import rich.console

import optax_alphadecay as oad
from experiments.models.common import num_parameters
from experiments.parallel import distributed
from experiments.training.metrics import read_metrics
from experiments.training.optimizers import MEASURING, MODULES, MODULEWISE
from experiments.training.task import Run


def print_summary(run: Run, console: rich.console.Console) -> None:
    """Says what is about to be trained, and which modules get a decay of their own."""
    config, method = run.config, run.config.optimizer
    amount = f"{run.task.units_per_step(config):,} {run.task.unit}"
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


def finish(run: Run, console: rich.console.Console) -> None:
    """Prints the results of a finished run and draws its figures."""
    config, params, newest = run.config, distributed.to_host(run.state.params), run.checkpoints.latest()
    if jax.process_index():
        return
    metrics_path = config.workdir / "metrics.jsonl"
    metrics = read_metrics(metrics_path)
    written, result = run.task.report(config, metrics, params)
    console.print()
    if isinstance(config.optimizer, MEASURING):
        rows = oad.module_table(run.state.opt_state, params, modules=MODULES)
        has_decays = isinstance(config.optimizer, MODULEWISE)
        console.print(oad.format_table(rows, weight_decay=config.optimizer.weight_decay if has_decays else None))
        console.print("" if has_decays else "The ratio is of the learning rate. No figures of alpha and decay.\n")
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
