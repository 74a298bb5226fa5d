"""What the report is made of: sections, and what each shows at a scale."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.report.data import Book


class Part(NamedTuple):
    """What a table or figure shows at one scale."""

    line: str
    """In a line of Markdown."""
    table: str = ""
    draw: Callable[[], Figure] | None = None


class Section(NamedTuple):
    """A table or figure of the report."""

    heading: str
    about: str
    """How to read it."""
    suite: str
    """Its runs; what was made of them decides at which scales it is shown."""
    part: Callable[[Book, str], Part]
    tuned: tuple[str, ...] = ()
    """Suites that its last column is made by, in the order to make them."""
    after: Callable[[], str] | None = None
    """Markdown that is no matter of scale."""
