"""A network connection that can be cut: passes on what two processes say to each other."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import socket
import threading


class Relay:
    """Listens at an address of its own and passes everything on to another one, until it is cut."""

    def __init__(self, target: str):
        """Starts to listen.

        Args:
            target: `host:port` to pass on to; need not listen yet.
        """
        host, _, port = target.rpartition(":")
        self._target, self._open = (host, int(port)), list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Closes all connections, and accepts no others."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    close = cut

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Copies bytes until one side closes."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
