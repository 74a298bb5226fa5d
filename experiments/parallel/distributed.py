"""The processes of a run: how they find each other, agree, and end together."""
# SPDX-License-Identifier: Apache-2.0

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables in which SLURM's srun and Open MPI's mpirun say how many processes they have started."""

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run; must come before any use of a device.

    A run has several processes if JAX_COORDINATOR_ADDRESS is set, or a launcher that JAX knows (SLURM, Open MPI, a
    TPU pod) says so. JAX_NUM_PROCESSES and JAX_PROCESS_ID are for launchers it does not know. Nothing happens
    otherwise, nor the second time.

    Args:
        environment: Where the variables are.

    Raises:
        ValueError: If the variables do not tell how many processes there are, or which one this is.
    """
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    launched = max(hosts, *(int(environment.get(name, 1)) for name in _LAUNCHERS))
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if (address is None and launched == 1) or jax.distributed.is_initialized():
        return
    count, index = (environment.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    # Its handler of SIGTERM would take the place of `Preemption`'s.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address, None if count is None else int(count), None if index is None else int(index)
        )
    except ValueError as error:
        raise ValueError(
            f"The processes of this run cannot find each other: {error} Set JAX_COORDINATOR_ADDRESS=host:port of the "
            f"first one (now {address}), JAX_NUM_PROCESSES (now {count}) and JAX_PROCESS_ID (now {index})."
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
        except Exception:
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()
            code = 1
        if code in (1, 130) and jax.distributed.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return wrapped


def to_host(tree: Any) -> Any:
    """Copies a tree of sharded arrays to every process, whole; all processes must call it."""
    return multihost_utils.process_allgather(tree, tiled=True)


def from_all_processes(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Gathers one small JSON value of each process on every process; all processes must call it."""
    words = np.frombuffer(json.dumps(value).encode(), np.uint8)
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
