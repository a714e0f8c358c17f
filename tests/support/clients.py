"""The client of this package, connected to a server on the memory transport.

async with open_server() as server, client_of(server) as (client, network):
    print(await (await client.send("hello")).text())
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from attrs import frozen

from netra_trio.client import Client, Dialer, Socket, SocketClosed, connect
from netra_trio.errors import TransportClosed
from support.memory import Client as Wire
from support.memory import Server, wall_clock

URL = "ws://server.example/ws"
HEADERS = {"Authorization": "Bearer t"}


@frozen
class _Line:
    wire: Wire

    async def send(self, text: str) -> None:
        try:
            await self.wire.line.send(text)
        except TransportClosed as closed:
            raise SocketClosed(closed.code or 1006) from None

    async def receive(self) -> str:
        try:
            return (await self.wire.line.receive()).decode()
        except TransportClosed as closed:
            raise SocketClosed(closed.code or 1006) from None

    async def close(self, code: int) -> None:
        self.wire.line.close(code)
        await self.wire.done.wait()


class MemoryNetwork(Dialer):
    """Opens lines to a server on the memory transport.

    Attributes:
        lines: The lines that were opened.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lines: list[Wire] = []

    async def discover(self, url: str) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        assert url == "http://server.example/ws/config"
        return {}

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AsyncIterator[_Line]:
        assert (url.partition("?")[0], headers, subprotocols) == (URL, HEADERS, ("netra.v1",))
        wire = self._server.start(acknowledging=True)
        self.lines.append(wire)
        try:
            yield _Line(wire)
        finally:
            wire.line.cut()


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[tuple[Client, MemoryNetwork]]:
    network = MemoryNetwork(server)
    async with connect(URL, token="t", dialer=network, wall_clock=wall_clock) as client:
        yield client, network


@frozen
class Plain(Dialer):
    """A network on which the client offers no subprotocol, so that the server takes it for plain.

    What it acknowledges all the same is ignored.
    """

    dialer: Dialer

    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],  # noqa: ARG002 - it is what this is for
    ) -> AbstractAsyncContextManager[Socket]:
        return self.dialer.open(url, headers=headers, subprotocols=())

    async def discover(self, url: str) -> Mapping[str, Any]:
        return await self.dialer.discover(url)
