"""A relay on loopback that cuts HTTP connections after certain server-sent events.

    async with cutting_events(port, lambda events: events % 3 == 0) as (relayed, relay):
        … http://127.0.0.1:{relayed}/v1 …

Events are counted over all connections; an answer that is no stream has none.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio
from attrs import define

CHUNK = 64 * 1024  # bytes of one read
HOST = "127.0.0.1"
END_OF_EVENT = b"\n\n"


@define(eq=False)
class EventRelay:
    """Relays bytes of any number of connections.

    Attributes:
        target: The port of the server.
        is_cut: Called with the number of relayed events; returns whether to cut the connection.
        events: The number of relayed events.
        cuts: The number of connections that were cut.
    """

    target: int
    is_cut: Callable[[int], bool]
    events: int = 0
    cuts: int = 0

    async def serve(self, near: trio.SocketStream) -> None:
        """Relay one connection."""
        far = await trio.open_tcp_stream(HOST, self.target)
        try:
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_requests, near, far)
                await self._pass_answers(far, near)
                nursery.cancel_scope.cancel()
                await trio.aclose_forcefully(near)
                await trio.aclose_forcefully(far)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _pass_requests(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
            await trio.aclose_forcefully(sink)

    async def _pass_answers(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Relay the bytes of the server, up to the end or to the cut."""
        async for data in source:
            rest = data
            while END_OF_EVENT in rest:
                event, _, rest = rest.partition(END_OF_EVENT)
                await sink.send_all(event + END_OF_EVENT)
                self.events += 1
                if self.is_cut(self.events):
                    self.cuts += 1
                    return
            await sink.send_all(rest)


@asynccontextmanager
async def cutting_events(
    target: int, is_cut: Callable[[int], bool]
) -> AsyncIterator[tuple[int, EventRelay]]:
    """Run a relay to a port of this machine; yield its own port and the relay."""
    relay = EventRelay(target, is_cut)
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield listeners[0].socket.getsockname()[1], relay
        nursery.cancel_scope.cancel()
