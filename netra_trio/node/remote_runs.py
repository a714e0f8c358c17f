"""The runs of a user on other nodes: both sides of a request to stop one, or to answer a question.

    remote = RemoteRuns(directory, store, cluster.post)          # asks: `Services.other_nodes`
    await remote.stop_run(user_id, run_id)

    requests = RunRequests(users, sessions, send, wall_clock)    # is asked
    cluster.handle("stop", requests.on_stop)

The store knows the node of each unfinished run. A request has a number, and its reply has the same.
"""

from collections.abc import Awaitable, Mapping
from itertools import count
from typing import Any, Protocol

import trio
from attrs import define, field, frozen
from orjson import dumps, loads

from netra_trio.agents.questions import rejected
from netra_trio.broker.base import RENEW_SECONDS, Directory
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import CorrelationId, NodeId, QuestionId, RunId, SessionId, UserId
from netra_trio.node.registry import Sessions
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import AgentAnswered, Answer, Event, QuestionOutcome
from netra_trio.protocol.problem import Refused, broker_unavailable, problem
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Store

REPLY_SECONDS = 2.0  # for the reply of another node: docs/protocol.md, Several nodes
REGISTERED_SECONDS = RENEW_SECONDS + 0.25  # a live node has its lease again after an empty restart
MOVES = 3  # of a run, between the look-up of its node and the request

Header = Mapping[str, Any]


class Post(Protocol):
    """Sends a message to another node."""

    def __call__(
        self, node: NodeId, kind: str, header: Header, data: bytes = b""
    ) -> Awaitable[None]:
        """Send a message.

        Raises:
            BrokerUnavailable: If the broker does not answer.
        """
        ...


class Send(Protocol):
    """Sends a message to another node in the background; it may be lost with the broker."""

    def __call__(self, node: NodeId, kind: str, header: Header, data: bytes = b"") -> None:
        """Send a message."""
        ...


@define(eq=False)
class _Request:
    """A request that waits for its reply."""

    replied: trio.Event = field(factory=trio.Event)
    reply: Header | None = None


class RemoteRuns:
    """Asks other nodes; it is the `OtherNodes` of the services.

    Args:
        directory: Knows the live nodes.
        store: Knows the node of each run.
        post: Sends messages to other nodes.
    """

    def __init__(self, directory: Directory, store: Store, post: Post) -> None:
        self._directory = directory
        self._store = store
        self._post = post
        self._requests: dict[int, _Request] = {}
        self._numbers = count(1)

    async def stop_run(self, user_id: UserId, run_id: RunId) -> bool:
        """Stop a run that is not live on this node; return whether it is stopped.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if the node of the run does not answer.
            StoreUnavailable: If the store cannot answer now.
        """
        for _ in range(MOVES):
            found = await self._store.find_run(user_id, run_id)
            if found is None or found.owner == self._directory.node:
                return False
            if await self._is_live(found.owner):
                header = {"user": user_id, "run": run_id}
                if (await self._ask(found.owner, "stop", header))["is_here"]:
                    return True
            elif await self._store.interrupt_run(run_id, owner=found.owner) is not None:
                return True
        return False

    async def answer(
        self,
        node: NodeId,
        given: Answer,
        *,
        user_id: UserId,
        session_id: SessionId,
        correlation_id: CorrelationId | None,
    ) -> bool:
        """Answer a question of a run of another node; return whether it is open there.

        Raises:
            Refused: ANSWER_REJECTED, or SERVICE_UNAVAILABLE if the node does not answer.
        """
        if node == self._directory.node:
            return False
        if not await self._is_live(node):  # the question ends with its run
            raise rejected(QuestionOutcome.CANCELLED)
        header = {
            "user": user_id,
            "question": given.question_id,
            "session": session_id,
            "correlation": correlation_id,
        }
        data = dumps([given.answer, given.approve])
        reply = await self._ask(node, "answer", header, data)
        if reply["error"] is not None:
            raise Refused(problem(ErrorCode.ANSWER_REJECTED, reply["error"]))
        return bool(reply["is_here"])

    async def _is_live(self, node: NodeId) -> bool:
        """Return whether a node holds its lease.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if that is not known now.
        """
        try:
            if node in await self._directory.nodes():
                return True
            # A server that has restarted empty knows the node again after its next renewal.
            await trio.sleep(REGISTERED_SECONDS)
            live = await self._directory.nodes()
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        if self._directory.node not in live:
            raise Refused(broker_unavailable())
        return node in live

    async def _ask(self, node: NodeId, kind: str, header: Header, data: bytes = b"") -> Header:
        number, request = next(self._numbers), _Request()
        self._requests[number] = request
        try:
            with trio.move_on_after(REPLY_SECONDS):
                await self._post(node, kind, {**header, "request": number}, data)
                await request.replied.wait()
        except BrokerUnavailable:
            raise Refused(broker_unavailable()) from None
        finally:
            del self._requests[number]
        if request.reply is None:
            raise Refused(broker_unavailable("The node of the run does not answer now."))
        return request.reply

    async def on_reply(self, sender: NodeId, header: Header, data: bytes) -> None:  # noqa: ARG002
        """Take the reply to a request; one that comes too late is ignored."""
        request = self._requests.get(header["request"])
        if request is not None:
            request.reply = header
            request.replied.set()


