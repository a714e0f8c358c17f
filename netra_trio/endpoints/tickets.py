"""`POST /ws/ticket`: a single-use ticket for a token, which keeps tokens out of URLs."""

from collections.abc import Callable

import trio

from netra_trio.auth.tickets import TICKET_SECONDS
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_ticket_request


async def ticket(check_room: Callable[[], None], call: Call) -> Answer:
    """Issue a ticket after the checks of an upgrade, in their order.

    Args:
        check_room: Raises `Refused` while the server drains or is full.
        call: The request.
    """
    check_room()
    now = trio.current_time()
    identity = await check_ticket_request(call.request, call.services, now=now)
    issued = await call.services.tickets.issue(identity, now)
    return Answer(200, {"ticket": issued, "expires_in": TICKET_SECONDS})
