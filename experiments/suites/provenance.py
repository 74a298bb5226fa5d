"""Where a result comes from: the commit, the versions of packages, the data."""
# SPDX-License-Identifier: Apache-2.0

import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess

import optax_alphadecay
from experiments.config import RunConfig

ROOT = pathlib.Path(__file__).parents[2]
"""Folder of the project."""
_PACKAGES = ("flax", "grain", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
_CODE = ("experiments", "optax_alphadecay")


def commit(root: pathlib.Path = ROOT) -> str:
    """The commit that the code is at, with `+changes` if code differs from it; `unknown` outside a repository.

    Args:
        root: Folder of the project.
    """
    try:
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_CODE)
        return _git(root, "rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def last_change(path: pathlib.Path) -> str | None:
    """The commit that a file was last changed in; None outside a repository.

    Raises:
        ValueError: If the file has changes that are not committed, or is not committed at all.
    """
    try:
        changed = _git(path.parent, "status", "--porcelain", "--", path.name)
        commit = _git(path.parent, "log", "-1", "--format=%H", "--", path.name)
    except (OSError, subprocess.CalledProcessError):
        return None
    if changed or not commit:
        raise ValueError(
            f"{path.name} has changes that are not committed: commit them before runs are made or reported."
        )
    return commit


def is_ancestor(earlier: str, later: str, root: pathlib.Path = ROOT) -> bool:
    """Whether a commit is another one, or comes before it; not if one is unknown here."""
    try:
        _git(root, "merge-base", "--is-ancestor", earlier, later)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _git(folder: pathlib.Path, *words: str) -> str:
    return subprocess.run(("git", *words), cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose code a run executes."""
    packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "optax-alphadecay": optax_alphadecay.__version__, **packages}


def digests(config: RunConfig) -> dict[str, str]:
    """SHA-256 of what a run reads: the description of its data set, which counts its bytes, and its tokenizer.

    Args:
        config: The run.

    Returns:
        By what it is; without what is no file.
    """
    data = config.data
    files = {
        "data set": data.dir / data.name.replace(":", "/") / "dataset_info.json",
        "tokenizer": getattr(data, "tokenizer", pathlib.Path()),
    }
    found = {what: hashlib.sha256(path.read_bytes()).hexdigest() for what, path in files.items() if path.is_file()}
    if getattr(data, "source", "") == "folder":
        digest = hashlib.sha256()
        for path in sorted(data.dir.glob("*.jsonl*")):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        found["data set"] = digest.hexdigest()
    return found
