"""How things are measured: in turns, in one process, as ratios."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results."""

    name: str
    """What is compared with what."""
    measured: float | None
    """The median, or the one number there is; None if it could not be measured, for the reason in `detail`."""
    unit: Literal["x", "MB", "s", ""]
    """`x`: a ratio. MB: 10^6 bytes. s: seconds. Empty: a count."""
    budget: float | None = None
    """The most it may be; None where nothing was promised."""
    quartiles: tuple[float, float] | None = None
    """Where the middle half of the repeats lie."""
    repeats: int = 1
    """Measurements the median is taken over."""
    detail: str = ""
    """The two sides of a ratio, in absolute numbers."""
    seconds: tuple[float, float] | None = None
    """Medians of the two sides of a ratio of times."""

    @property
    def holds(self) -> bool | None:
        """Whether the budget is kept; None where there is none, or nothing to compare with it."""
        return None if self.budget is None or self.measured is None else self.measured <= self.budget


def take_turns(contenders: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Times all contenders in turns, so that whatever else the machine does falls on all alike.

    Args:
        contenders: What to time, by name. A call returns once its work is done.
        repeats: Turns, after two that are not timed. Every second one goes in reverse, so that none always follows
            the same other.

    Returns:
        Seconds, float64 `[repeats]`, by name.

    Raises:
        ValueError: If `repeats` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1.")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-_WARM_UP, repeats):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            contenders[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(name: str, seconds: Mapping[str, np.ndarray], this: str, that: str, budget: float | None = None) -> Row:
    """Compares two of the contenders that `take_turns` has timed.

    Args:
        name: Name of the row.
        seconds: What `take_turns` returned.
        this: Name of the contender on top of the fraction.
        that: Name of the one below.
        budget: The most the ratio may be.

    Returns:
        The median of the turns' ratios.
    """
    ratios = seconds[this] / seconds[that]
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    sides = float(np.median(seconds[this])), float(np.median(seconds[that]))
    detail = " / ".join(f"{1e3 * side:.0f} ms" for side in sides)
    return Row(name, median, "x", budget, (low, high), len(ratios), detail, sides)
