"""A real HTTP server that speaks the Chat Completions API as a test tells it to.

async with open_model_server() as server:
    server.will(says("Hel", "lo"), refuses(429))
    agent = chat("m", base_url=server.url)
    ...
    assert server.requests[0].body["messages"] == [{"role": "user", "content": "hi"}]
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any

import h11
import orjson
import trio
from attrs import define, field, frozen

PATIENCE = 60.0  # seconds for what a test waits for

Json = dict[str, Any]


@frozen
class Request:
    """A request that the server has received."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@define(eq=False)
class Exchange:
    """One request and its answer.

    Attributes:
        request: The request.
        sent: The bytes of the body that the socket took.
        gone: Set when the client has closed the connection before the end of the answer.
    """

    request: Request
    _stream: trio.SocketStream
    _connection: h11.Connection
    sent: int = 0
    gone: trio.Event = field(factory=trio.Event)

    async def start(self, status: int = 200, *headers: tuple[str, str]) -> None:
        """Send the head; without a content type it is that of an event stream."""
        given = dict(headers)
        given.setdefault("content-type", "text/event-stream")
        await self._send(h11.Response(status_code=status, headers=list(given.items())))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        await self._send(h11.Data(data=data))
        self.sent += len(data)

    async def event(self, chunk: Any) -> None:
        """Send a chunk as an event; a text as it is."""
        text = chunk if isinstance(chunk, str) else orjson.dumps(chunk).decode()
        await self.write(f"data: {text}\n\n".encode())

    async def end(self) -> None:
        """End the body."""
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        assert data is not None
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.gone.set()
            raise

    async def wait_gone(self) -> None:
        """Wait until the client closes the connection."""
        with trio.fail_after(PATIENCE):
            while await self._stream.receive_some():
                raise AssertionError("the client sent more")
        self.gone.set()


Reply = Callable[[Exchange], Awaitable[None]]


@define(eq=False)
class ModelServer:
    """The server.

    Attributes:
        url: Its base URL.
        requests: The requests for completions, in order.
        others: Every other request, which it answers with 404 or by `other`.
        connections: How many connections it has accepted.
        open_connections: How many are open now.
    """

    url: str
    requests: list[Request] = field(factory=list)
    others: list[Request] = field(factory=list)
    connections: int = 0
    open_connections: int = 0
    other: Reply | None = None
    exchanges: list[Exchange] = field(factory=list)
    _replies: deque[Reply] = field(factory=deque)
    _default: Reply | None = None
    _closed: trio.Event = field(factory=trio.Event)

    def will(self, *replies: Reply) -> None:
        """Answer the next requests with these replies."""
        self._replies.extend(replies)

    def always(self, reply: Reply) -> None:
        """Answer every further request with this reply."""
        self._default = reply

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open_connections += 1
        try:
            async with stream:
                await self._serve(stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass
        finally:
            self.open_connections -= 1
            self._closed.set()
            self._closed = trio.Event()

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            request = await _receive(stream, connection)
            if request is None:
                return
            exchange = Exchange(request, stream, connection)
            await self._reply_to(request)(exchange)
            if connection.states[h11.SERVER] is not h11.DONE:
                return
            connection.start_next_cycle()

    def _reply_to(self, request: Request) -> Reply:
        if request.path != "/v1/chat/completions":
            self.others.append(request)
            return self.other or refuses(404)
        self.requests.append(request)
        reply = self._replies.popleft() if self._replies else self._default
        assert reply is not None, "a request that the test did not expect"

        async def kept(exchange: Exchange) -> None:
            self.exchanges.append(exchange)
            await reply(exchange)

        return kept

    async def wait_closed(self) -> None:
        """Wait until no connection is open."""
        with trio.fail_after(PATIENCE):
            while self.open_connections:
                await self._closed.wait()


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive_some())
            except trio.BrokenResourceError:
                return None
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.ConnectionClosed):
            return None
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode() for name, value in head.headers}
            content = orjson.loads(body) if body else None
            return Request(head.method.decode(), head.target.decode(), headers, content)


@asynccontextmanager
async def open_model_server() -> AsyncIterator[ModelServer]:
    """Serve on a free port of the loopback interface."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        server = ModelServer(f"http://127.0.0.1:{port}/v1")
        await nursery.start(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


@contextmanager
def model_server_in_thread() -> Iterator[ModelServer]:
    """Serve in a thread of its own, for a test that waits for another process."""
    started: SimpleQueue[tuple[ModelServer, trio.lowlevel.TrioToken, trio.CancelScope]]
    started = SimpleQueue()

    async def main() -> None:
        async with open_model_server() as server:
            with trio.CancelScope() as scope:
                started.put((server, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = Thread(target=trio.run, args=(main,))
    thread.start()
    server, token, scope = started.get(timeout=PATIENCE)
    try:
        yield server
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


# Replies.


def chunk(finish: str | None = None, **delta: Any) -> Json:
    """Return a chunk with a delta."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def usage(given: int, written: int, **more: Any) -> Json:
    """Return the chunk that counts tokens."""
    counted = {"prompt_tokens": given, "completion_tokens": written, **more}
    return {"choices": [], "usage": counted}


def sends(*chunks: Any, done: bool = True) -> Reply:
    """Stream these chunks, and the end of the stream."""

    async def reply(exchange: Exchange) -> None:
        await exchange.start()
        for each in chunks:
            await exchange.event(each)
        if done:
            await exchange.event("[DONE]")
        await exchange.end()

    return reply


def says(*texts: str, finish: str | None = "stop", counted: Json | None = None) -> Reply:
    """Stream a text in pieces."""
    last = [counted] if counted else []
    return sends(*(chunk(content=text) for text in texts), chunk(finish), *last)


def call_piece(
    index: int, id_: str | None = None, name: str | None = None, arguments: str = ""
) -> Json:
    """Return a piece of a tool call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function} | ({"id": id_, "type": "function"} if id_ else {})


def calls(*wanted: tuple[str, Any], text: str = "") -> Reply:
    """Ask for tools, with the arguments of each in pieces of three characters."""
    chunks = [chunk(content=text)] if text else []
    for index, (name, arguments) in enumerate(wanted):
        written = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        chunks.append(chunk(tool_calls=[call_piece(index, f"call_{name}_{index}", name)]))
        chunks += [
            chunk(tool_calls=[call_piece(index, arguments=written[start : start + 3])])
            for start in range(0, len(written), 3)
        ]
    return sends(*chunks, chunk("tool_calls"))


def refuses(status: int, body: Any = None, *headers: tuple[str, str]) -> Reply:
    """Answer with an error."""

    async def reply(exchange: Exchange) -> None:
        await exchange.start(status, ("content-type", "application/json"), *headers)
        await exchange.write(orjson.dumps({"error": {"message": "no"}} if body is None else body))
        await exchange.end()

    return reply


def breaks_off(*chunks: Any) -> Reply:
    """Stream these chunks, and close the connection in the middle of the body."""

    async def reply(exchange: Exchange) -> None:
        await exchange.start()
        for each in chunks:
            await exchange.event(each)

    return reply


def hangs(*chunks: Any) -> Reply:
    """Stream these chunks, and then nothing until the client closes the connection."""

    async def reply(exchange: Exchange) -> None:
        await exchange.start()
        for each in chunks:
            await exchange.event(each)
        await exchange.wait_gone()

    return reply


def results_in(messages: Sequence[Json]) -> list[str]:
    """Return the results of tools in the messages of a request."""
    return [message["content"] for message in messages if message["role"] == "tool"]
