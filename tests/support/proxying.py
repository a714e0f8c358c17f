"""A proxy for HTTP/1.1 that lets no WebSocket through.

with proxying(server.address) as proxy:
    … http://{proxy.address} …
    proxy.collects = True   # no event of a stream comes before the stream ends
    proxy.cut("/ws")        # open connections are closed; new ones are accepted
    proxy.strips = False    # upgrades work again
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio
from attrs import define, field

HOST = "127.0.0.1"
CHUNK = 64 * 1024  # bytes of one read
EVENT_STREAM = b"content-type: text/event-stream"
HOP = (b"connection:", b"upgrade:")  # headers that a proxy does not pass on by itself

_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


@define(eq=False)
class Proxy:
    """Relays one request for each connection.

    Attributes:
        target: The port of the server.
        strips: Whether it removes the headers of upgrades, so that no WebSocket opens.
        collects: Whether it holds a stream of events back until the server has ended it; the
            server is not told when the client has gone.
        address: Its own host and port.
    """

    target: int
    strips: bool = True
    collects: bool = False
    address: str = ""
    _open: dict[trio.CancelScope, bytes] = field(factory=dict)
    _token: trio.lowlevel.TrioToken | None = None
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    _is_ready: threading.Event = field(factory=threading.Event)

    def cut(self, path: str, *, method: str = "GET") -> bool:
        """Close the connections of all clients, if one of them waits for an answer from a path.

        Returns:
            Whether there was one.
        """
        assert self._token is not None
        starts = (f"{method} {path}?".encode(), f"{method} {path} ".encode())
        return trio.from_thread.run_sync(self._cut, starts, trio_token=self._token)

    def _cut(self, starts: tuple[bytes, ...]) -> bool:
        is_open = any(head.startswith(starts) for head in self._open.values())
        for scope in self._open if is_open else ():
            scope.cancel()
        return is_open

    def close(self) -> None:
        """Stop."""
        assert self._token is not None
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)

    async def run(self) -> None:
        """Accept connections until `close`."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.address = f"{HOST}:{listeners[0].socket.getsockname()[1]}"
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            self._is_ready.set()
            await trio.serve_listeners(self._serve, listeners)

    def wait_ready(self) -> None:
        """Wait until it accepts connections."""
        self._is_ready.wait()

    async def _serve(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, suppress(*_LOST):
            try:
                async with near:
                    await self._relay(near, scope)
            finally:
                self._open.pop(scope, None)

    async def _relay(self, near: trio.SocketStream, scope: trio.CancelScope) -> None:
        head, rest = await _head(near)
        self._open[scope] = head
        if not head:
            return
        is_upgrade = not self.strips and b"\r\nupgrade: websocket" in head.lower()
        async with await trio.open_tcp_stream(HOST, self.target) as far:
            await far.send_all((head if is_upgrade else _without_hops(head)) + rest)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_request, near, far, nursery.cancel_scope)
                with suppress(*_LOST):
                    await self._pass_answer(far, near)
                nursery.cancel_scope.cancel()

    async def _pass_request(
        self, near: trio.SocketStream, far: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        """Relay what follows the request's head, until the client has gone."""
        with suppress(*_LOST):
            await _pass_on(near, far)
        if not self.collects:
            scope.cancel()

    async def _pass_answer(self, far: trio.SocketStream, near: trio.SocketStream) -> None:
        head, rest = await _head(far)
        if self.collects and EVENT_STREAM in head.lower():
            pieces = [head, rest, *[piece async for piece in far]]
            await near.send_all(b"".join(pieces))
            return
        await near.send_all(head + rest)
        await _pass_on(far, near)


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for piece in source:
        await sink.send_all(piece)


async def _head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """Return the head of a request or an answer, and what came with it; without one, nothing."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(CHUNK)
        if not piece:
            return b"", b""
        data += piece
    end = data.index(b"\r\n\r\n") + 4
    return data[:end], data[end:]


def _without_hops(head: bytes) -> bytes:
    """Return the head of a request whose connection ends with its answer."""
    start, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(HOP)]
    return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


@contextmanager
def proxying(target: str) -> Iterator[Proxy]:
    """Run a proxy for an address of this machine, in a thread."""
    proxy = Proxy(int(target.rpartition(":")[2]))
    thread = threading.Thread(target=trio.run, args=(proxy.run,), daemon=True)
    thread.start()
    proxy.wait_ready()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
