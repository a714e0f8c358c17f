"""The commands of a client for rooms.

    rooms = RoomCommands(session, client, services=services, nursery=nursery)
    rooms.join(frame)

Each command is a background request. Those of one room are executed in the order of arrival, so a
client may join, send and leave without waiting for the replies.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeAlias

import trio
from attrs import define, field

from netra_trio.connections.requests import run_request
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.binary_messages import BinaryRoomMessage
from netra_trio.protocol.codec import Frame
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Problem, Refused, problem, rate_limited
from netra_trio.protocol.rooms import (
    Presence,
    RoomConfirmation,
    RoomConfirmed,
    UnwatchThread,
    WatchThread,
    thread_room,
)
from netra_trio.rooms.feed import ROOMS, RoomFeed
from netra_trio.rooms.permission import Action
from netra_trio.rooms.publisher import ROOM_EVENT_BYTES, EventTooLarge
from netra_trio.services import Services
from netra_trio.sessions import refusals
from netra_trio.sessions.session import Session
from netra_trio.sessions.uploads import store_data

REQUESTS = (
    2 * ROOMS
)  # active and waiting: after a reconnection a client joins all its rooms at once
RETRY_SECONDS = 0.1

Request: TypeAlias = Callable[[], Awaitable[None]]


class RoomClient(Protocol):
    """The part of a connection that these commands use."""

    def open_rooms(self) -> RoomFeed:
        """Return the feed of its rooms."""
        ...

    async def send(self, message: Outbound, correlation_id: str | None = None) -> None:
        """Send a control frame; waits for room if the peer does not read."""
        ...

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error; waits for room if the peer does not read."""
        ...


