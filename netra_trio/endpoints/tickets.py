"""`POST /ws/ticket`: a ticket for a token, which keeps tokens out of URLs.

A ticket opens a connection once, or one file for as long as it is valid.
"""

from collections.abc import Callable
from typing import Any

import trio

from netra_trio.auth.tickets import FILE_TICKET_SECONDS, TICKET_SECONDS
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import BODY_BYTES, Call, decode_json
from netra_trio.endpoints.checks import check_ticket_request
from netra_trio.endpoints.downloads import find_file
from netra_trio.ids import FileId
from netra_trio.protocol.codec import show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem

_SHOWN_CHARACTERS = 40  # of the name of an unknown field


async def ticket(check_room: Callable[[], None], call: Call) -> Answer:
    """Issue a ticket after the checks of an upgrade, in their order.

    Args:
        check_room: Raises `Refused` while the server drains or is full.
        call: The request.

    Raises:
        Refused: Also VALIDATION_ERROR or FILE_NOT_FOUND.
    """
    check_room()
    now, tickets = trio.current_time(), call.services.tickets
    identity = await check_ticket_request(call.request, call.services, now=now)
    body = await call.read_body(BODY_BYTES)
    file_id = _file_id(decode_json(body)) if body.strip() else None
    if file_id is None:
        issued, seconds = await tickets.issue(identity, now), TICKET_SECONDS
    else:
        await find_file(call.services, identity.user_id, file_id)
        issued = await tickets.issue_for_file(identity, file_id, now)
        seconds = FILE_TICKET_SECONDS
    return Answer(200, {"ticket": issued, "expires_in": seconds})


def _file_id(value: Any) -> FileId | None:
    """Return the file that a body names.

    Raises:
        Refused: VALIDATION_ERROR.
    """
    if not isinstance(value, dict):
        raise _invalid(f"$: expected an object, got {show(value)}")
    unknown = sorted(value.keys() - {"file_id"})
    if unknown:
        raise _invalid(f"$.{unknown[0][:_SHOWN_CHARACTERS]}: unknown field")
    file_id = value.get("file_id")
    if "file_id" in value and not (isinstance(file_id, str) and file_id):
        raise _invalid(f"$.file_id: expected the id of a file, got {show(file_id)}")
    return file_id


def _invalid(text: str) -> Refused:
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text))
