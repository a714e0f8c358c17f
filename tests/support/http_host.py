"""A network in memory, on which HTTP requests reach an application, and WebSockets do not.

    async with open_app(doors=("events",)) as app, hosting(app, monkeypatch) as host:
        async with connect(host.url, token=token("alice"), dialer=Network()) as client:
            assert client.stats.transport == "sse"

For a virtual clock. Like a proxy it may take `Upgrade` out of requests, collect streams, and cut
connections. It replaces `trio.open_tcp_stream`.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import pytest
import trio
from attrs import define, field
from trio.testing import memory_stream_pair

from netra_trio.transports.asgi import Message, Receive, Send

App = Callable[[Message, Receive, Send], Awaitable[None]]

CHUNK = 64 * 1024  # bytes of one read
SSE = "text/event-stream"
_EVENT_END = re.compile(rb"(?<=\n\n)")
HOP_BY_HOP = {b"connection", b"upgrade"}


def never(_: str) -> bool:
    """Cut nothing."""
    return False


def nothing(_: str) -> None:
    """Leave each answer to the application."""


@define(eq=False)
class Host:
    """The network.

    Attributes:
        app: The application.
        collects: Whether it sends streams of events only when they are complete.
        is_down: Whether connections are refused.
        cut: Called for each `event` of a stream, and each answer to a `poll`, a `post` or another
            request (`other`), before it is sent; returns whether to cut the connection instead.
        answer: Called with the target of each request; returns a status to answer in place of the
            application, or None.
        requests: The method and the target of each request.
        cuts: The number of connections that were cut.
        streams: The open connections.
    """

    app: App
    nursery: trio.Nursery
    collects: bool = False
    is_down: bool = False
    cut: Callable[[str], bool] = never
    answer: Callable[[str], int | None] = nothing
    requests: list[tuple[str, str]] = field(factory=list)
    cuts: int = 0
    streams: set[trio.abc.Stream] = field(factory=set)
    url: str = "ws://server.test/ws"

    async def connect(self, _host: str, _port: int) -> trio.abc.Stream:
        """Open a connection (see `trio.open_tcp_stream`)."""
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = memory_stream_pair()
        self.nursery.start_soon(self._serve, far)
        return near

    def drop(self) -> None:
        """Close all connections."""
        for stream in self.streams:
            self.nursery.start_soon(trio.aclose_forcefully, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.streams.add(stream)
        connection = h11.Connection(h11.SERVER)
        try:
            while await _Exchange(self, connection, stream).run():
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass
        finally:
            self.streams.discard(stream)
            await trio.aclose_forcefully(stream)


class _Exchange:
    """One request and its answer."""

    def __init__(self, host: Host, connection: h11.Connection, stream: trio.abc.Stream) -> None:
        self._host = host
        self._connection = connection
        self._stream = stream
        self._gone = trio.Event()
        self._kind = "other"
        self._is_stream = False
        self._collected = b""
        self._request: h11.Request
        self._body = b""
        self._has_read = False

    async def run(self) -> bool:
        """Answer a request; return whether another one may follow."""
        if not await self._read():
            return False
        target = self._request.target.decode()
        self._host.requests.append((self._request.method.decode(), target))
        if self._request.method == b"POST":
            self._kind = "post"
        elif dict(self._request.headers).get(b"accept") == b"application/json":
            self._kind = "poll" if "wait=" in target else "other"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            status = self._host.answer(target)
            if status is None:
                await self._host.app(self._scope(), self._receive, self._send)
            else:
                start = {"type": "http.response.start", "status": status, "headers": []}
                await self._send(start)
                await self._send({"type": "http.response.body", "body": b"no"})
            nursery.cancel_scope.cancel()
        return self._connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    async def _read(self) -> bool:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                self._connection.receive_data(bytes(await self._stream.receive_some(CHUNK)))
            elif isinstance(event, h11.Request):
                self._request = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            else:
                return isinstance(event, h11.EndOfMessage)

    async def _watch(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            assert await self._stream.receive_some(CHUNK) == b""
        self._gone.set()

    def _scope(self) -> dict[str, Any]:
        path, _, query = self._request.target.partition(b"?")
        headers = [(k, v) for k, v in self._request.headers if k not in HOP_BY_HOP]
        return {
            "type": "http",
            "method": self._request.method.decode(),
            "path": path.decode(),
            "query_string": query,
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "extensions": {},
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._has_read:
            self._has_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._gone.is_set():
            await trio.lowlevel.checkpoint()
            return
        if message["type"] == "http.response.start":
            headers = [(k, v) for k, v in message["headers"] if k != b"content-length"]
            self._is_stream = any(v.startswith(SSE.encode()) for _, v in headers)
            if not self._is_stream and self._host.cut(self._kind):
                await self._hang_up()
                return
            response = h11.Response(
                status_code=message["status"],
                headers=[*headers, (b"transfer-encoding", b"chunked")],
            )
            await self._put(self._connection.send(response))
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self._is_stream and self._host.collects:
            self._collected += body
            body = self._collected if is_last else b""
        for piece in _EVENT_END.split(body) if self._is_stream else [body]:
            if not piece:
                continue
            if self._is_stream and self._host.cut("event"):
                await self._hang_up()
                return
            await self._put(self._connection.send(h11.Data(data=piece)))
        if is_last:
            await self._put(self._connection.send(h11.EndOfMessage()))

    async def _put(self, data: bytes | None) -> None:
        try:
            await self._stream.send_all(data or b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._gone.set()

    async def _hang_up(self) -> None:
        self._host.cuts += 1
        self._gone.set()
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def hosting(app: App, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Let each connection that is opened reach the application."""
    async with trio.open_nursery() as nursery:
        host = Host(app, nursery)
        with monkeypatch.context() as patched:
            patched.setattr(trio, "open_tcp_stream", host.connect)
            yield host
        nursery.cancel_scope.cancel()
