"""The command dispatcher: handles the commands of a client, independent of the transport.

    dispatcher = CommandDispatcher(session, client, store=store, …, nursery=nursery)
    await dispatcher.dispatch(frame)

Handlers reply through a `Client`, such as a connection. They never wait for the log, for a run or
for the store, so that a stop is handled at once. A command that needs the store becomes a
background request: a task of its own, and a limited number of them run at the same time.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import trio
from attrs import evolve

from netra_trio.auth.identity import Identity, user_refusal
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.connections.answers import Answers
from netra_trio.connections.requests import run_request
from netra_trio.connections.room_commands import RoomCommands
from netra_trio.connections.thread_commands import ThreadCommands, Turn, thread_not_found
from netra_trio.errors import MessageNotFound
from netra_trio.files.declared import ContradictedType, stored_type
from netra_trio.ids import RunId
from netra_trio.protocol.binary_messages import BinaryRoomMessage, BinaryUserMessage
from netra_trio.protocol.codec import BadFrame, Frame, encode_newest, show
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.inbound import Inbound
from netra_trio.protocol.messages import (
    Ack,
    AgentRequest,
    Answer,
    Auth,
    AuthOk,
    GetThreadHistory,
    Outbound,
    Ping,
    Pong,
    StopAgent,
    ThreadHistory,
    UserMessage,
)
from netra_trio.protocol.posted import DoorMessage, PostedMessage
from netra_trio.protocol.problem import Problem, Refused, problem, rate_limited
from netra_trio.protocol.ratelimit import TokenBucket
from netra_trio.protocol.rooms import (
    GetPresence,
    JoinRoom,
    LeaveRoom,
    RoomMessage,
    UnwatchThread,
    WatchThread,
)
from netra_trio.protocol.threads import (
    DeleteThread,
    Feedback,
    ListThreads,
    MarkRead,
    RenameThread,
)
from netra_trio.services import OtherNodes, UserThreads
from netra_trio.sessions.session import Session
from netra_trio.stores.base import Store
from netra_trio.stores.bounds import HISTORY_PAGE_BYTES
from netra_trio.telemetry.metrics import Metrics

CONTROL_RATE, CONTROL_BURST = 100, 1000  # frames a second, frames: docs/protocol.md, Limits
LIST_RATE, LIST_BURST = 10, 10  # requests a second, requests: docs/protocol.md, Limits
BACKGROUND_REQUESTS = 10  # of each kind at the same time: docs/protocol.md, Limits


class Client(Protocol):
    """The part of a connection that the handlers use."""

    @property
    def identity(self) -> Identity:
        """The identity of its newest token."""
        ...

    def renew(self, identity: Identity) -> None:
        """Replace the token by a new one of the same user."""
        ...

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        """End the connection, with an error as its last frame."""
        ...

    async def send(self, message: Outbound, correlation_id: str | None = None) -> None:
        """Send a control frame; waits for room if the peer does not read."""
        ...

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        """Send an error; waits for room if the peer does not read."""
        ...


class CommandDispatcher:
    """Handles the commands of one client.

    Args:
        session: The session of the client.
        client: Receives the replies.
        store: Has the history and the users.
        verifier: Verifies new tokens.
        metrics: Count refused commands.
        wall_clock: Returns Unix seconds.
        nursery: Holds the background requests.
        threads: Sends changes of threads to the other sessions of the user.
        rooms: Handles the commands that concern rooms.
        answers: Answers the questions of agents.
        other_nodes: Reaches the runs of other nodes; None if there is one node.
    """

    __slots__ = (
        "_answers",
        "_background",
        "_client",
        "_control",
        "_lists",
        "_metrics",
        "_nursery",
        "_other_nodes",
        "_renewals",
        "_rooms",
        "_session",
        "_store",
        "_threads",
        "_verifier",
        "_wall_clock",
    )

    def __init__(
        self,
        session: Session,
        client: Client,
        *,
        store: Store,
        verifier: TokenVerifier,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        nursery: trio.Nursery,
        threads: UserThreads,
        rooms: RoomCommands,
        answers: Answers,
        other_nodes: OtherNodes | None = None,
    ) -> None:
        now = trio.current_time()
        self._session = session
        self._answers = answers
        self._client = client
        self._store = store
        self._verifier = verifier
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._nursery = nursery
        self._rooms = rooms
        self._other_nodes = other_nodes
        self._background: Counter[Callable[..., Awaitable[None]]] = Counter()
        self._renewals = trio.Lock()
        self._control = TokenBucket(rate=CONTROL_RATE, burst=CONTROL_BURST, now=now)
        self._lists = TokenBucket(rate=LIST_RATE, burst=LIST_BURST, now=now)
        self._threads = ThreadCommands(
            client, user_id=session.user.id, session_id=session.id, store=store, threads=threads
        )

    async def dispatch(self, frame: Frame) -> None:
        """Handle a command; a refused command is answered with an `error`.

        Raises:
            BadFrame: If the command contradicts what was sent before.
        """
        try:
            await _HANDLERS[type(frame.message)](self, frame)
        except Refused as refused:
            await self._client.send_error(refused.problem, frame.correlation_id)

    def take_control(self) -> None:
        """Take a token of the control rate, for a control frame or a bad frame.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        wait = self._control.take(trio.current_time())
        if wait:
            raise self._rate_limited("control", f"{CONTROL_RATE} control frames a second", wait)

    async def ping(self, frame: Frame) -> None:
        """Reply with the same payload."""
        self.take_control()
        await self._client.send(Pong(frame.message.payload), frame.correlation_id)

    async def pong(self, frame: Frame) -> None:
        """Do nothing: the reader has recorded the frame for the heartbeat."""

    async def ack(self, frame: Frame) -> None:
        """Remove the acknowledged events from the log."""
        events, seq = self._session.events, frame.message.seq
        try:
            events.acknowledge(seq)
        except ValueError:
            expected = f"at most {events.last_sent}, the last number sent"
            text = f"$.payload.seq: expected {expected}, got {seq}"
            fault = problem(ErrorCode.VALIDATION_ERROR, text)
            raise BadFrame(fault, frame.correlation_id) from None

    async def work(self, frame: Frame) -> None:
        """Put a message into the inbox of the session; its confirmation is the reply."""
        self._session.offer(frame.message, frame.correlation_id)

    async def work_binary(self, frame: Frame) -> None:
        """As `work`; the message has the content of its attachment."""
        await self.work(_with_stored_type(frame))

    async def publish_binary(self, frame: Frame) -> None:
        """As `publish`; the message has the content of its attachment."""
        await self.publish(_with_stored_type(frame))

    async def stop(self, frame: Frame) -> None:
        """Stop a run of this user; its `agent_completed` is the reply."""
        self.take_control()
        if self._stop_here(RunId(frame.message.run_id)):
            return
        if self._other_nodes is None:
            raise _run_not_found()
        self._start_background(self._stop_elsewhere, frame)

    def _stop_here(self, run_id: RunId) -> bool:
        """Stop a run, if it is live on this node; return whether it is."""
        live = self._session.user.runs.get(run_id)
        if live is not None:
            live.stop()
        return live is not None

    async def _stop_elsewhere(self, frame: Frame) -> None:
        """Stop a run of another node.

        Raises:
            Refused: RUN_NOT_FOUND, or SERVICE_UNAVAILABLE.
            StoreUnavailable: If the store cannot answer now.
        """
        run_id = RunId(frame.message.run_id)
        assert self._other_nodes is not None  # noqa: S101 - for mypy: `stop` checks it
        is_stopped = await self._other_nodes.stop_run(self._session.user.id, run_id)
        # The run may have come to this node meanwhile, with its session.
        if not is_stopped and not self._stop_here(run_id):
            raise _run_not_found()

    async def answer(self, frame: Frame) -> None:
        """Answer a question of an agent; its `agent_answered` is the reply."""
        self.take_control()
        if not self._answers.answer_now(frame):
            self._start_background(self._answers.answer_later, frame)

    async def auth(self, frame: Frame) -> None:
        """Verify a new token of the same user, in the background."""
        self.take_control()
        self._start_background(self._renew, frame)

    async def get_history(self, frame: Frame) -> None:
        """Fetch a page of a thread, in the background."""
        self.take_list()
        self._start_background(self._fetch_history, frame)

    async def list_threads(self, frame: Frame) -> None:
        """Fetch a page of the threads of the user, in the background."""
        self.take_list()
        self._start_background(self._threads.list_threads, frame)

    async def change_thread(self, frame: Frame) -> None:
        """Change a thread of the user, in the background and in the order of the commands."""
        self.take_control()
        threads = self._threads
        request = {
            RenameThread: threads.rename,
            MarkRead: threads.mark_read,
            DeleteThread: threads.delete,
            Feedback: threads.rate,
        }[type(frame.message)]
        self._start_background(request, frame, turn_of=threads.turn_of)

    def take_list(self) -> None:
        """Take a token of the control rate, and one of the rate of lists and histories.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        self.take_control()
        wait = self._lists.take(trio.current_time())
        if wait:
            text = f"{LIST_RATE} requests a second for lists and histories"
            raise self._rate_limited("history", text, wait)

    async def join_room(self, frame: Frame) -> None:
        """Join a room, in the background."""
        self.take_control()
        self._rooms.join(frame)

    async def leave_room(self, frame: Frame) -> None:
        """Leave a room, in the background."""
        self.take_control()
        self._rooms.leave(frame)

    async def watch_thread(self, frame: Frame) -> None:
        """Join the room of a thread, in the background."""
        self.take_control()
        self._rooms.watch(frame)

    async def unwatch_thread(self, frame: Frame) -> None:
        """Leave the room of a thread, in the background."""
        self.take_control()
        self._rooms.unwatch(frame)

    async def get_presence(self, frame: Frame) -> None:
        """Fetch the users in a room, in the background."""
        self.take_list()
        self._rooms.get_presence(frame)

    async def publish(self, frame: Frame) -> None:
        """Publish a message in a room, in the background."""
        self._rooms.publish(frame)

    def _rate_limited(self, limit: str, text: str, wait: float) -> Refused:
        self._metrics.rate_events[limit, "refused"] += 1
        help_ = f"Wait {wait:.2g} s and send again."
        return Refused(rate_limited(f"Too fast: at most {text}.", wait, help=help_))

    def _start_background(
        self,
        request: Callable[..., Awaitable[None]],
        frame: Frame,
        turn_of: Callable[[Any], Turn] | None = None,
    ) -> None:
        """Start a background request.

        Args:
            request: An async function.
            frame: Its first argument.
            turn_of: Returns its second argument, for the command; called in the order of arrival.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        if self._background[request] >= BACKGROUND_REQUESTS:
            raise self._rate_limited("requests", f"{BACKGROUND_REQUESTS} requests at once", 0.1)
        self._background[request] += 1
        more = () if turn_of is None else (turn_of(frame.message),)
        self._nursery.start_soon(self._run_background, request, frame, *more)

    async def _run_background(
        self, request: Callable[..., Awaitable[None]], frame: Frame, *more: object
    ) -> None:
        try:
            await run_request(self._client, frame, partial(request, frame, *more))
        finally:
            self._background[request] -= 1

    async def _renew(self, frame: Frame) -> None:
        async with self._renewals:  # in order of arrival, so that the newest token is used
            identity = await self._identify(frame.message.token)
            if await check_user(self._client, self._session, self._store):
                self._client.renew(identity)
                await self._client.send(AuthOk(identity.expires_at), frame.correlation_id)

    async def _identify(self, token: str) -> Identity:
        """Return the identity of a new token; an invalid token does not end the connection."""
        try:
            identity = await self._verifier.verify(token, self._wall_clock())
        except Refused as refused:
            raise Refused(evolve(refused.problem, recoverable=True, help=_RENEWAL_HELP)) from None
        if identity.user_id != self._session.user.id:
            text = "The token belongs to another user."
            fault = problem(ErrorCode.INVALID_TOKEN, text, recoverable=True, help=_RENEWAL_HELP)
            raise Refused(fault)
        return identity

    async def _fetch_history(self, frame: Frame) -> None:
        request = frame.message
        try:
            page = await self._store.history(
                self._session.user.id,
                request.thread_id,
                limit=request.limit,
                before=request.before,
            )
        except MessageNotFound:
            text = f"$.payload.before: expected a message of the thread, got {show(request.before)}"
            raise Refused(problem(ErrorCode.VALIDATION_ERROR, text)) from None
        if page is None:
            raise thread_not_found()
        messages, has_more = page
        fitting = encode_newest(messages, HISTORY_PAGE_BYTES)
        has_more = has_more or len(fitting) < len(messages)
        history = ThreadHistory(request.thread_id, tuple(fitting), has_more)
        await self._client.send(history, frame.correlation_id)


