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

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *_CODE)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
    return {what: hashlib.sha256(path.read_bytes()).hexdigest() for what, path in files.items() if path.is_file()}
