"""A receiver of webhooks on this machine, which verifies signatures and fails as scripted.

with receiving() as receiver:
    …                                   # a server with receiver.environ
    [delivery] = receiver.wait(1)
    receiver.script = [500, 302, SILENT]
"""

import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field, frozen

SECRET = "w3bh00k-" + "x" * 40
SILENT = 0  # instead of a status: the request is never answered
PATIENCE = 60.0  # seconds
CLOCKS_DIFFER = 30.0  # seconds


@frozen
class Delivery:
    """A request that was received."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def notification(self) -> dict[str, Any]:
        """The body."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


def check_signature(header: str, body: bytes, *, now: float, secret: str = SECRET) -> None:
    """Check the signature of a request, as a receiver does."""
    at, given = (part.partition("=")[2] for part in header.split(","))
    assert header == f"t={int(at)},v1={given}"
    assert abs(now - int(at)) < CLOCKS_DIFFER
    expected = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, given)


@define(eq=False)
class Receiver:
    """A receiver.

    Attributes:
        script: The statuses of the next answers; 200 after them.
        headers: Headers of all answers.
        more: Bytes that answers announce and never send.
        deliveries: The requests, in the order of arrival.
    """

    port: int
    script: list[int] = field(factory=list)
    headers: dict[str, str] = field(factory=dict)
    more: int = 0
    tls: ssl.SSLContext | None = None
    deliveries: list[Delivery] = field(factory=list)
    arrived: threading.Condition = field(factory=threading.Condition)
    released: threading.Event = field(factory=threading.Event)

    @property
    def url(self) -> str:
        """Its URL."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/hooks/netra?tenant=5"

    @property
    def environ(self) -> dict[str, str]:
        """The settings of a server that notifies it."""
        return {"NOTIFY_WEBHOOK": self.url, "NOTIFY_WEBHOOK_SECRET": SECRET}

    @property
    def accepted(self) -> dict[str, dict[str, Any]]:
        """The accepted notifications by id: a receiver ignores repeated ones."""
        return {
            each.notification["id"]: each.notification
            for each in self.deliveries
            if each.status == 200
        }

    def wait(self, count: int) -> Sequence[Delivery]:
        """Wait for a number of requests, and return all."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.deliveries) >= count, PATIENCE), (
                f"{len(self.deliveries)} requests instead of {count}"
            )
            return list(self.deliveries)

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Record a request; return the status of the answer."""
        check_signature(headers["netra-signature"], body, now=time.time())
        assert headers["content-type"] == "application/json"
        assert headers["idempotency-key"] == json.loads(body)["id"]
        with self.arrived:
            status = self.script.pop(0) if self.script else 200
            self.deliveries.append(Delivery(headers, body, status))
            self.arrived.notify_all()
        return status


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            status = receiver.receive(headers, body)
            if status == SILENT:
                receiver.released.wait(PATIENCE)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(2 + receiver.more))
            self.end_headers()
            self.wfile.write(b"ok")
            if receiver.more:
                receiver.released.wait(PATIENCE)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def receiving(
    receiver: Receiver | None = None, *, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """Run a receiver; one that is given listens on its port again."""
    server = ThreadingHTTPServer(("127.0.0.1", 0 if receiver is None else receiver.port), object)  # type: ignore[arg-type]
    receiver = receiver or Receiver(server.server_address[1], tls=tls)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.RequestHandlerClass = _handler(receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