@define(eq=False)
class RoomCommands:
    """Executes the commands of one client for rooms.

    Args:
        session: The session of the client.
        client: Receives the replies.
        services: The services of the application.
        nursery: Holds the background requests.
    """

    _session: Session
    _client: RoomClient
    _services: Services = field(kw_only=True)
    _nursery: trio.Nursery = field(kw_only=True)
    _waiting: dict[str, deque[tuple[Frame, Request]]] = field(
        factory=dict
    )  # of rooms with an active request
    _requests: int = 0

    def join(self, frame: Frame) -> None:
        """Join a room.

        Raises:
            Refused: QUEUE_FULL or RATE_LIMIT_EXCEEDED.
        """
        wanted, feed = frame.message, self._client.open_rooms()
        join = partial(
            self._services.rooms.join,
            feed,
            wanted.room,
            after=wanted.after,
            epoch=wanted.epoch,
            correlation_id=frame.correlation_id,
        )
        self.start_join(feed, wanted.room, frame, join)

    def start_join(self, feed: RoomFeed, room: str, frame: Frame, join: Request) -> None:
        """Join a room with a function, in the background; the room is reserved at once.

        Raises:
            Refused: QUEUE_FULL or RATE_LIMIT_EXCEEDED.
        """
        feed.hold(room)

        async def request() -> None:
            try:
                await join()
            finally:
                feed.release(room)

        try:
            self.start(room, frame, request)
        except Refused:
            feed.release(room)
            raise

    def watch(self, frame: Frame) -> None:
        """Join the room of a thread, with the runs of the thread.

        Raises:
            Refused: QUEUE_FULL or RATE_LIMIT_EXCEEDED.
        """
        wanted, feed = frame.message, self._client.open_rooms()
        owner = self._owner_of(wanted)
        room = thread_room(owner, wanted.thread_id)
        self.start_join(feed, room, frame, partial(self._watch, feed, room, owner, frame))

    async def _watch(self, feed: RoomFeed, room: str, owner: UserId, frame: Frame) -> None:
        services, wanted = self._services, frame.message
        watch = services.watch
        assert watch is not None  # noqa: S101 - for mypy: a node has it
        await services.rooms.join(
            feed,
            room,
            after=wanted.after,
            epoch=wanted.epoch,
            correlation_id=frame.correlation_id,
            take_snapshot=partial(
                watch.take_snapshot, owner, wanted.thread_id, with_ended=wanted.after is not None
            ),
            is_own=owner == self._session.user.id,
            hold=watch.hold(owner, wanted.thread_id),
        )

    def unwatch(self, frame: Frame) -> None:
        """Leave the room of a thread.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        wanted = frame.message
        self.start_leave(thread_room(self._owner_of(wanted), wanted.thread_id), frame)

    def _owner_of(self, wanted: WatchThread | UnwatchThread) -> UserId:
        return wanted.owner or self._session.user.id

    def leave(self, frame: Frame) -> None:
        """Leave a room; the reply is the same without a membership.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        self.start_leave(frame.message.room, frame)

    def start_leave(self, room: str, frame: Frame) -> None:
        """Leave a room in the background.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        feed = self._client.open_rooms()
        leave = self._services.rooms.leave
        self.start(room, frame, partial(leave, feed, room, correlation_id=frame.correlation_id))

    def publish(self, frame: Frame) -> None:
        """Publish a message of the client.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        self.start(frame.message.room, frame, partial(self._publish, frame))

    def get_presence(self, frame: Frame) -> None:
        """Reply with the users in a room.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        self.start(frame.message.room, frame, partial(self._get_presence, frame))

    async def _get_presence(self, frame: Frame) -> None:
        services, room, user_id = self._services, frame.message.room, self._session.user.id
        feed = self._client.open_rooms()
        for action in (Action.JOIN, Action.SEE):
            await services.rooms.access.check(user_id, room, action, feed.permissions())
        members = await services.presence.find(room, feed)
        await self._client.send(Presence(room, members), frame.correlation_id)

    async def _publish(self, frame: Frame) -> None:
        services, message, user = self._services, frame.message, self._session.user
        await services.rooms.access.check(user.id, message.room, Action.PUBLISH)
        await self._take_slot()
        attachments: tuple[FileId, ...] = ()
        if isinstance(message, BinaryRoomMessage):
            file = await store_data(services.files, user.id, message)
            attachments = (file.file_id,)
        try:
            published = await services.publisher.publish(
                message.room,
                message.content,
                user_id=user.id,
                key=frame.correlation_id,
                attachments=attachments,
            )
        except EventTooLarge:
            text = f"The event has more than {ROOM_EVENT_BYTES} bytes."
            raise Refused(problem(ErrorCode.MESSAGE_TOO_LARGE, text)) from None
        confirmation = (
            RoomConfirmation.DUPLICATE if published.is_duplicate else RoomConfirmation.ACCEPTED
        )
        confirmed = RoomConfirmed(message.room, published.offset, confirmation)
        await self._client.send(confirmed, frame.correlation_id)

    async def _take_slot(self) -> None:
        """Take a slot of the user's message rate, without waiting.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        services, user = self._services, self._session.user
        seconds = None
        if services.admission is not None:
            seconds = await services.admission.take_slot(user.id)
        if seconds is None:
            seconds = user.window.take_now(trio.current_time())
        if seconds:
            services.instruments.metrics.rate_events["messages", "refused"] += 1
            raise refusals.too_fast(services.settings.max_message_rate, seconds)

    def start(self, room: str, frame: Frame, request: Request) -> None:
        """Run a request in the background, after the earlier ones of this room.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED if too many are active or waiting.
        """
        if self._requests >= REQUESTS:
            self._services.instruments.metrics.rate_events["requests", "refused"] += 1
            text = f"Too fast: at most {REQUESTS} requests for rooms at once."
            raise Refused(rate_limited(text, RETRY_SECONDS))
        self._requests += 1
        waiting = self._waiting.get(room)
        if waiting is not None:
            waiting.append((frame, request))
        else:
            self._waiting[room] = deque([(frame, request)])
            self._nursery.start_soon(self._run, room)

    async def _run(self, room: str) -> None:
        """Execute the requests of a room, in order."""
        waiting = self._waiting[room]
        while waiting:
            frame, request = waiting.popleft()
            try:
                await run_request(self._client, frame, request)
            finally:
                self._requests -= 1
        del self._waiting[room]
