r"""Faulty peers for a client: proxies that change requests, and servers of another kind.

with faulty_proxy(server.address, without("upgrade", "connection")) as address: ...
with answering(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n") as address: ...
"""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

CHUNK = 64 * 1024  # bytes of one read
POLL_SECONDS = 0.2  # between two checks of the listener whether to stop
PATIENCE = 100.0  # seconds: a bound for each wait of a connection

Change = Callable[[bytes], bytes]


def without(*names: str) -> Change:
    """Return a function that removes headers from the head of a request or an answer."""
    pattern = b"|".join(re.escape(name.encode()) for name in names)

    def change(head: bytes) -> bytes:
        return re.sub(rb"(?im)^(?:%s):[^\r\n]*\r\n" % pattern, b"", head)

    return change


def replacing(old: bytes, new: bytes) -> Change:
    """Return a function that replaces a part of a head."""
    return lambda head: head.replace(old, new)


def unchanged(head: bytes) -> bytes:
    """Return a head unchanged."""
    return head


@contextmanager
def answering(answer: bytes, *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server that sends this answer to each request, and closes the connection."""

    def handle(near: socket.socket) -> None:
        line = near if tls is None else tls.wrap_socket(near, server_side=True)
        with line:
            if read_head(line):
                line.sendall(answer)

    with _listening(handle) as address:
        yield address


@contextmanager
def silent() -> Iterator[str]:
    """Run a server that accepts connections and sends nothing."""

    def handle(near: socket.socket) -> None:
        while near.recv(CHUNK):
            pass

    with _listening(handle) as address:
        yield address


@contextmanager
def faulty_proxy(
    target: str,
    request: Change = unchanged,
    answer: Change = unchanged,
    *,
    upgrades_to: str | None = None,
    deaf: bool = False,
) -> Iterator[str]:
    """Run a proxy that changes the head of each connection's first request, and of its answer.

    Args:
        target: The server.
        request: Changes a request.
        answer: Changes an answer.
        upgrades_to: Another server, which receives the requests for a WebSocket.
        deaf: Whether the data of a client after its request is dropped.
    """

    def handle(near: socket.socket) -> None:
        head = read_head(near)
        if not head:
            return
        is_upgrade = upgrades_to is not None and b"websocket" in head
        host, _, port = (upgrades_to if is_upgrade and upgrades_to else target).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as far:
            far.sendall(request(head))
            back = threading.Thread(target=_pump, args=(far, near, answer), daemon=True)
            back.start()
            while deaf and near.recv(CHUNK):
                pass
            _pump(near, far, None)
            back.join(PATIENCE)

    with _listening(handle) as address:
        yield address


def _pump(source: socket.socket, sink: socket.socket, change: Change | None) -> None:
    with suppress(OSError):
        if change is not None:
            sink.sendall(change(read_head(source)))
        while data := source.recv(CHUNK):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def stranger(talk: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Run another WebSocket server, which selects netra.v1 and then calls `talk`."""
    with serve(talk, "127.0.0.1", 0, subprotocols=[Subprotocol("netra.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(PATIENCE)


def read_head(line: socket.socket) -> bytes:
    """Read until the head is complete; return all data read, or nothing at the end of the data."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = line.recv(CHUNK)
        if not data:
            return b""
        head += data
    return head


@contextmanager
def _listening(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    lines: list[socket.socket] = []
    is_over = threading.Event()

    def run(near: socket.socket) -> None:
        with suppress(OSError):
            handle(near)
        near.close()

    def accept() -> None:
        while not is_over.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            near.settimeout(PATIENCE)
            lines.append(near)
            threading.Thread(target=run, args=(near,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(POLL_SECONDS)
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            is_over.set()
            accepting.join()
            for line in lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
