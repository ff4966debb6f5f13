"""A relay of TCP connections that can cut them, one by one or all at once."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpRelay:
    """Listens on a loopback port and passes every connection on to one address.

    Args:
        target: host and port to pass connections on to.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # wakes the thread that accepts; closing alone does not
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self, port: int | None = None) -> None:
        """Reset the connection that reaches the target from this port, or all of them."""
        for end in self._taken(port):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            _close(end)

    def _taken(self, port: int | None) -> list[socket.socket]:
        """Both ends of this connection, or of all; whoever takes them closes them."""
        with self._lock:
            ports = list(self._pairs) if port is None else [port]
            return [end for each in ports for end in self._pairs.pop(each, ())]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            port = server.getsockname()[1]
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs[port] = (client, server)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink, port), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, port: int) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                sink.sendall(chunk)
        for end in self._taken(port):
            _close(end)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)  # wakes the thread that reads it; the kernel closes it when that has let go
    end.close()
