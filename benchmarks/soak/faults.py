"""What the soak does to a run: each fault takes the processes and the one of them that it hits."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import ctypes
import os
import pathlib
import resource
import signal
import socket
import time
from collections.abc import Callable, Collection
from multiprocessing.context import ForkServerProcess

from benchmarks.soak.attempt import Attempt
from experiments.training import checksums

_PIDFD_GETFD = 438
"""Number of the system call, the same on every architecture of Linux."""


def kill(attempt: Attempt, victim: ForkServerProcess) -> None:
    """SIGKILL to one process."""
    victim.kill()


def preempt(attempt: Attempt, victim: ForkServerProcess) -> None:
    """SIGTERM to one process."""
    victim.terminate()


def stop(attempt: Attempt, victim: ForkServerProcess) -> None:
    """SIGSTOP to one process, and SIGCONT two seconds later."""
    _signal(victim, signal.SIGSTOP)
    time.sleep(2)
    _signal(victim, signal.SIGCONT)


def fill_disk(attempt: Attempt, victim: ForkServerProcess) -> None:
    """A limit on the size of files, above which the system refuses to write, as on a full disk."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(_pid(victim), resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def cut_from_coordinator(attempt: Attempt, victim: ForkServerProcess) -> None:
    """Closes the second process's connection to the coordinator, and refuses a new one."""
    attempt.relay.cut()


def cut_connections(attempt: Attempt, victim: ForkServerProcess) -> None:
    """Shuts down the connections between the two processes, over which their collectives go."""
    with contextlib.suppress(OSError):  # it has ended
        descriptor = os.pidfd_open(_pid(victim))
        for name in os.listdir(f"/proc/{victim.pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{victim.pid}/fd/{name}").startswith("socket:"):
                    _shut_down(descriptor, int(name), but_ports=attempt.coordinator_ports)
        os.close(descriptor)


def flip_bit(attempt: Attempt, victim: ForkServerProcess) -> None:
    """SIGKILL to one process, and one bit of the newest checkpoint flipped, if there is an older one too."""
    victim.kill()
    attempt.end()
    steps = checksums.steps_in(attempt.workdir / "checkpoints")
    if len(steps) > 1:
        files = [path for path in (attempt.workdir / "checkpoints" / str(steps[-1])).glob("params/**/d/*")]
        path = max(files, key=lambda file: file.stat().st_size, default=None)
        if path is not None:
            _flip(path)


FAULTS: tuple[Callable[[Attempt, ForkServerProcess], None], ...] = (
    kill, preempt, stop, fill_disk, cut_from_coordinator, cut_connections, flip_bit,
)  # fmt: skip


def _pid(process: ForkServerProcess) -> int:
    assert process.pid is not None, "it has been started"
    return process.pid


def _signal(victim: ForkServerProcess, number: signal.Signals) -> None:
    """Sends a signal; does nothing if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(_pid(victim), number)


def _shut_down(process: int, number: int, *, but_ports: Collection[int]) -> None:
    """Shuts down a socket of another process, if it is one of TCP that is connected.

    Args:
        process: File descriptor of the process.
        number: Of the socket, in that process.
        but_ports: Connections from or to these are left.
    """
    copied = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0)
    if copied < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with socket.socket(fileno=copied) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            ports = {connection.getsockname()[1], connection.getpeername()[1]}
            if ports.isdisjoint(but_ports):
                connection.shutdown(socket.SHUT_RDWR)


def _flip(path: pathlib.Path) -> None:
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