@frozen
class _RemoteReader:
    """A session of another node, which answered a question."""

    node: NodeId
    session_id: SessionId
    send: Send

    def append_now(self, event: Event, size: int, correlation_id: str | None) -> None:
        """Send it a copy of how the question was closed."""
        assert isinstance(event, AgentAnswered)  # noqa: S101 - for mypy: readers get nothing else
        header = {
            "session": self.session_id,
            "correlation": correlation_id,
            "run": event.run_id,
            "question": event.question_id,
            "outcome": event.outcome,
            "user": event.user_id,
            "size": size,
        }
        self.send(self.node, "answered", header, dumps(event.answer))


class RunRequests:
    """Serves the requests of other nodes for the runs of this node.

    Args:
        users: The users of this node, with their live runs and open questions.
        sessions: The sessions of this node.
        send: Sends messages to other nodes.
    """

    def __init__(self, users: Users, sessions: Sessions, send: Send) -> None:
        self._users = users
        self._sessions = sessions
        self._send = send

    async def on_stop(self, sender: NodeId, header: Header, data: bytes) -> None:  # noqa: ARG002
        """Stop a run; its end goes to its own session."""
        user = self._users.find(UserId(header["user"]))
        live = None if user is None else user.runs.get(RunId(header["run"]))
        if live is not None:
            live.stop()
        self._reply(sender, header, is_here=live is not None)

    async def on_answer(self, sender: NodeId, header: Header, data: bytes) -> None:
        """Answer a question; a copy of how it was closed is sent once it is stored."""
        user_id, question_id = UserId(header["user"]), QuestionId(header["question"])
        user = self._users.find(user_id)
        question = None if user is None else user.questions.get(question_id)
        error = None
        if question is not None:
            answer, approve = loads(data)
            try:
                question.answer(
                    Answer(question_id, answer, approve),
                    user_id=user_id,
                    reader=_RemoteReader(sender, SessionId(header["session"]), self._send),
                    correlation_id=header["correlation"],
                )
            except Refused as refused:
                error = refused.problem.error
        self._reply(sender, header, is_here=question is not None, error=error)

    async def on_answered(self, sender: NodeId, header: Header, data: bytes) -> None:  # noqa: ARG002
        """Give a session of this node, which answered, a copy of how the question was closed."""
        session = self._sessions.get(SessionId(header["session"]))
        if session is None:
            return
        user_id = header["user"]
        closed = AgentAnswered(
            RunId(header["run"]),
            QuestionId(header["question"]),
            QuestionOutcome(header["outcome"]),
            loads(data),
            None if user_id is None else UserId(user_id),
        )
        session.events.append_now(closed, header["size"], header["correlation"])

    def _reply(
        self, node: NodeId, header: Header, *, is_here: bool, error: str | None = None
    ) -> None:
        reply = {"request": header["request"], "is_here": is_here, "error": error}
        self._send(node, "reply", reply)
