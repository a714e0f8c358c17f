"""The connections of long-polls, which stay open between two polls of a client.

    polls = Polls(entrance, inboxes)
    held = await polls.open(request, check)
    body = await held.take(last_seq, wait=25.0)     # once for each poll

A task of the node serves such a connection, because no request lasts as long as it. It ends one
heartbeat interval after its last poll; then its session waits for a resume, as after any other end.

A poll that reaches another node is passed on in parts, so that a node that is gone is noticed. Each
poll would move the session otherwise, and end the memberships in rooms.
"""

from collections.abc import Awaitable, Callable
from math import inf

import structlog
import trio
from attrs import define, field

from netra_trio.auth.identity import Identity
from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.doors.connection import DoorConnection, open_connection
from netra_trio.endpoints.doors.event_frames import Close, number_of, poll_body
from netra_trio.endpoints.doors.inboxes import REPLY_SECONDS, UNKNOWN, Inboxes, caller_of
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.request import Request
from netra_trio.errors import TransportClosed
from netra_trio.ids import NodeId, SessionId, new_error_id
from netra_trio.protocol.codes import ABNORMAL, ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, problem

ANSWER_BYTES = 256 * 1024  # of frames in one answer, beside its last one
WRITER_STEPS = 4  # of the scheduler, in which a writer that waits for room sends a frame
PART_SECONDS = 5.0  # for which another node waits at once

POLL = "door_poll"  # the kind of the message to another node
ANSWERED, REPLACED, RESUME = "answered", "replaced", "resume"

_log = structlog.get_logger(__name__)


class HeldConnection:
    """A connection between polls.

    Args:
        connection: The connection.
        interval: The seconds after a poll for which it stays open.
        scope: Ends it when it is cancelled.

    Attributes:
        handed: The highest number in an answer so far.
        polls: The number of polls so far.
    """

    def __init__(
        self, connection: DoorConnection, interval: float, scope: trio.CancelScope
    ) -> None:
        self._connection = connection
        self._interval = interval
        self._scope = scope
        self._first: bytes | None = connection.first_frame
        self.polls = 0
        self._taking = trio.Lock()
        self._wait = trio.CancelScope()
        self.handed = int(connection.hello["resume"]["last_seq"])

    async def take(self, last_seq: int, wait: float) -> bytes | None:
        """Return the body of the answer to a poll; an earlier poll ends with an empty one.

        If it is cancelled, what it has taken is lost to the client, as with a lost answer.

        Args:
            last_seq: The last number that the client has; this acknowledges.
            wait: Seconds for which to wait for a frame.

        Returns:
            The body. None if the client has not the last number that was sent to it, or has a
            later one: it has to resume its session.
        """
        self.polls += 1
        number = self.polls
        self._wait.cancel()
        async with self._taking:
            if number != self.polls:
                return poll_body([])
            if last_seq != self.handed:
                return None
            self._scope.deadline = inf
            try:
                await self._connection.note_alive()
                await self._acknowledge(last_seq)
                return await self._collect(number, wait)
            finally:
                self._scope.deadline = trio.current_time() + self._interval

    def replaced(self) -> None:
        """End the connection, whose session has a newer one; a poll that waits gets its close."""
        if not self._taking.locked():
            self._scope.cancel()

    async def _acknowledge(self, seq: int) -> None:
        """Acknowledge, if there is room: the next poll does it too.

        The server may take nothing from its client before its client takes something.
        """
        if seq and not self._connection.is_closed:
            with trio.move_on_after(0):
                await self._connection.acknowledge(seq)

    async def _collect(self, number: int, wait: float) -> bytes:
        frames: list[bytes] = []
        if self._first is not None:
            frames.append(self._first)
            self._first = None
        size, close, connection = 0, None, self._connection
        try:
            if not frames and number == self.polls:
                self._wait = trio.CancelScope(deadline=trio.current_time() + wait)
                with self._wait:
                    frames.append(self._noted(await connection.receive_bytes()))
            if not frames and number != self.polls:
                return poll_body([])  # what is pending is for the newer poll
            while size < ANSWER_BYTES and (await self._has_pending() or connection.is_closed):
                frames.append(self._noted(await connection.receive_bytes()))
                size += len(frames[-1])
        except TransportClosed as closed:
            close = Close(closed.code or ABNORMAL, connection.close_reason)
            self._scope.cancel()
        return poll_body(frames, close)

    async def _has_pending(self) -> bool:
        """Whether there is a frame, when the writer has had the time to send another one."""
        for _ in range(WRITER_STEPS):
            if self._connection.has_pending:
                return True
            await trio.lowlevel.checkpoint()
        return self._connection.has_pending

    def _noted(self, frame: bytes) -> bytes:
        self.handed = number_of(frame) or self.handed
        return frame


@define
class _Opening:
    """The result of an opening, for the request that waits for it."""

    is_done: trio.Event = field(factory=trio.Event)
    held: HeldConnection | None = None
    error: Exception | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)


