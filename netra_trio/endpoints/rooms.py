"""`POST /ws/rooms/{room}`: publishes a message to a room, for other programs."""

from collections.abc import Callable, Iterator
from typing import Any

import trio

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call, decode_json
from netra_trio.endpoints.checks import PUBLISHER, check_permission
from netra_trio.endpoints.paths import ROOM_PREFIX
from netra_trio.errors import BrokerUnavailable
from netra_trio.protocol.codec import NESTING_LEVELS, is_too_deep, payload_of, show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS
from netra_trio.protocol.numbers import find_out_of_range, may_have_out_of_range
from netra_trio.protocol.problem import Refused, broker_unavailable, problem
from netra_trio.protocol.rooms import RoomConfirmation, RoomConfirmed, check_room_name
from netra_trio.rooms.access import forbidden
from netra_trio.rooms.publisher import ROOM_EVENT_BYTES, EventTooLarge, ReservedRoom

BODY_BYTES = 2 * ROOM_EVENT_BYTES  # of a request: escaped characters have more bytes

_FIELDS = frozenset({"content", "key"})
_SHOWN_CHARACTERS = 40  # of the name of an unknown field


async def publish(check_room: Callable[[], None], call: Call) -> Answer:
    """Publish a message of the token's user to the room of the path.

    Args:
        check_room: Raises `Refused` while the server drains or is full.
        call: The request.

    Raises:
        Refused: Also FORBIDDEN, VALIDATION_ERROR, MESSAGE_TOO_LARGE or SERVICE_UNAVAILABLE.
    """
    check_room()
    room = call.path.removeprefix(ROOM_PREFIX)
    try:
        check_room_name(room)
    except ValueError as error:
        raise Refused(problem(ErrorCode.BAD_REQUEST, str(error))) from None
    services = call.services
    identity = await check_permission(call.request, services, PUBLISHER, now=trio.current_time())
    body = _decode(await call.read_body(BODY_BYTES))
    try:
        published = await services.publisher.publish(
            room, body["content"], user_id=identity.user_id, key=body.get("key")
        )
    except ReservedRoom:
        raise forbidden() from None
    except EventTooLarge as error:
        raise Refused(problem(ErrorCode.MESSAGE_TOO_LARGE, f"$.{error}")) from None
    except BrokerUnavailable:
        raise Refused(broker_unavailable()) from None
    is_new = not published.is_duplicate
    status = RoomConfirmation.ACCEPTED if is_new else RoomConfirmation.DUPLICATE
    return Answer(200, payload_of(RoomConfirmed(room, published.offset, status)))


def _decode(body: bytes) -> Any:
    """Return the fields of a body.

    Raises:
        Refused: BAD_REQUEST or VALIDATION_ERROR.
    """
    value = decode_json(body)
    faults = list(_faults(value))
    if not faults and may_have_out_of_range(body):
        out_of_range = find_out_of_range(body)
        faults = [] if out_of_range is None else [out_of_range]
    if faults:
        raise Refused(problem(ErrorCode.VALIDATION_ERROR, "; ".join(faults)))
    return value


def _faults(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"$: expected an object, got {show(value)}"
        return
    unknown = sorted(value.keys() - _FIELDS)
    if unknown:
        yield f"$.{unknown[0][:_SHOWN_CHARACTERS]}: unknown field"
    if "content" not in value:
        yield "$.content: missing"
    elif not isinstance(value["content"], str | dict):
        yield f"$.content: expected an object or a string, got {show(value['content'])}"
    elif is_too_deep(value["content"]):
        yield f"$.content: expected at most {NESTING_LEVELS} levels of nesting, got an object"
    if "key" in value and not _is_key(value["key"]):
        expected = f"a string of 1 to {CORRELATION_ID_CHARACTERS} characters"
        yield f"$.key: expected {expected}, got {show(value['key'])}"


def _is_key(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= CORRELATION_ID_CHARACTERS
