"""The events door: the project's own frames over HTTP, where a proxy blocks WebSockets.

`GET /ws/events` opens or resumes a session, and streams its frames as server-sent events; with
`Accept: application/json` it is a long-poll. `POST /ws/messages` takes one frame of the client.
"""

import re
from collections.abc import Mapping
from functools import partial

import trio

from netra_trio.auth.identity import Identity
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call, Endpoint
from netra_trio.endpoints.checks import (
    AcceptedUpgrade,
    accept_caller,
    check_caller,
    check_door,
    check_resume,
    check_user_exists,
)
from netra_trio.endpoints.doors.answering import WRITE_BYTES, Noted, noting
from netra_trio.endpoints.doors.connection import DoorConnection, open_connection
from netra_trio.endpoints.doors.event_frames import Close, close_event, event_of, poll_body
from netra_trio.endpoints.doors.inboxes import Inboxes, NoOpenConnection
from netra_trio.endpoints.doors.polls import Polls
from netra_trio.endpoints.doors.sse import SSE_HEADERS
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.responder import Responder
from netra_trio.errors import TransportClosed
from netra_trio.node.registry import ResumeRequest
from netra_trio.protocol.codes import ABNORMAL, ErrorCode
from netra_trio.protocol.doors import DOOR_PATHS, EVENTS
from netra_trio.protocol.problem import Refused, problem
from netra_trio.telemetry.events import DoorOutcome

WAIT_SECONDS, MAX_WAIT_SECONDS = 25, 60  # of a long-poll: most proxies allow a minute
JSON, SSE = "application/json", "text/event-stream"

_WAIT = re.compile(r"[0-9]{1,2}")


def open_door(entrance: Entrance) -> Mapping[str, Mapping[str, Endpoint]]:
    """Return the endpoints of the door."""
    door, paths = EventsDoor(entrance), DOOR_PATHS[EVENTS]
    return {paths["stream"]: {"GET": door.read}, paths["messages"]: {"POST": door.write}}


class EventsDoor:
    """The endpoints of the door.

    Args:
        entrance: Admits its connections to the node.
    """

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._inboxes = Inboxes(entrance.node)
        self._polls = Polls(entrance, self._inboxes)

    async def read(self, call: Call) -> Answer | None:
        """Stream the frames of a session, or answer a poll for them.

        Raises:
            Refused: As for the upgrade of a WebSocket.
        """
        with noting(call, EVENTS) as noted:
            if call.method == "HEAD":
                identity = await self._check_caller(call)
                await check_user_exists(identity, call.services)
                return Answer(200, headers={**SSE_HEADERS})
            if _is_poll(call.request):
                await self._poll(call, noted)
            else:
                noted.outcome = await self._stream(call)
        return None

    async def write(self, call: Call) -> Answer:
        """Take one frame of a client; the replies come on its stream.

        Raises:
            Refused: With the first fault.
        """
        with noting(call, EVENTS):
            wanted = check_resume(call.request.query)
            if wanted is None:
                raise Refused(problem(ErrorCode.BAD_REQUEST, "There is no session_id."))
            identity = await self._check_caller(call)
            body = await call.read_body(call.services.settings.hard_message_size)
            try:
                frame = body.decode()
            except UnicodeDecodeError:
                text = "The body is not UTF-8."
                raise Refused(problem(ErrorCode.BAD_REQUEST, text)) from None
            try:
                await self._inboxes.put(wanted.session_id, identity, frame)
            except NoOpenConnection:
                await check_user_exists(identity, call.services)  # it may have ended for that
                raise
        return Answer(202, headers={"content-length": "0"})

    async def _check_caller(self, call: Call) -> Identity:
        """Check a request that uses an open connection, which checks its user itself."""
        now = trio.current_time()
        with self._entrance.counting(call.request):
            self._entrance.rate.check_address(call.request.peer, now)
            return await check_caller(call.request, call.services, now=now)

    # Server-sent events.

    async def _stream(self, call: Call) -> DoorOutcome:
        accepted: list[AcceptedUpgrade] = []

        async def check() -> AcceptedUpgrade:
            now, wanted = trio.current_time(), _wanted(call.request)
            accepted.append(await check_door(call.request, call.services, now=now, wanted=wanted))
            return accepted[0]

        async with open_connection(self._entrance, call.request, check) as connection:
            with self._inboxes.registered(connection, accepted[0].identity):
                outcome = await _send_events(call.responder, connection)
            if outcome is not DoorOutcome.LOST:
                connection.abandon()
            return outcome

    # Long-polls.

    async def _poll(self, call: Call, noted: Noted) -> None:
        request, responder = call.request, call.responder
        wait, resumes = _wait_of(request), _resumes(request)
        noted.outcome = DoorOutcome.LEFT
        async with responder.until_gone():
            body = await self._take(call, wait, resumes=resumes)
            headers = {"content-type": JSON, "cache-control": "no-store"}
            await responder.answer(Answer(200, content=body, headers=headers))
            noted.outcome = DoorOutcome.COMPLETED

    async def _take(self, call: Call, wait: float, *, resumes: bool) -> bytes:
        """Return the answer of the open connection, or else of a new one."""
        wanted, identity = _wanted(call.request), None
        if wanted is not None:
            identity = await self._check_caller(call)
            if not resumes:
                body = await self._polls.take(wanted.session_id, identity, wanted.last_seq, wait)
                if body is not None:
                    return body
        check = partial(self._check_opening, call, wanted, identity)
        opened = await self._polls.open(call.request, check)
        return await opened.take(opened.handed, wait) or poll_body([])

    async def _check_opening(
        self, call: Call, wanted: ResumeRequest | None, identity: Identity | None
    ) -> AcceptedUpgrade:
        """Check an opening; the credential may be checked already, and a ticket is used once."""
        if identity is None:
            now = trio.current_time()
            return await check_door(call.request, call.services, now=now, wanted=wanted)
        return await accept_caller(identity, call.request, call.services, wanted=wanted)


