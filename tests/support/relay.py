"""A relay between a client and the server whose connections can be cut.

with relaying(server.address) as relay:
    … http://{relay.address} …
    relay.cut()      # open connections are closed, and new ones are refused
    relay.restore()
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 64 * 1024  # bytes of one read
POLL_SECONDS = 0.2  # between two checks of the listener whether to stop


class Relay:
    """Relays bytes in both directions, in threads."""

    def __init__(self, target: str) -> None:
        self.move(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_SECONDS)
        self._lock = threading.Lock()
        self._lines: set[socket.socket] = set()
        self._frozen: set[socket.socket] = set()
        self._is_cut = False
        self._is_over = False
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def move(self, target: str) -> None:
        """Relay new connections to another address; open ones stay."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        with self._lock:
            self._is_cut = True
            lines, self._lines = self._lines, set()
        for line in lines:
            hang_up(line)

    def freeze(self) -> None:
        """Stop relaying data of the open connections, without closing them."""
        with self._lock:
            self._frozen |= self._lines

    def restore(self) -> None:
        """Accept new connections again."""
        with self._lock:
            self._is_cut = False

    def drop(self) -> None:
        """Close all connections, and accept new ones."""
        self.cut()
        self.restore()

    def close(self) -> None:
        """Stop the relay."""
        self._is_over = True
        self.cut()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                if not self._is_cut:
                    self._lines |= {near, far}
            if near not in self._lines:
                near.close()
                far.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if source not in self._frozen:
                    sink.sendall(data)
        for line in (source, sink):
            hang_up(line)
        with self._lock:
            self._lines -= {source, sink}
            self._frozen -= {source, sink}


def hang_up(line: socket.socket) -> None:
    """End both directions of a socket, and close it."""
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@contextmanager
def relaying(target: str) -> Iterator[Relay]:
    """Run a relay to an address."""
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()
