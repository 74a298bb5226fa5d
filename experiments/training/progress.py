"""Shows how a run goes: a bar in a terminal, plain lines elsewhere, and measures its speed."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import datetime
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import rich.console
import rich.progress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Loss, tokens per second and time left. Time spent in `pause()` is not counted as training."""

    def __init__(
        self, console: rich.console.Console, *, start: int, steps: int, tokens_per_step: int, unit: str = "tokens"
    ):
        """Starts the clocks.

        Args:
            console: Where to write. Not a terminal: a plain line at most every ten seconds.
            start: Steps already made.
            steps: Steps of the whole run.
            tokens_per_step: Tokens, or other units, that one step trains on.
            unit: What is counted.
        """
        self._console, self._start, self._steps = console, start, steps
        self._tokens_per_step, self._unit = tokens_per_step, unit
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed}/{task.total}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, status="compiling")
        self._began = self._lap_began = self._line_written = time.monotonic()
        self._lap_step, self._paused, self._speed = start, 0.0, 0.0

    def update(self, step: int, loss: float) -> None:
        """Shows a step that has ended.

        Args:
            step: Steps made, counted from 1.
            loss: Its training loss in nats.
        """
        now = time.monotonic()
        left = (now - self._began) / (step - self._start) * (self._steps - step)
        trained = now - self._lap_began - self._paused
        if trained >= 1.0 or not self._speed:
            self._speed = (step - self._lap_step) * self._tokens_per_step / max(trained, 1e-9)
            self._lap_began, self._lap_step, self._paused = now, step, 0.0
        status = f"loss {loss:.3f} | {self._speed:,.0f} {self._unit}/s | {duration(left)} left"
        self._bar.update(self._task, completed=step, status=status)
        if not self._console.is_terminal and (now - self._line_written >= SECONDS_BETWEEN_LINES):
            self._line_written = now
            self.line(f"step {step}/{self._steps} | {status}")

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the last second or more."""
        return self._speed

    def line(self, text: str) -> None:
        """Writes a line of its own, above the bar if there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stops the clock of the speed, for evaluation and the like."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def __enter__(self) -> Self:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()


def duration(seconds: float) -> str:
    """Writes a time span as `1:05` or `2:01:05`."""
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3600 else text
