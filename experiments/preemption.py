"""Notices SIGTERM, by which schedulers announce that a machine is about to be taken away."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 128 + signal.SIGTERM
"""143, as a shell reports a process that SIGTERM ended. Not 0: schedulers take that for a finished job and do not
start it again. Not 1: a job that failed should not be started again as it is."""

Item = TypeVar("Item")


class Preempted(Exception):
    """The run has to stop here; it can go on later."""


class Preemption(contextlib.AbstractContextManager["Preemption"]):
    """While it is entered, SIGTERM is noted instead of ending the process.

    Asked only between steps, so that whatever is under way is finished. With several processes the signal may reach
    only one of them: JAX's preemption service, whose handler takes the place of this one when jax.distributed starts,
    then agrees with the others on a step that all of them still reach.
    """

    def __init__(self) -> None:
        self._signalled = False

    def at(self, step: int) -> bool:
        """Asks whether to stop. Every process must ask at every step; to ask again at the same one changes nothing.

        Args:
            step: Optimizer steps made.
        """
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)

    def check(self, step: int) -> None:
        """Raises Preempted where `at` says to stop."""
        if self.at(step):
            raise Preempted

    def watch(self, items: Iterable[Item], step: int) -> Iterator[Item]:
        """Passes items on, and raises Preempted between two of them."""
        for item in items:
            self.check(step)
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
