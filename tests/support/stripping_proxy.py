"""A proxy in front of a server that lets no WebSocket through, in threads.

    with stripping(server.address) as proxy:
        … http://{proxy.address} …
        proxy.collects = True     # streams of events are sent when they are complete
        proxy.strips = False      # WebSockets get through
        proxy.drop()              # open connections are closed

Each connection is for one request, and each answer is passed on as it comes.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from support.relay import hang_up

CHUNK = 64 * 1024  # bytes of one read
POLL_SECONDS = 0.2  # between two checks of the listener whether to stop
HEAD_END = b"\r\n\r\n"
DROPPED = {b"connection", b"upgrade", b"keep-alive"}


class StrippingProxy:
    """A proxy.

    Attributes:
        address: Its host and port.
        strips: Whether it takes `Upgrade` out of requests.
        collects: Whether it sends streams of events only when they are complete.
        targets: The targets of the requests so far.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_SECONDS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_over = False
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.strips = True
        self.collects = False
        self.targets: list[str] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Close all connections."""
        with self._lock:
            sockets, self._open = self._open, set()
        for sock in sockets:
            hang_up(sock)

    def close(self) -> None:
        """Stop the proxy."""
        self._is_over = True
        self._thread.join()
        self.drop()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket()
        with self._lock:
            self._open |= {near, far}
        with suppress(OSError):
            head, rest = _read_head(near)
            self.targets.append(head.split(b" ")[1].decode() if head else "")
            far.connect(self._server)
            is_upgrade = b"\r\nupgrade:" in head.lower() and not self.strips
            far.sendall((head if is_upgrade else _stripped(head)) + rest)
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
            if is_upgrade:
                self._pass_on(far, near)
            else:
                self._answer(far, near)
        self._end(near, far)

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        """Pass an answer on; at its end the connection is closed, which ends it for the client."""
        head, data = _read_head(far)
        is_collected = self.collects and b"text/event-stream" in head.lower()
        data = _stripped(head) + data
        while True:
            if not is_collected:
                near.sendall(data)
                data = b""
            piece = far.recv(CHUNK)
            if not piece:
                near.sendall(data)
                return
            data += piece

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data)
        self._end(source, sink)

    def _end(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for sock in sockets:
            hang_up(sock)


def _read_head(source: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a message, and what was read beyond it; empty if there is none."""
    data = b""
    while HEAD_END not in data:
        piece = source.recv(CHUNK)
        if not piece:
            return b"", b""
        data += piece
    head, _, rest = data.partition(HEAD_END)
    return head + HEAD_END, rest


def _stripped(head: bytes) -> bytes:
    """Return a head without the headers of the connection, which is for one request."""
    first, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in DROPPED]
    return b"\r\n".join([first, *kept, b"Connection: close"]) + HEAD_END


@contextmanager
def stripping(server: str) -> Iterator[StrippingProxy]:
    """Run a proxy in front of a server."""
    proxy = StrippingProxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
