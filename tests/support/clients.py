"""Variants of the client of this package.

async with network.connect(dialer=Plain(network)) as client:
    print(await (await client.send("hello")).text())
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from attrs import define, frozen

from netra_trio.client import Dialer, Socket


@frozen
class Plain(Dialer):
    """A network on which the client offers no subprotocol, so the server treats it as a plain one.

    The server ignores its acknowledgements.
    """

    dialer: Dialer

    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],  # noqa: ARG002 - replaced on purpose
    ) -> AbstractAsyncContextManager[Socket]:
        return self.dialer.open(url, headers=headers, subprotocols=())

    async def discover(self, url: str) -> Mapping[str, Any]:
        return await self.dialer.discover(url)


@define(eq=False)
class InTurn(Dialer):
    """A network on which the client offers one subprotocol after the other, one for each socket.

    Attributes:
        dialer: The network.
        offers: The subprotocols, in turn.
        opened: The number of sockets.
    """

    dialer: Dialer
    offers: Sequence[str]
    opened: int = 0

    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
    ) -> AbstractAsyncContextManager[Socket]:
        offered = self.offers[self.opened % len(self.offers)]
        assert offered in subprotocols
        self.opened += 1
        return self.dialer.open(url, headers=headers, subprotocols=(offered,))

    async def discover(self, url: str) -> Mapping[str, Any]:
        return await self.dialer.discover(url)
