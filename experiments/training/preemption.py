"""Notices SIGTERM, by which schedulers announce that a machine is about to be taken away."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

from experiments.parallel import distributed

EXIT_CODE = 128 + signal.SIGTERM
"""143, as a shell reports a process that SIGTERM ended. Not 0: schedulers take that for a finished job and do not
start it again. Not 1: a job that failed should not be started again as it is."""

SECONDS_OF_ONE_SIGNAL = 1.0
"""Signals of one kind within so short a time are one: schedulers may send them to a process and to its group."""

Item = TypeVar("Item")


_NAMES = {int(signal.SIGINT): "Ctrl-C", int(signal.SIGTERM): "SIGTERM"}


class Preempted(Exception):
    """The run has to stop here; it can go on later."""


class Preemption(contextlib.AbstractContextManager["Preemption"]):
    """While it is entered, SIGTERM is noted instead of ending the process; a second one ends it at once.

    Asked only between steps, so that whatever is under way is finished. With several processes the signal may reach
    only one of them, so they ask each other; each has to ask at the same points. JAX's preemption service, which does
    the same, counts these points from the start of the process, and never finds the step of a run that goes on.
    """

    def __init__(self, *, patient: bool = False) -> None:
        """Listens to nothing yet.

        Args:
            patient: Whether further signals are noted like the first.
        """
        self._patient = patient
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
            self._agreed = bool(distributed.fetch(self._answer if jax.process_count() == 1 else before, "a signal"))
        return self._agreed

    def check(self) -> None:
        """Asks at once, and raises Preempted if the run has to stop."""
        self._agreed = self._agreed or bool(distributed.fetch(distributed.on_any_process(self._signalled), "a signal"))
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
        if not self._patient:
            reads, self._writes = os.pipe()
            os.set_blocking(self._writes, False)
            self._wakeup_before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
            threading.Thread(target=_end_at_second, args=(reads,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Puts the former handler back."""
        signal.signal(signal.SIGTERM, self._before)
        if not self._patient:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._writes)

    def _note(self, number: int, frame: object) -> None:
        self._signalled = True


def _end_at_second(reads: int) -> None:
    """Ends the process at the second SIGTERM or Ctrl-C, wherever it is; returns when the pipe is closed.

    Python calls handlers of signals in the main thread alone, which may wait in a collective and never come back.

    Args:
        reads: Where the number of each signal can be read.
    """
    first: dict[int, float] = {}
    while number := os.read(reads, 1):
        now = time.monotonic()
        if now - first.setdefault(number[0], now) > SECONDS_OF_ONE_SIGNAL and number[0] in _NAMES:
            print(f"Ended by a second {_NAMES[number[0]]}. What was saved is intact.", file=sys.stderr, flush=True)
            os._exit(128 + number[0])
    os.close(reads)
