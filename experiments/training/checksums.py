"""Seals checkpoints: the checksums of a step's files, written once the step is complete, verified before it is used."""
# SPDX-License-Identifier: Apache-2.0

import concurrent.futures
import hashlib
import json
import pathlib

NAME = "manifest.json"
"""The file inside a step's folder. It is written last: without it, the save was interrupted."""


def seal(step: pathlib.Path) -> None:
    """Writes the manifest of a complete step, atomically.

    Args:
        step: The step's folder.
    """
    paths = sorted(path for path in step.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        entries = {
            str(path.relative_to(step)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, pool.map(_sha256, paths), strict=True)
        }
    partial = step / "manifest.partial"
    partial.write_text(json.dumps(entries, indent=1) + "\n")
    partial.replace(step / NAME)


def damage(step: pathlib.Path) -> str | None:
    """Says what is wrong with a step. Orbax notices neither flipped bytes in an array nor every missing file.

    Args:
        step: The step's folder.

    Returns:
        The first fault found, naming the file; None if every file is as it was written.
    """
    try:
        return _damage(step)
    except OSError as error:
        return f"it cannot be read: {error}"


def _damage(step: pathlib.Path) -> str | None:
    """The first fault of a step whose files can be read."""
    if not (step / NAME).exists():
        return f"it has no {NAME}: its save was interrupted"
    try:
        entries = json.loads((step / NAME).read_text())
        sizes = {step / name: entry["bytes"] for name, entry in entries.items()}
        digests = [entry["sha256"] for entry in entries.values()]
    except (ValueError, TypeError, KeyError, AttributeError):
        sizes = {}
    if not sizes:
        return f"its {NAME} is corrupt"
    for path, size in sizes.items():
        if not path.resolve().is_relative_to(step.resolve()):
            return f"its {NAME} names {path}, which is not in its folder"
        if not path.is_file():
            return f"{path.relative_to(step)} is missing"
        if path.stat().st_size != size:
            return f"{path.relative_to(step)} has {path.stat().st_size:,} bytes instead of {size:,}"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for path, wanted, found in zip(sizes, digests, pool.map(_sha256, sizes), strict=True):
            if found != wanted:
                return f"{path.relative_to(step)} does not hold the bytes that were written"
    return None


def steps_in(directory: pathlib.Path) -> list[int]:
    """Lists the steps in a folder of checkpoints, in rising order, sealed or not."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())


def newest_intact(directory: pathlib.Path) -> tuple[int | None, dict[int, str]]:
    """Finds the newest step that may be used.

    Args:
        directory: The folder of checkpoints.

    Returns:
        The step, None if there is none, and what is wrong with each newer one.
    """
    faults: dict[int, str] = {}
    for step in reversed(steps_in(directory)):
        fault = damage(directory / str(step))
        if fault is None:
            return step, faults
        faults[step] = fault
    return None, faults


def _sha256(path: pathlib.Path) -> str:
    """The checksum of one file; hardware has instructions for this one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
