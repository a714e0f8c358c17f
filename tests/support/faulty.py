r"""What stands wrongly between a client and the server: proxies that change requests, and others.

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
LOOK_SECONDS = 0.2  # how often the listener sees whether it is to end
PATIENCE = 100.0  # seconds: a bound on everything that a line waits for

Change = Callable[[bytes], bytes]


def without(*names: str) -> Change:
    """Return what takes headers out of the head of a request or an answer."""
    pattern = b"|".join(re.escape(name.encode()) for name in names)

    def change(head: bytes) -> bytes:
        return re.sub(rb"(?im)^(?:%s):[^\r\n]*\r\n" % pattern, b"", head)

    return change


def replacing(old: bytes, new: bytes) -> Change:
    """Return what writes something else into a head."""
    return lambda head: head.replace(old, new)


def unchanged(head: bytes) -> bytes:
    """Return a head as it is."""
    return head


@contextmanager
def answering(answer: bytes, *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server that says this to each request, whatever it is, and closes."""

    def handle(near: socket.socket) -> None:
        line = near if tls is None else tls.wrap_socket(near, server_side=True)
        with line:
            if read_head(line):
                line.sendall(answer)

    with _listening(handle) as address:
        yield address


@contextmanager
def silent() -> Iterator[str]:
    """Run a server that takes connections and says nothing."""

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
        upgrades_to: Another server, which gets the requests for a WebSocket.
        deaf: Whether what comes from a client behind its request goes nowhere.
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
    """Run a WebSocket server of another kind, which selects netra.v1 and then talks so."""
    with serve(talk, "127.0.0.1", 0, subprotocols=[Subprotocol("netra.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(PATIENCE)


def read_head(line: socket.socket) -> bytes:
    """Return what has come when the head is whole, with what came behind it; empty at the end."""
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
        listener.settimeout(LOOK_SECONDS)
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
