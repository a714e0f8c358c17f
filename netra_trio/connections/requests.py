"""Background requests of a client: a fault of one is its reply.

nursery.start_soon(run_request, client, frame, request)
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from netra_trio.errors import BrokerUnavailable, NotStorable, StoreUnavailable
from netra_trio.protocol.codec import Frame
from netra_trio.protocol.problem import Problem, Refused, broker_unavailable, store_unavailable
from netra_trio.sessions.refusals import never_stored


class ErrorClient(Protocol):
    """The part of a connection that gets the errors."""

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error; waits for room if the peer does not read."""
        ...


async def run_request(
    client: ErrorClient, frame: Frame, request: Callable[[], Awaitable[None]]
) -> None:
    """Execute the request of a frame; if it is refused or not possible now, send the error."""
    try:
        await request()
    except Refused as refused:
        fault = refused.problem
    except StoreUnavailable:
        fault = store_unavailable()
    except BrokerUnavailable:
        fault = broker_unavailable()
    except NotStorable:
        fault = never_stored().problem
    else:
        return
    await client.send_error(fault, frame.correlation_id)
