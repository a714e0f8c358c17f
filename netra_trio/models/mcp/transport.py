"""The transports to MCP servers, with the end of the connection as an event.

The package `mcp` is an optional dependency: this module is imported when a server is connected.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from typing import Any, Self

import httpx2
import structlog
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

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
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    # Of `uvx` and `npx`, which install a server before they run it:
    *("UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE", "UV_PYTHON"),
    *("UV_NATIVE_TLS", "UV_OFFLINE", "PIP_CONFIG_FILE", "PIP_INDEX_URL"),
    *("NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_CACHE", "npm_config_cache"),
)
"""The variables that a command gets from this process: none with a secret of the server."""

_log = structlog.get_logger(__name__)


def open_transport(
    server: McpServer, on_lost: Callable[[], None]
) -> AbstractAsyncContextManager[tuple[Any, Any]]:
    """Open the streams to a server; `on_lost` is called when the server ends the connection."""
    return _http(server, on_lost) if server.is_url else _stdio(server, on_lost)


class _WatchedStream:
    """A stream of messages that reports its end."""

    def __init__(self, inner: Any, on_end: Callable[[], None]) -> None:
        self._inner = inner
        self._on_end = on_end

    @property
    def last_context(self) -> Context | None:
        """The context of the sender of the last message, if the transport keeps it."""
        context: Context | None = getattr(self._inner, "last_context", None)
        return context

    async def receive(self) -> Any:
        try:
            return await self._inner.receive()
        except Exception:
            self._on_end()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._inner.__anext__()
        except Exception:
            self._on_end()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@asynccontextmanager
async def _http(server: McpServer, on_lost: Callable[[], None]) -> AsyncIterator[tuple[Any, Any]]:
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
    async with (
        httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout) as http,
        streamable_http_client(server.where, http_client=http) as (receiving, sending),
    ):
        yield _WatchedStream(receiving, on_lost), sending


@asynccontextmanager
async def _stdio(server: McpServer, on_lost: Callable[[], None]) -> AsyncIterator[tuple[Any, Any]]:
    program, *arguments = server.command
    parameters = StdioServerParameters(
        command=program, args=arguments, env=_environment(os.environ, server.env)
    )
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as errlog:
        async with trio.lowlevel.FdStream(reading) as errors, trio.open_nursery() as nursery:
            async with stdio_client(parameters, errlog) as (receiving, sending):
                errlog.close()  # the child has its own: the pipe ends with the child
                nursery.start_soon(_log_lines, errors, server.label)
                yield _WatchedStream(receiving, on_lost), sending
            nursery.cancel_scope.cancel()


def _environment(own: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    return {name: own[name] for name in INHERITED if name in own} | dict(more)


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
