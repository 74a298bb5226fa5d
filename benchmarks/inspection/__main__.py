"""Inspects real checkpoints, alone and beside WeightWatcher: `python -m benchmarks.inspection`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import csv
import json
import math
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inspection import models
from benchmarks.inspection.tables import markdown
from benchmarks.report import conditions

PACKAGES = ("jax", "numpy", "optax", "weightwatcher", "torch", "scipy", "safetensors")
HERE = pathlib.Path(__file__).parent


class Measured(NamedTuple):
    """What one process took."""

    seconds: dict[str, float]
    """`wall` and `cpu` of the inspection; `all` is the CPU time of the whole process, imports included."""
    imported: float
    """Largest resident set once all was imported, MB."""
    peak: float
    """Largest resident set in the end, MB."""
    alphas: dict[str, float]
    """By module."""


def measure(
    program: str, path: pathlib.Path, folder: pathlib.Path, *, modules: Sequence[str] = (), shuffled: bool
) -> Measured:
    """Lets one program inspect one checkpoint in a process of its own.

    Args:
        program: As `benchmarks.inspection.worker` calls it.
        path: The checkpoint.
        folder: Where the process writes what it has measured.
        modules: Those to take, for WeightWatcher.
        shuffled: Also the matrices with their entries shuffled.

    Returns:
        Seconds, memory and alphas.
    """
    command = [sys.executable, "-m", "benchmarks.inspection.worker", program, str(path), str(folder / "worker.json")]
    command += ["--modules", json.dumps(list(modules)), *(["--shuffled"] if shuffled else [])]
    before = _children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    measured: dict[str, Any] = json.loads((folder / "worker.json").read_text(encoding="utf-8"))
    seconds = {"wall": measured["wall"], "cpu": measured["cpu"], "all": _children() - before}
    return Measured(seconds, measured["imported"], measured["peak"], measured["alphas"])


def _children() -> float:
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def all_outputs(name: str, path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Runs the command with every output, and holds the outputs against each other.

    Args:
        name: Of the row.
        path: The checkpoint.
        folder: Where the outputs go.

    Returns:
        The row: modules, alphas, seconds and MB.

    Raises:
        AssertionError: If one output has not the modules that another has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = measure("command", path, folder, shuffled=True)
    [found] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["checkpoints"]
    names = [module["name"] for module in found["modules"]]
    with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    page = re.findall(r'id="data">(.*?)</script>', (folder / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert [module["name"] for module in json.loads(page[0])["checkpoints"][0]["modules"]] == names
    printed = (folder / "report.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in printed[1 : len(names) + 1]] == names
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return {
        "name": name,
        "checkpoint_mb": sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS) / 1e6,
        "largest_mb": max(_bytes(module) for module in found["modules"]) / 1e6,
        "modules": len(names),
        "left_out": len(found["left_out"]),
        "alphas": [alpha for module in found["modules"] if (alpha := module["alpha"]) is not None],
        **measured.seconds,
        "imported": measured.imported,
        "peak": measured.peak,
    }


_WEIGHTS = {".safetensors", ".pt", ".bin"}


def _bytes(module: dict[str, Any]) -> int:
    return math.prod(module["shape"]) * np.dtype(module["dtype"]).itemsize


def compare(
    name: str, path: pathlib.Path, folder: pathlib.Path, *, turns: int, shuffled: bool
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Lets the inspector and WeightWatcher measure the same modules, in turns.

    Args:
        name: Of the row.
        path: A checkpoint that both read.
        folder: For the processes' results.
        turns: How often; every second turn in reverse.
        shuffled: Also the matrices with their entries shuffled.

    Returns:
        The row, medians over the turns, and both alphas of every module.
    """
    runs: dict[str, list[Measured]] = {"inspector": [], "weightwatcher": []}
    modules = list(measure("inspector", path, folder, shuffled=False).alphas)
    for turn in range(turns):
        for program in list(runs)[:: -1 if turn % 2 else 1]:
            runs[program].append(measure(program, path, folder, modules=modules, shuffled=shuffled))
    ours, theirs = runs["inspector"], runs["weightwatcher"]
    alphas = {module: [ours[0].alphas[module], theirs[0].alphas.get(module, math.nan)] for module in modules}
    row: dict[str, Any] = {"name": name, "shuffled": shuffled, "modules": len(modules), "turns": turns}
    for part in ("wall", "cpu", "all"):
        seconds = [[run.seconds[part] for run in of] for of in (ours, theirs)]
        row[part] = [float(np.median(of)) for of in seconds]
        row[part + "_ratio"] = float(np.median(np.divide(seconds[1], seconds[0])))
    row["memory"] = [max(run.peak - run.imported for run in of) for of in (ours, theirs)]
    row["peak"] = [max(run.peak for run in of) for of in (ours, theirs)]
    return row, alphas


def _measure_all(found: dict[str, Any], folder: pathlib.Path, turns: int, seed: int) -> None:
    """Makes the copies, and fills in the rows of the results."""
    start = time.monotonic()
    copies = {model.name: models.copy(model, folder / "copies") for model in models.MODELS}
    last = models.MODELS[-1]
    shards = models.shard(copies[last.name], folder / "copies" / "shards")
    large = models.large(folder / "copies" / "large", seed)
    paths = [(model.name, model.checkpoint()) for model in models.MODELS]
    for name, path in [*paths, (f"{last.name}, sharded", shards), ("Gaussian matrices", large)]:
        found["outputs"].append(all_outputs(name, path, folder / "outputs" / name.replace(" ", "-")))
        print(f"{time.monotonic() - start:.0f} s: {name}, all outputs", flush=True)
    for name, path in [*copies.items(), ("Gaussian matrices", large)]:
        # WeightWatcher fits a Marchenko-Pastur law to each shuffled spectrum, which takes it long.
        for shuffled in (False,) if path == large else (False, True):
            once = shuffled or path == large
            row, found["alphas"][name] = compare(name, path, folder, turns=1 if once else turns, shuffled=shuffled)
            found["comparison"].append(row)
            print(f"{time.monotonic() - start:.0f} s: {row}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures everything and writes `results.md` and `results.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inspection", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns of the comparison without shuffling (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the checkpoint of more than 1 GB (0)")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder for results.md and results.json")
    parser.add_argument("--keep", type=pathlib.Path, help="folder that keeps the copies and all outputs")
    options = parser.parse_args(arguments)
    given = [f"--turns={options.turns}", f"--seed={options.seed}"]  # where files go is no condition
    found: dict[str, Any] = {
        "measured_under": {
            **conditions(given, module="benchmarks.inspection", packages=PACKAGES),
            "cores at hand": str(len(os.sched_getaffinity(0))),
        },
        "models": [vars(model) | {"version": model.version()} for model in models.MODELS],
        "outputs": [],
        "comparison": [],
        "alphas": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        _measure_all(found, options.keep or pathlib.Path(temporary), options.turns, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "results.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
