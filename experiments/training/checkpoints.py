"""Saves and restores a run: parameters, optimizer state and data iterator, all in one atomic, sealed step."""
# SPDX-License-Identifier: Apache-2.0

import concurrent.futures
import contextlib
import itertools
import logging
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.multihost import get_barrier_sync_fn

import optax_alphadecay as oad
from experiments.parallel import distributed
from experiments.training import checksums


class Batches(Protocol):
    """A data iterator. With several processes, all call these; the state is the same on each, and fit for JSON."""

    def get_state(self) -> dict[str, Any]:
        """Where it is."""

    def set_state(self, state: dict[str, Any], /) -> None:
        """Moves to where it was."""


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of one run, newest two kept. A step counts only once all of it is written and sealed."""

    def __init__(self, directory: pathlib.Path):
        """Opens the directory, made if need be, and clears away what an interrupted save has left.

        Steps newer than the newest intact one are renamed to `STEP.damaged`, and named on stderr.

        Args:
            directory: Where the steps lie, one folder each.

        Raises:
            ValueError: If there is no intact step but a damaged one; names what is wrong with each.
        """
        self.directory = directory
        self._newest: int | None = distributed.from_first_process(lambda: _newest_to_resume_from(directory))
        logging.getLogger("absl").addFilter(_is_news)
        self._report_unraisable, sys.unraisablehook = sys.unraisablehook, self._report_unless_late
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(2), cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=_wait_for_others),
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "seal_checkpoint")
        self._under_way: concurrent.futures.Future[None] | None = None

    def latest(self, *, below: float = math.inf) -> pathlib.Path | None:
        """Finds the newest complete checkpoint. Waits for a save under way.

        Args:
            below: Only steps less than this count.

        Returns:
            Its folder, or None.

        Raises:
            OSError: As `save`.
        """
        self._wait()
        steps = [step for step in self._manager.all_steps() if step < below]
        return self.directory / str(max(steps)) if steps else None

    def save(self, step: int, params: Any, opt_state: Any, batches: Batches) -> None:
        """Saves one step. Returns when the arrays are copied off the device; writing goes on behind.

        Args:
            step: Optimizer steps made.
            params: Parameters after `step` updates.
            opt_state: Optimizer state after `step` updates.
            batches: The data iterator, `step` batches in.

        Raises:
            OSError: If this save or the one before failed; names the folder and the cause.
        """
        items = {
            "params": ocp.args.StandardSave(params),
            "opt_state": ocp.args.StandardSave(opt_state),
            "batches": ocp.args.JsonSave(batches.get_state()),
        }
        self._wait()
        with self._explained(step):
            self._manager.save(step, args=ocp.args.Composite(**items))
        self._under_way = self._sealer.submit(self._seal, step)

    def check(self) -> None:
        """Raises the OSError of a save that has failed behind; waits for nothing."""
        if self._under_way and self._under_way.done():
            self._wait()

    def restore(self, params: Any, opt_state: Any, batches: Batches) -> tuple[int, Any, Any] | None:
        """Restores the checkpoint that was the newest intact one when the directory was opened, if there was one.

        Args:
            params: `jax.ShapeDtypeStruct` with shardings, or arrays like those to restore.
            opt_state: The same for the optimizer state.
            batches: A fresh data iterator; it is moved to where the run was.

        Returns:
            The step, the parameters and the optimizer state; None if there was no checkpoint.

        Raises:
            ValueError: If parameters, optimizer state or data iterator are of another kind.
        """
        if self._newest is None:
            return None
        try:
            restored = self._restore(self._newest, params, opt_state)
        except ValueError as error:
            restored = self._restore_earlier(self._newest, params, opt_state, error)
        try:
            batches.set_state(restored["batches"])
        except OSError:  # the data cannot be read
            raise
        except Exception as error:  # of any kind: each data iterator has its own
            path = self.directory / str(self._newest) / "batches"
            raise ValueError(f"{path} is not a state of this data iterator: {type(error).__name__} {error}.") from error
        return self._newest, restored["params"], oad.upgrade_state(restored["opt_state"])

    def _restore_earlier(self, step: int, params: Any, opt_state: Any, error: ValueError) -> Any:
        """Reads a step that an earlier version of the library saved; raises `error` if none did."""
        for template in oad.earlier_states(opt_state):
            with contextlib.suppress(ValueError):
                return self._restore(step, params, template)
        raise error

    def _restore(self, step: int, params: Any, opt_state: Any) -> Any:
        """Reads the items of a step."""
        items = {
            "params": ocp.args.StandardRestore(_abstract(params)),
            "opt_state": ocp.args.StandardRestore(_abstract(opt_state)),
            "batches": ocp.args.JsonRestore(),
        }
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def close(self) -> None:
        """Waits for a save under way, raises its OSError if nobody has, and ends the threads."""
        try:
            self._wait()
        finally:
            self._sealer.shutdown()
            # Orbax raises the error of a save in each thread that waits for it; the sealer has passed it on.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._manager.wait_until_finished()
            self._manager.close()
            logging.getLogger("absl").removeFilter(_is_news)
            sys.unraisablehook = self._report_unraisable

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    def _report_unless_late(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Keeps out TensorStore's reports of writes that ended after another had failed, and Orbax had given up."""
        if str(unraisable.exc_value) != "Event loop is closed":
            self._report_unraisable(unraisable)

    def _wait(self) -> None:
        """Waits for the save under way, and raises its error once."""
        under_way, self._under_way = self._under_way, None
        if under_way:
            with distributed.bounded("a save"):
                under_way.result()

    def _seal(self, step: int) -> None:
        """Waits until every process has written its part of the step, then seals it."""
        with self._explained(step):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                checksums.seal(self.directory / str(step))

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turns an error of a save into one that names the folder. TensorStore's are ValueErrors, disk full or not."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(f"Cannot save step {step} in {self.directory}: {error}") from error


