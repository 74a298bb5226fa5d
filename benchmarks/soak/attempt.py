"""Two processes, or one, that take a run from its newest checkpoint towards its end."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import socket
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess

from benchmarks.soak import forked
from benchmarks.soak.relay import Relay
from experiments.training.metrics import read_metrics

SECONDS_TO_END = 240
"""A process that lives longer after a fault hangs."""


class Attempt:
    """The processes of one start of a run."""

    def __init__(self, command: Sequence[str], workdir: pathlib.Path, count: int):
        """Starts them; the second one reaches the coordinator through a relay that can be cut."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.relay, self.workdir = Relay(coordinator), workdir
        self.coordinator_ports = [int(each.rpartition(":")[2]) for each in (coordinator, self.relay.address)]
        self.processes, self._codes = list[ForkServerProcess](), list[int | None]()
        for index in range(count):
            several = {
                "JAX_COORDINATOR_ADDRESS": self.relay.address if index else coordinator,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
            log = workdir.parent / f"{workdir.name}-{index}.log"
            words = ["experiments.train", *command, "--workdir", str(workdir)]
            self.processes.append(forked.start(words, several if count > 1 else {}, log))

    @property
    def alive(self) -> bool:
        """Whether no process has ended."""
        return all(process.is_alive() for process in self.processes)

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Waits until a step is logged, a process has ended, or the time is up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.alive and last_step(self.workdir) < step:
            time.sleep(0.05)

    def end(self) -> list[int | None]:
        """Waits for the ends of all; kills those that hang, whose code is then None. A second call changes nothing."""
        until = time.monotonic() + SECONDS_TO_END
        if not self._codes:
            for process in self.processes:
                process.join(max(0.0, until - time.monotonic()))
                self._codes.append(process.exitcode)
            for process in self.processes:
                process.kill()
                process.join()
            self.relay.close()
        return self._codes


def last_step(workdir: pathlib.Path) -> int:
    """The last step in a run's metrics; 0 if there is none."""
    path = workdir / "metrics.jsonl"
    return int(read_metrics(path)[-1]["step"]) if path.exists() and path.read_bytes().count(b"\n") else 0
