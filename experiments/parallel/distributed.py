"""The processes of a run: how they find each other, agree, and end together."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables in which SLURM's srun and Open MPI's mpirun say how many processes they have started."""

SECONDS_TO_WAIT = float(os.environ.get("EXPERIMENTS_SECONDS_TO_WAIT", 1800))
"""A process that waits longer for the others ends; the variable is for steps that take longer than half an hour."""
_SECONDS_TO_JOIN = 300  # the variable sets this too
_SECONDS_TO_ANSWER = 5

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run; must come before any use of a device.

    A run has several processes if JAX_COORDINATOR_ADDRESS is set, or a launcher that JAX knows (SLURM, Open MPI, a
    TPU pod) says so. JAX_NUM_PROCESSES and JAX_PROCESS_ID are for launchers it does not know. Nothing happens
    otherwise, nor the second time.

    Args:
        environment: Where the variables are.

    The coordinator listens at JAX_COORDINATOR_ADDRESS and nowhere else, unless JAX_COORDINATOR_BIND_ADDRESS names
    another address. Under a launcher it listens where JAX decides.

    Raises:
        ValueError: If the variables do not tell how many processes there are, or which one this is, or the
            coordinator cannot listen there.

    If the others do not come within five minutes, or EXPERIMENTS_SECONDS_TO_WAIT, the process ends.
    """
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    launched = max(hosts, *(int(environment.get(name, 1)) for name in _LAUNCHERS))
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if (address is None and launched == 1) or jax.distributed.is_initialized():
        return
    count, index = (environment.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    seconds = float(environment.get("EXPERIMENTS_SECONDS_TO_WAIT", _SECONDS_TO_JOIN))
    # Its handler of SIGTERM would take the place of `Preemption`'s.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _within(seconds, f"a process has waited {seconds:g} seconds for the others to start"):
            jax.distributed.initialize(
                address, None if count is None else int(count), None if index is None else int(index),
                coordinator_bind_address=environment.get("JAX_COORDINATOR_BIND_ADDRESS", address),
                initialization_timeout=math.ceil(seconds) + _SECONDS_TO_JOIN,  # JAX aborts then, without a word of ours
            )  # fmt: skip
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise ValueError(
            f"The processes of this run cannot find each other: {error} Set JAX_COORDINATOR_ADDRESS=host:port of the "
            f"first one (now {address}), JAX_NUM_PROCESSES (now {count}) and JAX_PROCESS_ID (now {index}). If the "
            "first one has that address behind a router alone, set JAX_COORDINATOR_BIND_ADDRESS to one of its own."
        ) from error


def ends_together(main: Callable[Parameters, int]) -> Callable[Parameters, int]:
    """Has a program that fails on one of several processes end there at once, whereupon JAX ends the others.

    A normal exit waits for the other processes, which wait for this one in their next collective.

    Args:
        main: Returns the exit code: 1 or 130 if this process fails, anything else if all processes end together.
    """

    @functools.wraps(main)
    def wrapped(*args: Parameters.args, **named: Parameters.kwargs) -> int:
        try:
            code = main(*args, **named)
        except Exception as error:
            if not jax.distributed.is_initialized():
                raise
            end_if_left_alone(error)
            traceback.print_exc()
            code = 1
        if code in (1, 130) and jax.distributed.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return wrapped


def end_if_left_alone(error: Exception) -> None:
    """Ends this process, with a line that says why, if other processes are gone or a connection to one broke.

    Args:
        error: What was raised; the function returns if it does not come of that. On every process that is left, a
            collective fails: on the CPU with a ValueError.
    """
    of_collective = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    if not of_collective or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    count = jax.process_count()
    try:
        get_barrier_sync_fn()(key="who_is_left", timeout_ms=1000 * _SECONDS_TO_ANSWER)
    except Exception as answer:  # JAX tells in words which tasks did not come
        words = str(answer).rpartition("task names:")[2].partition("RPC:")[0]
        # Without the first process, which coordinates, there is no answer.
        missing = {int(task) for task in re.findall(r"^\D*(\d+)$", words, re.MULTILINE)} or {0}
        _end(f"of its {count} processes, {', '.join(map(str, sorted(missing)))} ended or cannot be reached")
    if "Gloo" in str(error):
        _end(f"all of its {count} processes answer, but a connection between two of them broke ({error})")


def _end(cause: str) -> NoReturn:
    """Says in a line why this process cannot go on, and ends it at once."""
    line = f"error: process {jax.process_index()} cannot go on: {' '.join(cause.split())}."
    print(f"{line} The same command goes on from the newest checkpoint.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """Ends this process if the block has waited too long for the others.

    Args:
        what: What is waited for, in a word or two.
    """
    if jax.process_count() == 1:
        yield
        return
    process = f"process {jax.process_index()}"
    with _within(SECONDS_TO_WAIT, f"{process} has waited {SECONDS_TO_WAIT:g} seconds for the others ({what})"):
        yield


@contextlib.contextmanager
def _within(seconds: float, complaint: str) -> Iterator[None]:
    """Ends this process with a line if the block takes longer: nothing can interrupt a collective."""
    timer = threading.Timer(seconds, _give_up, (complaint,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(complaint: str) -> None:
    """Says why, and ends the process."""
    print(
        f"error: {complaint}: one of them hangs, or does something else. The same command goes on from the newest "
        "checkpoint; EXPERIMENTS_SECONDS_TO_WAIT sets the bound.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def fetch(tree: Any, what: str) -> Any:
    """Copies arrays to the host that other processes help to compute, and waits for them within the bound."""
    with bounded(what):
        return jax.device_get(tree)


def to_host(tree: Any) -> Any:
    """Copies a tree of sharded arrays to every process, whole; all processes must call it."""
    with bounded("parameters"):
        return multihost_utils.process_allgather(tree, tiled=True)


def check_agreement(settings: dict[str, Any]) -> None:
    """Checks that all processes were started alike; all processes must call it, before anything else they share.

    Args:
        settings: By name, fit for JSON.

    Raises:
        ValueError: If the settings differ; names each that does and its values, the same on every process.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if len({answer["digest"] for answer in from_all_processes({"digest": digest})}) == 1:
        return
    everywhere = from_all_processes(settings)
    lines = []
    for name in sorted(set().union(*everywhere)):
        values = [json.dumps(each.get(name)) for each in everywhere]
        if len(set(values)) > 1:
            first = {value: values.index(value) for value in values}
            lines.append(f"  {name}: " + ", ".join(f"{value} in process {index}" for value, index in first.items()))
    advice = "Start all processes with the same command."
    raise ValueError("\n".join(["The processes of this run were started with different settings:", *lines, advice]))


