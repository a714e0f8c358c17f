"""The command dispatcher, without a connection: the client only records the replies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

import orjson
import pytest
import trio
import trio.testing
from attrs import define, field
from support.memory import open_server
from trio.testing import MockClock

from netra_trio.auth.identity import Identity
from netra_trio.connections.answers import Answers
from netra_trio.connections.dispatch import CommandDispatcher
from netra_trio.connections.room_commands import RoomCommands
from netra_trio.ids import CorrelationId, MessageId, QuestionId, RunId, SessionId, ThreadId, UserId
from netra_trio.protocol.codec import BadFrame, Frame
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.fields import JsonValue
from netra_trio.protocol.inbound import INBOUND, Inbound
from netra_trio.protocol.messages import (
    Ack,
    AgentRequest,
    Answer,
    Auth,
    GetThreadHistory,
    Outbound,
    Ping,
    Pong,
    StopAgent,
    UserMessage,
)
from netra_trio.protocol.problem import Problem
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
    Rating,
    RenameThread,
)
from netra_trio.rooms.feed import RoomFeed
from netra_trio.services import Services
from netra_trio.sessions.session import Session

KEY = CorrelationId("c-1")
COMMANDS: dict[type[Inbound], tuple[Inbound, list[str]]] = {
    Ping: (Ping({"n": 1}), ["pong"]),
    Pong: (Pong({}), []),
    Auth: (Auth("no token"), ["INVALID_TOKEN"]),
    Ack: (Ack(0), []),
    UserMessage: (UserMessage("hello"), []),
    AgentRequest: (AgentRequest("nobody", "hello"), ["AGENT_NOT_FOUND"]),
    Answer: (Answer(QuestionId("q_1"), JsonValue(1)), ["ANSWER_REJECTED"]),
    StopAgent: (StopAgent(RunId("run_1")), ["RUN_NOT_FOUND"]),
    GetThreadHistory: (GetThreadHistory(ThreadId("t")), ["THREAD_NOT_FOUND"]),
    ListThreads: (ListThreads(), ["thread_list"]),
    RenameThread: (RenameThread(ThreadId("t"), "T"), ["THREAD_NOT_FOUND"]),
    MarkRead: (MarkRead(ThreadId("t"), MessageId("m")), ["THREAD_NOT_FOUND"]),
    DeleteThread: (DeleteThread(ThreadId("t")), ["THREAD_NOT_FOUND"]),
    Feedback: (Feedback(MessageId("m"), Rating.UP), ["VALIDATION_ERROR"]),
    JoinRoom: (JoinRoom("news"), ["FORBIDDEN"]),
    LeaveRoom: (LeaveRoom("news"), ["room_left"]),
    RoomMessage: (RoomMessage("news", "hello"), ["FORBIDDEN"]),
    WatchThread: (WatchThread(ThreadId("t")), ["room_joined"]),
    UnwatchThread: (UnwatchThread(ThreadId("t")), ["room_left"]),
    GetPresence: (GetPresence("news"), ["FORBIDDEN"]),
}
"""A command of each type, and its replies: types of messages, or error codes."""


@define(slots=False)
class RecordingClient:
    """A client that records the replies, with their correlation ids."""

    identity: Identity
    services: Services
    replies: list[tuple[str, str | None]] = field(factory=list)
    ended: list[EndReason] = field(factory=list)

    @cached_property
    def _feed(self) -> RoomFeed:
        return self.services.rooms.open_feed(
            self.identity.user_id, SessionId("s"), wake=self._take_rooms
        )

    def open_rooms(self) -> RoomFeed:
        return self._feed

    def _take_rooms(self) -> None:
        for data in self._feed.take(max_bytes=100_000, lags=False):
            frame = orjson.loads(data)
            self.replies.append((frame["type"], frame.get("correlation_id")))

    def renew(self, identity: Identity) -> None:
        self.identity = identity

    def end(self, reason: EndReason, problem: Problem | None = None) -> None:
        self.ended.append(reason)
        assert problem is not None

    async def send(self, message: Outbound, correlation_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self.replies.append((message.TYPE, correlation_id))

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self.replies.append((str(problem.code), correlation_id))


@asynccontextmanager
async def open_dispatcher() -> AsyncIterator[tuple[CommandDispatcher, RecordingClient, Session]]:
    """Open a dispatcher for a session without a connection."""
    async with open_server() as server, trio.open_nursery() as nursery:
        node = server.node
        identity = Identity(UserId("alice"), 1e12)
        user = node._users.get(identity.user_id, trio.current_time())
        session = node._new_session(user, identity, acknowledging=True)
        services = node.services
        client = RecordingClient(identity, services)
        yield (
            CommandDispatcher(
                session,
                client,
                store=services.store,
                verifier=services.verifier,
                metrics=services.instruments.metrics,
                wall_clock=services.wall_clock,
                nursery=nursery,
                threads=services.threads,
                rooms=RoomCommands(session, client, services=services, nursery=nursery),
                answers=Answers(session, services),
            ),
            client,
            session,
        )
        nursery.cancel_scope.cancel()


def test_the_table_has_a_command_of_each_type() -> None:
    assert set(COMMANDS) == set(INBOUND.values())


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.TYPE)
async def test_each_command_has_its_reply(kind: type[Inbound], autojump_clock: MockClock) -> None:
    command, replies = COMMANDS[kind]
    async with open_dispatcher() as (dispatcher, client, _):
        await dispatcher.dispatch(Frame(command, KEY))
        await trio.testing.wait_all_tasks_blocked()
        assert client.replies == [(reply, KEY) for reply in replies]
        assert client.ended == []


async def test_a_message_is_executed_by_the_session(autojump_clock: MockClock) -> None:
    async with open_dispatcher() as (dispatcher, client, session):
        await dispatcher.dispatch(Frame(UserMessage("hello"), KEY))
        await trio.testing.wait_all_tasks_blocked()
        with session.attach() as feed:
            kinds = [entry.event.TYPE for entry in feed.take(max_bytes=100_000)]
        assert kinds[0] == "message_confirmed"
        assert kinds[-1] == "agent_completed"
        assert client.replies == []


async def test_an_ack_of_a_number_that_was_never_sent_is_a_bad_frame(
    autojump_clock: MockClock,
) -> None:
    async with open_dispatcher() as (dispatcher, _, _):
        with pytest.raises(BadFrame) as caught:
            await dispatcher.dispatch(Frame(Ack(1), KEY))
        assert caught.value.problem.code is ErrorCode.VALIDATION_ERROR
