"""Results as a Markdown table and as JSON, with what they were measured on."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
from collections.abc import Sequence

import jax

from benchmarks.measure import Row

# What changes how many threads work, and on what.
_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "torch")


def conditions(
    arguments: Sequence[str], *, module: str = "benchmarks.run", packages: Sequence[str] = _PACKAGES
) -> dict[str, str]:
    """Where, when and with what this process measures.

    Args:
        arguments: The command line after `python -m MODULE`.
        module: What was run.
        packages: Those whose versions matter.

    Returns:
        Names and values, ready to print.
    """
    versions = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    variables = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    return {
        "command": shlex.join([*variables, "python", "-m", module, *arguments]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores; jax on {jax.devices()[0].device_kind}",
        "versions": ", ".join(versions),
    }


def markdown(measured_under: dict[str, str], rows: Sequence[Row]) -> str:
    """Formats results for reading.

    Args:
        measured_under: What `conditions` returned.
        rows: The results.

    Returns:
        A Markdown list of the conditions and a table of the rows, ending in a newline.
    """
    columns = ("what", "measured", "budget", "holds", "middle half", "repeats", "in absolute numbers")
    lines = []
    for row in rows:
        measured = "" if row.measured is None else _number(row, row.measured)
        budget = "" if row.budget is None else f"≤ {_number(row, row.budget)}"
        holds = "" if row.holds is None else "yes" if row.holds else "**no**"
        spread = "" if row.quartiles is None else " … ".join(_number(row, value) for value in row.quartiles)
        lines.append([row.name, measured, budget, holds, spread, str(row.repeats), row.detail])
    return f"{listed(measured_under)}\n{table(columns, lines)}"


def listed(measured_under: dict[str, str]) -> str:
    """Formats conditions as a Markdown list, ending in a newline."""
    return "".join(f"- {name}: {value}\n" for name, value in measured_under.items())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table, ending in a newline; columns that hold numbers only are set to the right."""
    numbers = [
        all(not cells[at] or cells[at].lstrip("≤ -+")[:1].isdigit() for cells in rows) for at in range(len(columns))
    ]
    rule = ["---:" if is_number else "---" for is_number in numbers]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rule, *rows))


def write(folder: pathlib.Path, measured_under: dict[str, str], rows: Sequence[Row]) -> None:
    """Writes `results.md` and `results.json` into an existing folder."""
    table = markdown(measured_under, rows)
    (folder / "results.md").write_text(f"# Measured by `benchmarks/`\n\n{table}", encoding="utf-8")
    entries = [dataclasses.asdict(row) | {"holds": row.holds} for row in rows]
    results = {"measured_under": measured_under, "rows": entries}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _number(row: Row, value: float) -> str:
    digits = {"x": ".3f", "MB": ".1f", "s": ".1f", "": ".0f"}[row.unit]
    return f"{value:{digits}} {'' if row.unit == 'x' else row.unit}".strip()


def _commit() -> str:
    """The commit of this checkout; `-dirty` if files differ from it."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return done.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
