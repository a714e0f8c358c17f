"""A real HTTP server whose answers never end, and which sees its connections end.

with running_provider() as provider:
    … GET provider.url …
    provider.wait_for(opened=1, closed=1)
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
SECONDS = 60.0  # a bound on what hangs


class Provider:
    """Counts the requests, and the connections that the client has closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.opened = 0
        self.closed = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_for(self, *, opened: int, closed: int) -> float:
        """Wait until so many requests came and so many connections ended; return the time."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.opened >= opened and self.closed >= closed, SECONDS
            )
            assert done, (self.opened, self.closed)
            return time.monotonic()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            self._count(opened=1)
            connection.sendall(HEAD)
            connection.recv(1)  # until the client closes
        self._count(closed=1)

    def _count(self, *, opened: int = 0, closed: int = 0) -> None:
        with self._changed:
            self.opened += opened
            self.closed += closed
            self._changed.notify_all()


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Run a provider."""
    provider = Provider()
    try:
        yield provider
    finally:
        provider.close()