class Polls:
    """The connections of long-polls of one node.

    Args:
        entrance: Admits them to the node.
        inboxes: Gets each of them, for the frames of its client.
    """

    def __init__(self, entrance: Entrance, inboxes: Inboxes) -> None:
        self._entrance = entrance
        self._inboxes = inboxes
        self._interval = entrance.node.services.settings.heartbeat_interval_ms / 1000
        self._held: dict[SessionId, HeldConnection] = {}
        self._cluster = entrance.node.cluster
        if self._cluster is not None:
            self._cluster.mailbox.handle(POLL, self._on_poll)

    async def take(
        self, session_id: SessionId, identity: Identity, last_seq: int, wait: float
    ) -> bytes | None:
        """Return the answer of the open connection of a session (see `HeldConnection.take`).

        Returns:
            The body; None if there is no such connection at any node, or its client has to resume.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if the broker or the node of the session does not answer.
        """
        held = self._find(session_id, identity)
        if held is not None:
            return await held.take(last_seq, wait)
        if self._cluster is None or self._inboxes.find(session_id, identity) is not None:
            return None
        until = trio.current_time() + wait
        while True:
            part = min(max(until - trio.current_time(), 0.0), PART_SECONDS)
            header = {"last_seq": last_seq, "wait": part}
            answer = await self._inboxes.ask(
                session_id, identity, POLL, header, seconds=part + REPLY_SECONDS
            )
            if answer is None or answer.header["state"] == RESUME:
                return None
            is_empty = answer.header["state"] == ANSWERED and answer.data == poll_body([])
            if not is_empty or trio.current_time() >= until:
                return answer.data

    def _find(self, session_id: SessionId, identity: Identity) -> HeldConnection | None:
        """Return the connection of a session of a user, if it is one of polls at this node."""
        held = self._held.get(session_id)
        return held if self._inboxes.find(session_id, identity) is not None else None

    async def _on_poll(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Answer a part of a poll that has reached another node.

        Raises:
            BrokerUnavailable: If the answer could not be sent.
        """
        session_id, identity = caller_of(header)
        held, state, body = self._find(session_id, identity), UNKNOWN, None
        if held is not None:
            number = held.polls + 1
            body = await held.take(header["last_seq"], header["wait"])
            state = RESUME if body is None else ANSWERED if held.polls == number else REPLACED
        await self._inboxes.answer(sender, header, session_id, {"state": state}, body or b"")

    async def open(
        self, request: Request, check: Callable[[], Awaitable[AcceptedUpgrade]]
    ) -> HeldConnection:
        """Open a connection; its first poll is due within a heartbeat interval.

        Cancelling closes it.

        Args:
            request: The request, for its limits.
            check: Checks it.

        Raises:
            Refused: If the server refuses the connection.
        """
        self._entrance.node.capacity.check_open()  # a node that has ended starts no task
        opening = _Opening()
        self._entrance.node.start_soon(self._hold, request, check, opening)
        try:
            await opening.is_done.wait()
        except BaseException:
            opening.scope.cancel()
            raise
        if opening.held is None:
            raise opening.error or Refused(
                problem(ErrorCode.SERVER_DRAINING, "The node has ended.")
            )
        return opening.held

    async def _hold(
        self,
        request: Request,
        check: Callable[[], Awaitable[AcceptedUpgrade]],
        opening: _Opening,
    ) -> None:
        """Serve a connection to its end."""
        try:
            with opening.scope:
                await self._serve(request, check, opening)
        except Refused as refused:
            opening.error = refused
        except Exception as error:
            _log.exception("poll_failed", error_id=new_error_id())
            opening.error = error
        finally:
            opening.is_done.set()

    async def _serve(
        self,
        request: Request,
        check: Callable[[], Awaitable[AcceptedUpgrade]],
        opening: _Opening,
    ) -> None:
        accepted: list[AcceptedUpgrade] = []

        async def note_accepted() -> AcceptedUpgrade:
            accepted.append(await check())
            return accepted[0]

        entrance = self._entrance
        # A poll takes what there is, so until the next one the connection may stall.
        opened = open_connection(entrance, request, note_accepted, send_timeout=2 * self._interval)
        async with opened as connection:
            waiting = trio.CancelScope(deadline=trio.current_time() + self._interval)
            held = HeldConnection(connection, self._interval, waiting)
            session_id = connection.session_id
            with self._inboxes.registered(connection, accepted[0].identity):
                replaced = self._held.get(session_id)
                self._held[session_id] = opening.held = held
                if replaced is not None:
                    replaced.replaced()
                opening.is_done.set()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(connection.answer_close)  # a drain waits for no poll
                        with waiting:
                            await trio.sleep_forever()
                        connection.abandon()
                finally:
                    if self._held.get(session_id) is held:
                        del self._held[session_id]
