"""Saves and restores a run: parameters, optimizer state and data iterator, all in one atomic step."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grain
import jax
import orbax.checkpoint as ocp

from experiments.config import Config

MAY_CHANGE = ("workdir", "wandb", "log_every", "eval_every", "checkpoint_every")
"""Settings that do not touch the weights: a run may be resumed with others."""


class Checkpoints:
    """The checkpoints of one run, newest two kept. A step counts only once it is written whole."""

    def __init__(self, directory: pathlib.Path):
        """Opens the directory, made if need be, and clears away what an interrupted save has left.

        Args:
            directory: Where the steps lie, one folder each.
        """
        self.directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(2), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def latest(self, *, below: float = math.inf) -> pathlib.Path | None:
        """Finds the newest complete checkpoint. Waits for a save under way.

        Args:
            below: Only steps less than this count.

        Returns:
            Its folder, or None.
        """
        self._manager.wait_until_finished()
        steps = [step for step in self._manager.all_steps() if step < below]
        return self.directory / str(max(steps)) if steps else None

    def save(self, step: int, params: Any, opt_state: Any, batches: grain.DatasetIterator) -> None:
        """Saves one step. Returns when the arrays are copied off the device; writing goes on behind.

        Args:
            step: Optimizer steps made.
            params: Parameters after `step` updates.
            opt_state: Optimizer state after `step` updates.
            batches: The data iterator, `step` batches in.
        """
        items = {
            "params": ocp.args.StandardSave(params),
            "opt_state": ocp.args.StandardSave(opt_state),
            "batches": grain.checkpoint.CheckpointSave(batches),
        }
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, params: Any, opt_state: Any, batches: grain.DatasetIterator) -> tuple[int, Any, Any]:
        """Restores the newest complete checkpoint, if there is one.

        Args:
            params: Parameters whose structure, shapes, dtypes and shardings to restore to.
            opt_state: The same for the optimizer state.
            batches: A fresh data iterator; it is moved to where the run was.

        Returns:
            The step, the parameters and the optimizer state: those restored, or 0 and those given.
        """
        step = self._manager.latest_step()
        if step is None:
            return 0, params, opt_state
        items = {
            "params": ocp.args.StandardRestore(_abstract(params)),
            "opt_state": ocp.args.StandardRestore(_abstract(opt_state)),
            "batches": grain.checkpoint.CheckpointRestore(batches),
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return step, restored["params"], restored["opt_state"]

    def restore_params(self, params: Any) -> tuple[int, Any]:
        """Restores only the parameters of the newest complete checkpoint; there must be one.

        Args:
            params: Parameters whose structure, shapes, dtypes and shardings to restore to.

        Returns:
            The step and its parameters.
        """
        step = self._manager.latest_step()
        args = ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(params)))
        return step, self._manager.restore(step, args=args)["params"]

    def close(self) -> None:
        """Waits for saves under way and ends the threads."""
        self._manager.close()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


def claim_workdir(config: Config) -> None:
    """Holds the settings against those of the run that `config.workdir` belongs to, then writes them there.

    A run without a checkpoint has nothing to lose and is replaced.

    Args:
        config: The run about to start or to go on.

    Raises:
        ValueError: If the folder belongs to a run with other settings; names each of them.
    """
    if ocp.utils.checkpoint_steps(config.workdir / "checkpoints"):
        _refuse_differences(config, lambda name: name not in MAY_CHANGE)
    config.workdir.mkdir(parents=True, exist_ok=True)
    partial = config.workdir / "config.partial"
    partial.write_text(json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n")
    partial.replace(config.workdir / "config.json")


def find_run(config: Config) -> None:
    """Checks that `config.workdir` holds a run of this model; all else may differ.

    Args:
        config: Names the folder and the model.

    Raises:
        FileNotFoundError: If there is no complete checkpoint.
        ValueError: If its model is another one; names each setting that differs.
    """
    if not ocp.utils.checkpoint_steps(config.workdir / "checkpoints"):
        raise FileNotFoundError(f"There is no complete checkpoint in {config.workdir}: pass the --workdir of a run.")
    _refuse_differences(config, lambda name: name.startswith("model."))


def _refuse_differences(config: Config, matters: Callable[[str], bool]) -> None:
    """Raises a ValueError that lists the settings that matter and differ from those in `config.json`."""
    saved = _flatten(json.loads((config.workdir / "config.json").read_text()))
    now = _flatten(json.loads(json.dumps(dataclasses.asdict(config), default=str)))
    differences = [
        f"  {name}: {saved.get(name)} there, {now.get(name)} now"
        for name in sorted(saved.keys() | now.keys())
        if matters(name) and saved.get(name) != now.get(name)
    ]
    if differences:
        lines = [f"{config.workdir} holds a run with other settings:", *differences]
        raise ValueError("\n".join([*lines, "Pass the same settings, or another --workdir."]))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of the arrays in a tree."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