def from_all_processes(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Gathers one small JSON value of each process on every process; all processes must call it."""
    words = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with bounded("an agreement"):
        lengths = multihost_utils.process_allgather(np.array(len(words))).reshape(-1)
        padded = np.pad(words, (0, lengths.max() - len(words)))
        rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def from_first_process(decide: Callable[[], Value]) -> Value:
    """Lets the first process decide what depends on shared files, which may change; all processes must call it.

    Args:
        decide: Gives a small JSON value.

    Returns:
        The value, on every process.

    Raises:
        ValueError: If `decide` raises one; with the same message on every process.
        OSError: The same.
    """
    if jax.process_count() == 1:
        return decide()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": decide()}
        except (OSError, ValueError) as error:
            answer = {"error": str(error), "is_of_value": isinstance(error, ValueError)}
    answer = from_all_processes(answer)[0]
    if "error" in answer:
        raise (ValueError if answer["is_of_value"] else OSError)(answer["error"])
    value: Value = answer["value"]
    return value


def on_any_process(flag: bool) -> jax.Array | bool:
    """Asks whether a flag is set anywhere; all processes must call it. To fetch the answer waits, asking does not."""
    if jax.process_count() == 1:
        return flag
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    with jax.transfer_guard_host_to_device("allow"):
        flags = jax.make_array_from_process_local_data(
            jax.sharding.NamedSharding(mesh, jax.P("devices")), np.full(jax.local_device_count(), flag)
        )
    return jax.jit(jnp.any, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(flags)
