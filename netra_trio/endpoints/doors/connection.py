"""A connection of a session whose transport is in memory: a door translates what it carries.

    async with open_connection(entrance, request, check) as connection:
        await connection.send("user_message", {"content": "hello"}, key)
        frame = await connection.receive()

The connection is served as that of a WebSocket is: with a reader, a writer and a heartbeat, the
same limits and the same close codes. It holds a bounded number of bytes. If the door takes nothing
for the send timeout, the connection ends.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import orjson
import trio

from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.request import Request, trace_of
from netra_trio.errors import TransportClosed, unwrapped
from netra_trio.ids import RunId, SessionId, UserId
from netra_trio.protocol.codes import ABNORMAL, ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.telemetry.events import UpgradeFailed, UpgradeStarted
from netra_trio.transports.memory import MemoryClient, memory_pair

BUFFER_BYTES = 64 * 1024  # of frames that the door has not taken; the event log has the others
DONE = "door_done"  # why a session ends whose door has nothing more to do
ACKNOWLEDGE_EVENTS = 32  # taken events that may be unacknowledged


class DoorConnection:
    """One connection of a session, as a door uses it. One task receives.

    Attributes:
        first_frame: The frame `connection_established`, encoded.
        hello: Its payload.
        session_id: The id of its session.
        user_id: Its user.
        keeps_session: Whether the session waits for another connection at the end of
            `open_for_request`, because it has a run that goes on.
    """

    def __init__(self, entrance: Entrance, client: MemoryClient, first_frame: bytes) -> None:
        self._entrance = entrance
        self._client = client
        self.first_frame = first_frame
        self.hello: dict[str, Any] = orjson.loads(first_frame)["payload"]
        hello = self.hello
        self.session_id = SessionId(hello["session_id"])
        self.user_id = UserId(hello["user_id"])
        self.keeps_session = False
        self._taken = self._acknowledged = int(hello["resume"]["last_seq"])

    async def send(
        self, kind: str, payload: dict[str, Any], correlation_id: str | None = None
    ) -> None:
        """Send a message to the server. Cancelling is safe.

        Raises:
            TransportClosed: If the connection has ended.
        """
        frame: dict[str, Any] = {"type": kind, "payload": payload}
        if correlation_id is not None:
            frame["correlation_id"] = correlation_id
        await self._client.send(orjson.dumps(frame).decode())

    async def send_text(self, frame: str) -> None:
        """Send a frame as the client of the door has sent it."""
        await self._client.send(frame)

    async def receive(self) -> dict[str, Any]:
        """Wait for the next frame; this acknowledges the events that were received before it.

        Cancelling is safe: nothing is lost.

        Raises:
            TransportClosed: If the connection has ended, with the close code of the server.
        """
        if self._taken >= self._acknowledged + ACKNOWLEDGE_EVENTS:
            await self.acknowledge(self._taken)
        frame: dict[str, Any] = orjson.loads(await self._client.receive())
        self._taken = frame.get("seq", self._taken)
        return frame

    async def receive_bytes(self) -> bytes:
        """Wait for the next frame, encoded; it is not acknowledged.

        Raises:
            TransportClosed: If the connection has ended, with the close code of the server.
        """
        return await self._client.receive()

    @property
    def has_pending(self) -> bool:
        """Whether a frame can be received without waiting."""
        return self._client.has_pending

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended; frames may still be received."""
        return self._client.is_closed

    @property
    def close_reason(self) -> str:
        """The reason that the server closed the connection with; empty without one."""
        return self._client.close_reason

    async def answer_close(self) -> None:
        """Wait for the end of the connection, and let the server end its part of it at once.

        For a door that may not receive when the connection ends; it can receive its frames later.
        """
        await self._client.answer_close()

    def abandon(self) -> None:
        """End the connection as one whose client has left without a word."""
        self._client.close(ABNORMAL)

    async def acknowledge(self, seq: int) -> None:
        """Acknowledge the events up to this number."""
        self._acknowledged = seq
        await self.send("ack", {"seq": seq})

    async def note_alive(self) -> None:
        """Tell the heartbeat that the peer is alive; no effect if the connection has ended."""
        with suppress(TransportClosed):
            await self._client.pong()

    @contextmanager
    def following(self, run_id: str) -> Iterator[None]:
        """Keep the session of a run, if it is one of this node, while the block follows the run.

        Otherwise the run would end with the resume window of the client that has started it.
        """
        sessions = self._entrance.node.sessions
        mine = sessions.get(self.session_id)
        live = None if mine is None else mine.user.runs.get(RunId(run_id))
        owner = None if live is None else live.session_id
        if owner is None or owner == self.session_id:
            yield
            return
        with sessions.followed(owner):
            yield

    def end_session(self) -> None:
        """End the session; a run of it that has not ended is stopped."""
        sessions = self._entrance.node.sessions
        session = sessions.get(self.session_id)
        if session is not None:
            sessions.close(session, DONE)

    def note_unread(self) -> None:
        """Note that no client will resume the session, if it is one of this node.

        Another request may read its run, in its thread.
        """
        session = self._entrance.node.sessions.get(self.session_id)
        if session is not None:
            session.events.note_unread()


@asynccontextmanager
async def open_for_request(
    entrance: Entrance, request: Request, check: Callable[[], Awaitable[AcceptedUpgrade]]
) -> AsyncIterator[DoorConnection]:
    """Open a connection for one request, however that ends.

    Its session ends at the end of the block, unless the connection `keeps_session`: without a run
    it would count for its user until the resume window is over.

    Args:
        entrance: Admits it to the node.
        request: The request.
        check: Checks the request.

    Raises:
        Refused: If the server refuses the connection.
    """
    connection = None
    try:
        async with open_connection(entrance, request, check) as connection:
            try:
                yield connection
            finally:
                if not connection.keeps_session:
                    connection.end_session()
    finally:
        if connection is not None:
            connection.note_unread()


@asynccontextmanager
async def open_connection(
    entrance: Entrance,
    request: Request,
    check: Callable[[], Awaitable[AcceptedUpgrade]],
    *,
    buffer_bytes: int = BUFFER_BYTES,
    send_timeout: float | None = None,
) -> AsyncIterator[DoorConnection]:
    """Open a connection; at the end of the block it is closed, and its session waits for another.

    Args:
        entrance: Admits it to the node.
        request: The request, for its limits.
        check: Checks the request.
        buffer_bytes: Of the frames, each way, that wait to be taken.
        send_timeout: Seconds that the door may take nothing; by default those of the settings.

    Raises:
        Refused: If the server refuses the connection.
    """
    services = entrance.node.services
    settings, note = services.settings, services.instruments.note
    note(UpgradeStarted(trace_of(request)))
    transport, client = memory_pair(
        buffer_bytes=buffer_bytes,
        send_timeout=settings.send_timeout_ms / 1000 if send_timeout is None else send_timeout,
        max_bytes=settings.hard_message_size,
    )
    refused: list[Refused] = []

    async def serve() -> None:
        try:
            await entrance.serve(request, check, lambda _: transport)
        except Refused as error:
            refused.append(error)
        except Exception:
            note(UpgradeFailed())
            raise
        finally:
            client.close(ABNORMAL)  # without effect if the server has closed it

    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                first_frame = await client.receive()
            except TransportClosed:
                fault = problem(ErrorCode.SERVICE_UNAVAILABLE, "The connection has ended.")
                raise (refused or [Refused(fault)])[0] from None
            try:
                yield DoorConnection(entrance, client, first_frame)
            finally:
                client.close()
