"""One process at a time: a lock on a file that names its owner and goes away with it."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

from experiments.parallel import distributed

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
