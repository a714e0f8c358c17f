"""The transports to MCP servers; they note messages and report the end of a connection.

The package `mcp` is an optional dependency: this module is imported when a server is connected.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Self

import httpx2
import structlog
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from netra_trio.models.mcp.open_calls import OpenCalls
from netra_trio.models.mcp.server import McpServer

CONNECT_SECONDS = 30.0  # to connect, to send and to wait for a connection of the pool
READ_SECONDS = 300.0  # of a stream without a byte; tool calls have a time limit of their own
LINE_BYTES = 500  # of a line of the error output that is logged
LINES = 20  # in an interval; further ones are counted
INTERVAL = 10.0  # seconds
READ_BYTES = 4096

INHERITED = (
    # Of the operating system, beside those that the package `mcp` passes on:
    *("LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
    # Of the network:
    *("NO_PROXY", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    # Of `uvx` and `npx`, which install a server before they run it:
    *("UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_PYTHON", "UV_NATIVE_TLS", "UV_OFFLINE"),
    *("PIP_CONFIG_FILE", "NPM_CONFIG_CACHE", "npm_config_cache"),
)
"""The variables that a command gets from this process: none with a secret of the server."""

INHERITED_URLS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
    *("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"),
    *("NPM_CONFIG_REGISTRY", "npm_config_registry"),
)
"""The variables that a command gets unless their URL has an `@`, and so a user or a token."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_transport(
    server: McpServer, calls: OpenCalls, on_lost: Callable[[], None]
) -> AsyncIterator[tuple[Any, Any]]:
    """Open the streams from and to a server.

    Args:
        server: The server.
        calls: Notes the messages.
        on_lost: Called when the server ends the connection.
    """
    opened = _http(server) if server.is_url else _stdio(server)
    async with opened as (receiving, sending):
        yield _WatchedStream(receiving, calls, on_lost), _WatchedSending(sending, calls)


class _WatchedSending:
    """A stream of messages to the server, which are noted."""

    def __init__(self, inner: Any, calls: OpenCalls) -> None:
        self._inner = inner
        self._calls = calls

    async def send(self, item: Any) -> None:
        self._calls.sent(item)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _WatchedStream:
    """A stream of messages of the server, which are noted, and which reports its end.

    Attributes:
        last_context: The context in which the last message has to be handled, if it has one. The
            package `mcp` reads it.
    """

    def __init__(self, inner: Any, calls: OpenCalls, on_end: Callable[[], None]) -> None:
        self._inner = inner
        self._calls = calls
        self._on_end = on_end
        self.last_context: Context | None = None

    def _note(self, item: Any) -> Any:
        context: Context | None = getattr(self._inner, "last_context", None)
        self.last_context = self._calls.received(item, context)
        return item

    async def receive(self) -> Any:
        try:
            return self._note(await self._inner.receive())
        except Exception:
            self._on_end()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return self._note(await self._inner.__anext__())
        except Exception:
            self._on_end()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@asynccontextmanager
async def _http(server: McpServer) -> AsyncIterator[tuple[Any, Any]]:
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
    async with (
        httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout) as http,
        streamable_http_client(server.where, http_client=http) as streams,
    ):
        yield streams


@asynccontextmanager
async def _stdio(server: McpServer) -> AsyncIterator[tuple[Any, Any]]:
    program, *arguments = server.command
    parameters = StdioServerParameters(command=program, args=arguments, env=_environment(server))
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as errlog:
        async with trio.lowlevel.FdStream(reading) as errors, trio.open_nursery() as nursery:
            async with stdio_client(parameters, errlog) as streams:
                errlog.close()  # the child has its own copy, so the pipe ends when the child does
                nursery.start_soon(_log_lines, errors, server.label)
                yield streams
            nursery.cancel_scope.cancel()


def _environment(server: McpServer) -> dict[str, str]:
    """Return the variables of a command; a URL with a user or a token is left out and logged."""
    own = {name: os.environ[name] for name in INHERITED if name in os.environ}
    for name in INHERITED_URLS:
        value = os.environ.get(name, "")
        if "@" not in value:
            own |= {name: value} if value else {}
        elif name not in server.env:
            _log.warning("mcp_variable_left_out", server=server.label, variable=name)
    return own | dict(server.env)


async def _log_lines(stream: trio.abc.ReceiveStream, label: str) -> None:
    """Log the error output of a server, line by line, within bounds."""
    begin, count, dropped = trio.current_time(), 0, 0
    async for line in _lines(stream):
        if trio.current_time() - begin >= INTERVAL:
            begin, count = trio.current_time(), 0
        if count >= LINES:
            dropped += 1
            continue
        count += 1
        _log.info("mcp_output", server=label, line=line, dropped=dropped)
        dropped = 0


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """Return the lines of a stream that are not blank; a long one is cut."""
    line = bytearray()
    while data := bytes(await stream.receive_some(READ_BYTES)):
        for place, piece in enumerate(data.split(b"\n")):
            if place:
                if line.strip():
                    yield line.decode(errors="replace")
                line.clear()
            line += piece[: LINE_BYTES - len(line)]
    if line.strip():
        yield line.decode(errors="replace")