async def _send_events(responder: Responder, connection: DoorConnection) -> DoorOutcome:
    """Send the frames of a connection until it ends, or its client has left."""
    try:
        async with responder.until_gone():
            await responder.start(SSE_HEADERS)
            data = event_of(connection.first_frame)
            while True:
                if data and (len(data) >= WRITE_BYTES or not connection.has_pending):
                    await responder.send(data)
                    await connection.note_alive()
                    data = b""
                try:
                    data += event_of(await connection.receive_bytes())
                except TransportClosed as closed:
                    close = Close(closed.code or ABNORMAL, connection.close_reason)
                    await responder.end(data + close_event(close))
                    break
    except TransportClosed as closed:
        return DoorOutcome.STALLED if closed.timed_out else DoorOutcome.LEFT
    return DoorOutcome.LEFT if responder.is_gone else DoorOutcome.LOST


def _is_poll(request: Request) -> bool:
    """Whether a request asks for JSON and not for a stream."""
    accepted = ",".join(request.headers.get("accept", [])).lower()
    return JSON in accepted and SSE not in accepted


def _wanted(request: Request) -> ResumeRequest | None:
    """Return the session to resume; the header Last-Event-ID replaces `last_seq`.

    Raises:
        Refused: BAD_REQUEST.
    """
    wanted, last = check_resume(request.query), request.headers.get("last-event-id", [])
    if not last:
        return wanted
    query = {"session_id": request.query.get("session_id", []), "last_seq": last}
    return check_resume(query)


def _wait_of(request: Request) -> float:
    """Return the seconds that a poll waits.

    Raises:
        Refused: BAD_REQUEST.
    """
    given = request.query.get("wait", [str(WAIT_SECONDS)])
    if len(given) > 1 or not _WAIT.fullmatch(given[0]) or int(given[0]) > MAX_WAIT_SECONDS:
        text = f"wait: expected one integer from 0 to {MAX_WAIT_SECONDS}."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))
    return float(given[0])


def _resumes(request: Request) -> bool:
    """Return whether a poll resumes its session even if its connection is open.

    A client asks for it after an answer that did not come, which may have had control frames.

    Raises:
        Refused: BAD_REQUEST.
    """
    given = request.query.get("resume", [])
    if given not in ([], ["1"]):
        raise Refused(problem(ErrorCode.BAD_REQUEST, "resume: expected 1."))
    return bool(given)
