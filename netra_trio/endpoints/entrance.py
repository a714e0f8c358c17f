"""The way of a connection into the node, the same for every transport.

    await entrance.serve(request, check, make_transport)

A WebSocket and a door differ in their transport only: slots, rates, checks, the limit of each user
and the drain are the same.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio
from attrs import frozen

from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.endpoints.request import Request
from netra_trio.node.node import Node
from netra_trio.protocol.problem import Refused
from netra_trio.transports.base import Transport

REJECTED = frozenset({400, 401, 403, 404, 426})  # the statuses that count for an address


@frozen
class Entrance:
    """Admits connections to a node.

    Attributes:
        node: The node.
        rate: The rate of openings.
    """

    node: Node
    rate: OpeningRate

    async def serve(
        self,
        request: Request,
        check: Callable[[], Awaitable[AcceptedUpgrade]],
        make_transport: Callable[[AcceptedUpgrade], Transport],
    ) -> None:
        """Check a connection and serve it to its end. Cancelling aborts it.

        Args:
            request: Its headers, query and peer.
            check: Checks the request.
            make_transport: Makes the transport, after every check has passed.

        Raises:
            Refused: With the first fault, before anything is sent on the transport.
        """
        since, node = trio.current_time(), self.node
        with self.counting(request), node.capacity.connection_slot():
            self.rate.check_address(request.peer, since)
            accepted = await check()
            user_id = accepted.identity.user_id
            wait = await node.connection_limit.take_opening(user_id)
            if wait is None:
                self.rate.take(user_id, since)
            else:
                self.rate.check(wait)
            await node.serve(
                make_transport(accepted),
                accepted.identity,
                accepted.wire,
                wanted=accepted.wanted,
                since=since,
                traceparent=accepted.traceparent,
            )

    @contextmanager
    def counting(self, request: Request) -> Iterator[None]:
        """Count a refusal in the block for the address of the request."""
        since = trio.current_time()
        try:
            yield
        except Refused as refused:
            if refused.problem.status in REJECTED:
                self.rate.note_rejected(request.peer, since)
            raise
