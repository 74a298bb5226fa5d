"""A run's folder: one process works there at a time, and its settings are held against those of who comes later."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

import optax_alphadecay
from experiments.config import RunConfig, defaults_of, flatten, settings_of
from experiments.parallel import distributed
from experiments.training import checksums

MAY_DIFFER = ("data.dir", "data.tokenizer", "wandb")
"""Settings that the processes of one run need not have in common."""
MAY_CHANGE = ("workdir", "wandb", "log_every", "norms_every", "eval_every", "checkpoint_every", "mesh")
"""Settings that do not touch the weights, the mesh but for rounding: a run may be resumed with others."""
NOTED_LATER = ("data.digest",)
"""Settings that older runs have not noted: they are not held against what they were."""
VOCABULARY = "tokenizer.model"
"""The run's copy of its vocabulary: what starts from the run needs no other, and another is refused."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Locked(ValueError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock while the block runs. The system lets go of it when the process ends, however it ends.

    Shared file systems keep it across hosts if they support `flock`, as NFS does. Where they do not, a warning says
    that nothing keeps others out: an owner that was killed on another host cannot be told from one that works.

    Args:
        path: The file; its folder must exist. It stays behind, empty.
        wait: Wait for another owner to let go, instead of refusing.

    Raises:
        Locked: If another process holds it; names the host and the process.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise Locked(
                f"{path.parent} is in use by {owner}: wait for it to end, end it, or work in another folder."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: {path.parent} is on a file system without locks ({error.strerror}): nothing keeps other "
                "runs out of the folder.",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a run's folder while the block runs; all processes of the run must enter it.

    Args:
        workdir: The folder; made if need be.

    Raises:
        Locked: If another run works there; names the host and the process. A ValueError where there are several
            processes, with the same message on each.
    """
    with contextlib.ExitStack() as stack:

        def own() -> None:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(workdir / "lock"))

        distributed.from_first_process(own)
        yield


def shared_settings(config: RunConfig, program: str) -> dict[str, Any]:
    """What all processes of a run must have in common: settings, but for where each finds the data, and versions.

    Args:
        config: The run.
        program: A name for what is done with it.
    """
    versions = {f"version of {each.__name__}": each.__version__ for each in (jax, optax_alphadecay)}
    settings = {name: value for name, value in flatten(settings_of(config)).items() if name not in MAY_DIFFER}
    return {"program": program, **versions, **settings}


def claim_workdir(config: RunConfig) -> None:
    """Holds the settings against those of the run that `config.workdir` belongs to, then writes them there.

    The vocabulary of a run that has one is held against its copy there, and copied. A run without a checkpoint has
    nothing to lose and is replaced.

    Args:
        config: The run about to start or to go on.

    Raises:
        ValueError: If the folder belongs to a run with other settings, or with other pieces; names each of them.
    """
    if checksums.steps_in(config.workdir / "checkpoints"):
        _refuse_differences(config, lambda name: name.partition(".")[0] not in MAY_CHANGE)
        _refuse_another_vocabulary(config)
    config.workdir.mkdir(parents=True, exist_ok=True)
    _write(config.workdir / "config.json", (json.dumps(settings_of(config), indent=2) + "\n").encode())
    vocabulary = getattr(config.data, "tokenizer", None)
    if vocabulary is not None:
        _write(config.workdir / VOCABULARY, vocabulary.read_bytes())


def _write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


def find_run(config: RunConfig) -> None:
    """Checks that `config.workdir` holds a run of this model and vocabulary; all else may differ.

    Args:
        config: Names the folder, the model and the vocabulary.

    Raises:
        FileNotFoundError: If there is no complete checkpoint.
        ValueError: If its model or its vocabulary is another one; names each setting that differs.
    """
    if not checksums.steps_in(config.workdir / "checkpoints"):
        raise FileNotFoundError(f"There is no complete checkpoint in {config.workdir}: pass the --workdir of a run.")
    _refuse_differences(config, lambda name: name.startswith("model."))
    _refuse_another_vocabulary(config)


def another_vocabulary(workdir: pathlib.Path, tokenizer: pathlib.Path) -> bool:
    """Whether a vocabulary is known not to be that of a run: runs of earlier versions kept no copy of theirs."""
    kept = workdir / VOCABULARY
    return kept.is_file() and kept.read_bytes() != tokenizer.read_bytes()


def _refuse_another_vocabulary(config: RunConfig) -> None:
    """Raises a ValueError if a run's vocabulary has changed since it began, under whatever path."""
    vocabulary = getattr(config.data, "tokenizer", None)
    if vocabulary is not None and another_vocabulary(config.workdir, vocabulary):
        raise ValueError(
            f"{vocabulary} is another vocabulary than that of the run in {config.workdir}, which keeps a copy of its "
            f"own: pass --data.tokenizer {config.workdir / VOCABULARY}, or another --workdir."
        )


def _refuse_differences(config: RunConfig, matters: Callable[[str], bool]) -> None:
    """Raises a ValueError that lists the settings that matter and differ from those in `config.json`.

    A setting that there was not yet when the run began had what is its default now.
    """
    saved = {**flatten(defaults_of(config)), **flatten(_settings_in(config.workdir / "config.json"))}
    now = flatten(settings_of(config))
    differences = [
        f"  {name}: {saved.get(name)} there, {now.get(name)} now"
        for name in sorted(saved.keys() | now.keys())
        if matters(name) and saved.get(name) != now.get(name) and not (name in NOTED_LATER and not saved.get(name))
    ]
    if differences:
        lines = [f"{config.workdir} holds a run with other settings:", *differences]
        raise ValueError("\n".join([*lines, "Pass the same settings, or another --workdir."]))


def _settings_in(path: pathlib.Path) -> dict[str, Any]:
    """Reads the settings of a run; a ValueError names what is wrong with the file."""
    try:
        settings = json.loads(path.read_text())
        if isinstance(settings, dict) and settings:
            return settings
        cause = "no settings are in it"
    except (OSError, ValueError) as error:
        cause = str(error)
    raise ValueError(f"{path} does not tell the settings of the run ({cause}): restore it, or pass another --workdir.")