async def check_user(client: Client, session: Session, store: Store) -> bool:
    """Return whether the user exists and is enabled; if not, end the connection.

    Cancelling is safe.

    Raises:
        StoreUnavailable: If the store cannot answer now; the connection stays open.
    """
    if client.identity.is_anonymous:
        return True
    refusal = user_refusal(await store.get_user(session.user.id))
    if refusal is not None:
        client.end(EndReason.USER_DISABLED, refusal)
    return refusal is None


def _with_stored_type(frame: Frame) -> Frame:
    """Return the frame of a message with the type with which its attachment is stored.

    Raises:
        BadFrame: If the content contradicts the type that the client has given.
    """
    message = frame.message
    try:
        media_type = stored_type(message.media_type, message.data)
    except ContradictedType as contradicted:
        path, given = "$.payload.attachments[0].media_type", show(message.media_type)
        text = f"{path}: expected {contradicted}, as the content shows, got {given}"
        fault = problem(ErrorCode.VALIDATION_ERROR, text)
        raise BadFrame(fault, frame.correlation_id) from None
    return Frame(evolve(message, media_type=media_type), frame.correlation_id)


def _run_not_found() -> Refused:
    text = "The run does not exist or has ended."
    return Refused(problem(ErrorCode.RUN_NOT_FOUND, text))


