"""The client of this package in another way than it comes.

async with network.connect(dialer=Plain(network)) as client:
    print(await (await client.send("hello")).text())
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from attrs import frozen

from netra_trio.client import Dialer, Socket


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
