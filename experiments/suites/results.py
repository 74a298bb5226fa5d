"""One JSON file a run: what a suite keeps of it, and the names that tell runs apart."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
from typing import Any

import numpy as np

import optax_alphadecay
from experiments.training.metrics import read_metrics, series

DIRECTORY = pathlib.Path(__file__).parents[2] / "results"
"""Where the results of this repository are."""
MOST_REFRESHES = 200
"""A run with more refreshes keeps an even share of them, its first and its last."""
_PACKAGES = ("flax", "grain", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
_PLACES = {
    "": ("workdir", "wandb", "log_every", "checkpoint_every", "mesh", "accumulate"),
    "data": ("dir", "tokenizer"),
    "model": ("remat",),
    "optimizer": ("solver",),
}
"""Settings that say where or how a run is computed, and not what is computed; they are not part of its name."""


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that decide what a run gives, nested as in the config, fit for JSON."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for group, names in _PLACES.items():
        part = settings.get(group, {}) if group else settings
        for name in names:
            part.pop(name, None)
    return settings


def name_of(config: Any) -> str:
    """A run's name: its method, its seed, and a hash of all settings that decide what it gives."""
    optimizer, digest = config.optimizer, hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode())
    words = (optimizer.coupling, optimizer.method, f"wd{optimizer.weight_decay:g}", f"seed{config.seed}")
    return "-".join((*words, digest.hexdigest()[:10]))


def commit(root: pathlib.Path = DIRECTORY.parent) -> str:
    """The commit that the code is at, with `+changes` if code differs from it; `unknown` outside a repository.

    Args:
        root: Folder of the project.
    """

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git(
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            "experiments",
            "optax_alphadecay",
        )
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose code a run executes."""
    packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "optax-alphadecay": optax_alphadecay.__version__, **packages}


def describe(config: Any, **facts: Any) -> dict[str, Any]:
    """The part of a result that is known before the run.

    Args:
        config: The run.
        facts: What else to record: `commit`, `versions`, `device`, seconds, `error`.

    Returns:
        Fit for JSON.
    """
    return {"name": name_of(config), "config": settings_of(config), "seed": config.seed, **facts}


def measured(workdir: pathlib.Path) -> dict[str, Any]:
    """What a finished run's metrics.jsonl says, with six significant digits.

    Args:
        workdir: The run's folder.

    Returns:
        `curve`: steps and values by the name of the number. `final`: the last validation, with `perplexity` or
        `accuracy`. `refreshes`, for methods with modules: `modules` (names), `steps [r]`, `scores [r, n_modules]`
        and `ratios [r, n_modules]`; null where a score is not finite.
    """
    metrics = read_metrics(workdir / "metrics.jsonl")
    names = sorted({name for line in metrics for name in line if name.split("/")[0] in ("train", "validation")})
    curve = {}
    for name in names:
        steps, values = series(metrics, name)
        curve[name] = {"steps": steps.tolist(), "values": _short(values)}
    final = {name.removeprefix("validation/"): curve[name]["values"][-1] for name in names if "validation/" in name}
    return {"curve": curve, "final": final, "refreshes": _refreshes(metrics)}


def _refreshes(metrics: list[dict[str, float]]) -> dict[str, Any] | None:
    lines = [line for line in metrics if any(name.startswith("alphadecay/score/") for name in line)]
    if not lines:
        return None
    prefix = "alphadecay/score/"
    modules = [name.removeprefix(prefix) for name in lines[0] if name.startswith(prefix)]
    kept = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), MOST_REFRESHES)).round().astype(int))
    return {
        "modules": modules,
        "made": len(lines),
        "steps": [lines[i]["step"] for i in kept],
        "scores": [_short([lines[i][f"{prefix}{name}"] for name in modules]) for i in kept],
        "ratios": [_short([lines[i][f"alphadecay/ratio/{name}"] for name in modules]) for i in kept],
    }


def _short(values: Any) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def write(result: dict[str, Any], directory: pathlib.Path) -> pathlib.Path:
    """Writes a result, atomically, as `NAME.json`.

    Args:
        result: What to write; its `name` names the file.
        directory: Where; made if need be.

    Returns:
        The file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result['name']}.json"
    partial = path.with_suffix(".partial")
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    partial.replace(path)
    return path


def read_all(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads every result in a folder.

    Args:
        directory: The folder; it need not exist.

    Returns:
        Results by the names of the runs, sorted.

    Raises:
        ValueError: A file is not a result; names it.
    """
    found = {}
    for path in sorted(directory.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a result ({error}): delete it, and the run is made again") from error
    return found


def failed(result: dict[str, Any]) -> bool:
    """Whether a result is the record of a failure."""
    return bool(result.get("error"))
