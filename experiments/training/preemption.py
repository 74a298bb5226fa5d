"""Notices SIGTERM, by which schedulers announce that a machine is about to be taken away."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

from experiments.parallel import distributed

EXIT_CODE = 128 + signal.SIGTERM
"""143, as a shell reports a process that SIGTERM ended. Not 0: schedulers take that for a finished job and do not
start it again. Not 1: a job that failed should not be started again as it is."""

Item = TypeVar("Item")


class Preempted(Exception):
    """The run has to stop here; it can go on later."""


class Preemption(contextlib.AbstractContextManager["Preemption"]):
    """While it is entered, SIGTERM is noted instead of ending the process.

    Asked only between steps, so that whatever is under way is finished. With several processes the signal may reach
    only one of them, so they ask each other; each has to ask at the same points. JAX's preemption service, which does
    the same, counts these points from the start of the process, and never finds the step of a run that goes on.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._agreed = False
        self._step: int | None = None
        self._answer: jax.Array | bool = False

    def at(self, step: int) -> bool:
        """Asks whether to stop after a step. To ask again after the same step changes nothing.

        With several processes it takes the answer to what was asked one step before: no device has to wait for it.

        Args:
            step: Optimizer steps made.
        """
        if step != self._step and not self._agreed:
            self._step = step
            before, self._answer = self._answer, distributed.on_any_process(self._signalled)
            self._agreed = bool(jax.device_get(self._answer if jax.process_count() == 1 else before))
        return self._agreed

    def check(self) -> None:
        """Asks at once, and raises Preempted if the run has to stop."""
        self._agreed = self._agreed or bool(jax.device_get(distributed.on_any_process(self._signalled)))
        if self._agreed:
            raise Preempted

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Passes items on, and raises Preempted between two of them."""
        for item in items:
            self.check()
            yield item

    def __enter__(self) -> "Preemption":
        """Starts to listen. Only the main thread may."""
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Puts the former handler back."""
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: object) -> None:
        self._signalled = True