_RENEWAL_HELP = "The connection keeps the old token; send another one before it expires."

_HANDLERS: dict[type[Inbound], Callable[[CommandDispatcher, Any], Awaitable[None]]] = {
    Ping: CommandDispatcher.ping,
    Pong: CommandDispatcher.pong,
    Auth: CommandDispatcher.auth,
    Ack: CommandDispatcher.ack,
    UserMessage: CommandDispatcher.work,
    BinaryUserMessage: CommandDispatcher.work_binary,
    DoorMessage: CommandDispatcher.work,
    PostedMessage: CommandDispatcher.work,
    AgentRequest: CommandDispatcher.work,
    StopAgent: CommandDispatcher.stop,
    Answer: CommandDispatcher.answer,
    GetThreadHistory: CommandDispatcher.get_history,
    ListThreads: CommandDispatcher.list_threads,
    RenameThread: CommandDispatcher.change_thread,
    MarkRead: CommandDispatcher.change_thread,
    DeleteThread: CommandDispatcher.change_thread,
    Feedback: CommandDispatcher.change_thread,
    JoinRoom: CommandDispatcher.join_room,
    LeaveRoom: CommandDispatcher.leave_room,
    RoomMessage: CommandDispatcher.publish,
    BinaryRoomMessage: CommandDispatcher.publish_binary,
    WatchThread: CommandDispatcher.watch_thread,
    UnwatchThread: CommandDispatcher.unwatch_thread,
    GetPresence: CommandDispatcher.get_presence,
}
