"""Imported by the server that the soak forks its processes from, which has the imports that take seconds."""
# SPDX-License-Identifier: Apache-2.0

import atexit
import multiprocessing
import os
import pathlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess

import tensorflow_datasets

from experiments import presets
from experiments.training import language_modeling, launch

LOADED = (tensorflow_datasets, presets, language_modeling, launch)
"""What a run imports, at its start or later."""


def start(command: Sequence[str], environment: Mapping[str, str], log: pathlib.Path) -> ForkServerProcess:
    """Starts a program in a process forked from the server; the first call starts the server.

    Args:
        command: The program's module and its command line.
        environment: Variables of this process alone; those that JAX reads when it is imported come too late.
        log: What it prints is added there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(list(command), dict(environment), log), daemon=True)
    process.start()
    return process


def _run(command: list[str], environment: dict[str, str], log: pathlib.Path) -> None:
    """Does what `python -m` does with a command, and ends as that does."""
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = command[1:]
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as Python does; multiprocessing leaves them out
