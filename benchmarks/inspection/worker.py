"""One process that measures one checkpoint with one program: `python -m benchmarks.inspection.worker NAME PATH OUT`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import contextlib
import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

FEWEST_EIGENVALUES = 50
"""Smaller matrices are left out by both."""


def inspector(path: str, _: list[str], shuffled: bool) -> Callable[[], dict[str, float]]:
    """Imports the library; what it returns gives goodness-of-fit alphas by module."""
    import optax_alphadecay as oad

    def run() -> dict[str, float]:
        inspection = oad.inspect(path, shuffle=shuffled)
        return {module.name: module.alpha_goodness_of_fit for module in inspection}

    return run


def weightwatcher(path: str, modules: list[str], shuffled: bool) -> Callable[[], dict[str, float]]:
    """Imports WeightWatcher; what it returns gives its alphas of the same modules, by the same names."""
    import weightwatcher as ww

    logging.disable(logging.CRITICAL)  # it logs every file and fit
    layers = {name.removesuffix("/weight").replace("/", "."): name for name in modules}

    def run() -> dict[str, float]:
        watcher = ww.WeightWatcher(log_level=logging.CRITICAL)
        details = watcher.analyze(
            model=path, layers=list(layers), min_evals=FEWEST_EIGENVALUES, randomize=shuffled, savefig=False
        )
        return {layers[row["name"]]: float(row["alpha"]) for _, row in details.iterrows()}

    return run


def command(path: str, _: list[str], shuffled: bool) -> Callable[[], dict[str, float]]:
    """Imports the command with all it needs; what it returns writes all outputs beside the result.

    Raises:
        ValueError: If the command ends with another code than 0.
    """
    from optax_alphadecay.inspection.command import main as inspect
    from optax_alphadecay.inspection.tensors import require

    for module in ("rich.console", "rich.progress", "rich.table"):
        require(module, "the command", "rich")
    if not path.endswith("safetensors") and not list(pathlib.Path(path).glob("*.safetensors")):
        require("torch", "this checkpoint", "torch")
    folder = pathlib.Path(sys.argv[3]).parent
    outputs = [word for kind in ("json", "csv", "html") for word in (f"--{kind}", str(folder / f"report.{kind}"))]
    options = ["--left-out", *([] if shuffled else ["--no-shuffle"])]

    def run() -> dict[str, float]:
        with (folder / "report.txt").open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            if code := inspect([path, *outputs, *options]):
                raise ValueError(f"{path}: the command ended with {code}")
        return {}

    return run


PROGRAMS = {"inspector": inspector, "weightwatcher": weightwatcher, "command": command}


def main() -> None:
    """Imports one program, lets it measure, and writes seconds, peak memory and alphas to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("path", help="folder of the checkpoint")
    parser.add_argument("out", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--modules", default="[]", help="names of the modules, as JSON")
    parser.add_argument("--shuffled", action="store_true", help="also the matrices with their entries shuffled")
    options = parser.parse_args()
    run = PROGRAMS[options.program](options.path, json.loads(options.modules), options.shuffled)
    imported, start, used = peak_mb(), time.perf_counter(), time.process_time()
    alphas = run()
    measured: dict[str, Any] = {
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - used,
        "imported": imported,
        "peak": peak_mb(),
        "alphas": alphas,
    }
    options.out.write_text(json.dumps(measured), encoding="utf-8")


def peak_mb() -> float:
    """Largest resident set of this process so far, VmHWM of Linux, in MB of 10^6 bytes.

    `getrusage` would count the parent's too, from which a process begins.
    """
    [line] = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
