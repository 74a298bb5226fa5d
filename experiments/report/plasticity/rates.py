"""The learning rate of fine-tuning in the report: the suite's own, held against others."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

from experiments.report.data import Book
from experiments.report.parts import Part, Section
from experiments.report.statistics import Cell
from experiments.report.text import NOT_MADE, table
from experiments.suites.plasticity import RATE_DECAYS, RATES, TASKS

ABOUT = (
    "Base models of AdamW with a pre-training seed that the comparison above does not have, fine-tuned by its recipe "
    "but for the peak of the learning rate. The comparison has one rate for each task, whatever the base model: "
    f"{', '.join(f'{task} {plan.learning_rate:g}' for task, plan in TASKS.items())}. Nats of the validation split at "
    "the end, one seed; the lowest of a row is bold. Where the best rate of a base model is another one, the "
    "comparison is a little unfair to it."
)


def section() -> Section:
    """The section of the report."""
    return Section("Learning rate of fine-tuning", ABOUT, "plasticity-rates", _part)


def _part(book: Book, scale: str) -> Part:
    found = losses(book.cells["plasticity-rates", scale])
    rows = [
        [task, f"{decay:g}", *(_text(of_row.get(rate), of_row) for rate in RATES)]
        for (task, decay), of_row in found.items()
    ]
    whole = [of_row for of_row in found.values() if of_row.keys() == set(RATES)]
    wins = {rate: sum(rate == min(of_row, key=of_row.__getitem__) for of_row in whole) for rate in RATES}
    told = ", ".join(f"{rate:g} in {count}" for rate, count in wins.items() if count)
    planned = len(RATE_DECAYS) * len(TASKS)
    line = f"Best of {len(RATES)} rates, in {len(whole)} of {planned} rows that are whole: {told or 'no row'}."
    return Part(line, table(("task", "weight decay", *(f"{rate:g}" for rate in RATES)), rows))


def losses(cells: Sequence[Cell]) -> dict[tuple[str, float], dict[float, float]]:
    """Validation loss in nats, by task and weight decay and then by learning rate; runs not made are missing."""
    found: dict[tuple[str, float], dict[float, float]] = {}
    for cell in cells:
        row = found.setdefault((str(cell.labels["task"]), float(cell.labels["weight decay"])), {})
        for value in cell.values("loss").values():
            row[float(cell.labels["learning rate"])] = value
    return found


def _text(value: float | None, row: dict[float, float]) -> str:
    if value is None:
        return NOT_MADE
    return f"**{value:.4f}**" if value == min(row.values()) else f"{value:.4f}"
