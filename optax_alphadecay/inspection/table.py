"""The table in the terminal: sorted, filtered, and with the columns asked for."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import operator
import re
from collections.abc import Sequence
from typing import Any

from optax_alphadecay.inspection.comparison import change, labels, trajectories
from optax_alphadecay.inspection.records import COLUMNS, Inspection, ModuleRecord
from optax_alphadecay.inspection.tensors import CheckpointError, require

DEFAULT_COLUMNS = (
    "name,shape,alpha,random_alpha,alpha_goodness_of_fit,ks_distance,"
    "stable_rank,spectral_norm,beyond_edge,traps,ratio,decay"
)
_HEADINGS = {
    "name": "module",
    "alpha_goodness_of_fit": "alpha KS",
    "alpha_fix_finger": "alpha FF",
    "alpha_hat": "alpha hat",
    "ks_distance": "KS",
    "random_alpha": "random",
    "beyond_edge": "spikes",
}
_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_UNKNOWN = "-"
_NUMBERS = {field.name for field in dataclasses.fields(ModuleRecord) if field.type in (int, float, int | None)}
_CONDITION = re.compile(r"\s*(\w[\w ]*?)\s*(<=|>=|!=|==?|<|>)\s*(\S.*?)\s*")


@dataclasses.dataclass(frozen=True)
class View:
    """Which rows and columns of the table to show."""

    columns: str = DEFAULT_COLUMNS
    """Names of columns, joined by commas."""
    sort: str = ""
    """Column to sort by; a minus before it sorts from the largest."""
    match: str = ""
    """Regular expression that is found in the names of the modules shown."""
    where: tuple[str, ...] = ()
    """Conditions such as ``"alpha > 3"`` that all hold for the modules shown."""
    top: int | None = None
    """At most this many modules."""


def rows(modules: Sequence[ModuleRecord], view: View) -> list[ModuleRecord]:
    """Sort and filter.

    Raises:
      CheckpointError: if a column or a condition is not one; says what there is.
    """
    shown = [module for module in modules if re.search(view.match, module.name)]
    for condition in view.where:
        if not (parsed := _CONDITION.fullmatch(condition)):
            raise CheckpointError(f"--where {condition!r}: write it as 'alpha > 3', a column, a comparison and a value")
        column, sign = _column("--where", parsed[1]), parsed[2].replace("==", "=")
        value = _value(condition, column, sign, parsed[3])
        shown = [module for module in shown if _holds(getattr(module, column), _OPERATORS[sign], value)]
    if view.sort:
        column = _column("--sort", view.sort.removeprefix("-"))
        keyed = [(getattr(module, column), module) for module in shown]
        known = [pair for pair in keyed if not (pair[0] is None or pair[0] != pair[0])]
        known.sort(key=lambda pair: pair[0], reverse=view.sort.startswith("-"))
        shown = [module for _, module in known] + [module for value, module in keyed if value is None or value != value]
    return shown[: view.top]


def check(view: View) -> None:
    """Raise a CheckpointError if the view names what there is not, before anything is measured."""
    rows([], view)
    _columns(view)


def _value(condition: str, column: str, sign: str, text: str) -> float | str:
    """Read what a column is compared with: a number, or a text without the spaces of a shape."""
    if column not in _NUMBERS or text == _UNKNOWN:
        if sign not in ("=", "!="):
            raise CheckpointError(
                f"--where {condition!r}: {text if column in _NUMBERS else column} is no number: write = or !="
            )
        return text.replace(" ", "")
    try:
        return float(text)
    except ValueError as error:
        raise CheckpointError(
            f"--where {condition!r}: {column} is a number, and {text!r} is none; for several conditions, give --where"
            " several times"
        ) from error


def _holds(value: Any, compare: Any, other: float | str) -> bool:
    """Whether a condition holds; of a number that is not known, ``!=`` alone does."""
    if isinstance(other, str):
        return bool(compare(cell(value).replace(" ", ""), other))
    return bool(compare(math.nan if value is None else value, other))


def _columns(view: View) -> list[str]:
    return [_column("--columns", name.strip()) for name in view.columns.split(",")]


def _column(option: str, name: str) -> str:
    """Find a column by its name or by its printed heading, in capitals or not."""
    for column in COLUMNS:
        if name.lower() in (column, _heading(column).lower()):
            return column
    raise CheckpointError(f"{option}: there is no column {name!r}; there are {', '.join(COLUMNS)}")


def _heading(column: str) -> str:
    return _HEADINGS.get(column, column.replace("_", " "))


def cell(value: Any) -> str:
    """Write one value: four digits, ``-`` for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _UNKNOWN
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(console: Any, inspection: Inspection, view: View) -> None:
    """Print the modules of one checkpoint."""
    columns = _columns(view)
    _print(
        console,
        list(map(_heading, columns)),
        [[cell(getattr(module, name)) for name in columns] for module in rows(inspection.modules, view)],
        of=len(inspection),
    )


def print_comparison(console: Any, inspections: Sequence[Inspection], view: View) -> None:
    """Print alpha of each module in every checkpoint, and by how much it has changed."""
    shown = {module.name: module for inspection in inspections for module in inspection}
    alphas = trajectories(inspections)
    _print(
        console,
        ["module", *(f"alpha {label}" for label in labels(inspections)), "change"],
        [
            [module.name, *map(cell, alphas[module.name]), cell(change(alphas[module.name]))]
            for module in rows([shown[name] for name in alphas], view)
        ],
        of=len(alphas),
    )


def print_left_out(console: Any, inspection: Inspection) -> None:
    """Print what was left out of one checkpoint, and why."""
    lines = [[tensor.name, cell(tensor.shape), tensor.dtype, tensor.reason] for tensor in inspection.left_out]
    _print(console, ["left out", "shape", "dtype", "because"], lines)


def _print(console: Any, headings: Sequence[str], lines: Sequence[Sequence[str]], *, of: int = 0) -> None:
    """Print a table; if the view leaves none of so many modules, say so instead."""
    if of and not lines:
        console.print(f"None of {of} modules is shown: --match, --where or --top leave all of them out.")
        return
    rich_table = require("rich.table", "the table", "'optax-alphadecay[inspect]'")
    rich_text = require("rich.text", "the table", "'optax-alphadecay[inspect]'")
    table = rich_table.Table(box=None, pad_edge=False, header_style="bold")
    for at, heading in enumerate(headings):
        table.add_column(rich_text.Text(heading), justify="left" if at == 0 else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(rich_text.Text, line))  # as text: a name is no markup
    console.print(table)
