"""Helpers of tests that break runs off: what a run left behind, and acts at a moment of it."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments.training.metrics import read_metrics
from tests.experiments.experiment_fixtures import STEPS, FinishedRun


def arrays_of(workdir: pathlib.Path, item: str) -> list[np.ndarray]:
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir / "checkpoints" / str(STEPS) / item)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def without_speed(workdir: pathlib.Path) -> list[dict[str, float]]:
    """What a run has logged, but for its speed, and for norms, which only the unbroken run measures."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "norms/mean/weight_l2" not in line]
    return [{name: value for name, value in line.items() if name != "train/tokens_per_second"} for line in lines]


def assert_ended_as_unbroken(workdir: pathlib.Path, finished_run: FinishedRun) -> None:
    """The parameters, the optimizer's state, and every number logged: the losses tell the order of the data."""
    for item in ("params", "opt_state"):
        for ours, theirs in zip(arrays_of(workdir, item), arrays_of(finished_run.workdir, item), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert without_speed(workdir) == without_speed(finished_run.workdir)


def after(function: Callable[..., Any], act: Callable[[], object], when: Callable[..., bool]) -> Callable[..., Any]:
    """The function, followed by an act when its arguments say so."""

    def wrapped(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        if when(*args, **named):
            act()
        return result

    return wrapped


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def numbers() -> grain.DatasetIterator:
    return iter(grain.MapDataset.range(100).shuffle(seed=3).to_iter_dataset().batch(4))


def state_after(steps: int) -> tuple[dict[str, dict[str, jax.Array]], optax.OptState]:
    params = {
        "layers": {"kernel": jnp.arange(6.0).reshape(2, 3)},
        "embed": {"table": jnp.ones(4, jnp.bfloat16)},
    }
    optimizer = optax.adam(0.1)
    opt_state = optimizer.init(params)
    for _ in range(steps):
        updates, opt_state = optimizer.update(params, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state
