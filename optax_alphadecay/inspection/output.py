"""Inspections as files: JSON, CSV and a page of HTML."""
# SPDX-License-Identifier: Apache-2.0

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from optax_alphadecay.inspection import page
from optax_alphadecay.inspection.records import COLUMNS, Inspection, rows_of
from optax_alphadecay.inspection.summary import sentences


def write_json(path: pathlib.Path, inspections: Sequence[Inspection]) -> None:
    """Write summaries, modules and what was left out of every checkpoint as one object."""
    text = json.dumps({"version": 1, "checkpoints": list(map(_as_json, inspections))}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_csv(path: pathlib.Path, inspections: Sequence[Inspection]) -> None:
    """Write one line a module, which begins with its checkpoint."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["checkpoint", *COLUMNS])
        for inspection in inspections:
            writer.writerows([inspection.source, *_cells(rows_of(module))] for module in inspection)


def write_html(path: pathlib.Path, inspections: Sequence[Inspection]) -> None:
    """Write a page that needs no network."""
    path.write_text(page.render(inspections), encoding="utf-8")


def _cells(row: dict[str, Any]) -> list[Any]:
    return ["x".join(map(str, value)) if isinstance(value, tuple) else value for value in row.values()]


def _as_json(inspection: Inspection) -> dict[str, Any]:
    modules = [{name: page.plain(value) for name, value in rows_of(module).items()} for module in inspection]
    left_out = [{name: page.plain(value) for name, value in vars(tensor).items()} for tensor in inspection.left_out]
    return {
        "source": inspection.source,
        "weight_decay": inspection.weight_decay,
        "summary": sentences(inspection),
        "modules": modules,
        "left_out": left_out,
    }