def _wait_for_others(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes at a point of a save, unless what this one has to write has failed.

    Orbax waits for all in a `finally`, also where a write has failed, while the others wait for it to be written.
    """
    if sys.exc_info()[1] is None:
        get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def restore_params(directory: pathlib.Path, params: Any) -> tuple[int, Any]:
    """Restores only the parameters of the newest intact checkpoint. Changes nothing, so that a run may be writing.

    Args:
        directory: Where the steps lie.
        params: Parameters whose structure, shapes, dtypes and shardings to restore to.

    Returns:
        The step and its parameters.

    Raises:
        ValueError: If no step is intact; names what is wrong with each.
    """
    step = distributed.from_first_process(lambda: _newest_to_read(directory))
    with ocp.StandardCheckpointer() as checkpointer:
        return step, checkpointer.restore(directory.resolve() / str(step) / "params", _abstract(params))


def _newest_to_read(directory: pathlib.Path) -> int:
    """The newest intact step; names those it skips."""
    step, faults = checksums.newest_intact(directory)
    for number, fault in faults.items():
        print(f"warning: skipped {directory / str(number)}: {fault}.", file=sys.stderr)
    if step is None:
        raise ValueError(f"There is no intact checkpoint in {directory}: pass the --workdir of another run.")
    return step


def _newest_to_resume_from(directory: pathlib.Path) -> int | None:
    """The newest intact step, if any; moves damaged ones out of the way."""
    newest, faults = checksums.newest_intact(directory)
    _set_aside(directory, newest, faults)
    return newest


def _set_aside(directory: pathlib.Path, newest: int | None, faults: dict[int, str]) -> None:
    """Renames steps that may not be used, so that the run can save those steps again."""
    if newest is None and any((directory / str(step) / checksums.NAME).exists() for step in faults):
        lines = [f"  {directory / str(step)}: {fault}" for step, fault in faults.items()]
        advice = "Restore one of them from a copy, or start again in another --workdir."
        raise ValueError("\n".join([f"Every checkpoint in {directory} is damaged:", *lines, advice]))
    for step, fault in faults.items():
        path = directory / str(step)
        names = itertools.chain([f"{step}.damaged"], (f"{step}.damaged-{number}" for number in itertools.count(2)))
        aside = next(directory / name for name in names if not (directory / name).exists())
        path.rename(aside)
        previous = directory / str(newest) if newest is not None else "the start"
        print(f"warning: {path} is unusable, {fault}. It is now {aside}; using {previous}.", file=sys.stderr)


def _abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of the arrays in a tree."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _is_news(record: logging.LogRecord) -> bool:
    """Keeps out Orbax's reports of the errors that it raises as well. Others log to the same logger."""
    return not (record.exc_info and "orbax" in pathlib.PurePath(record.pathname).parts)
