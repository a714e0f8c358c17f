"""The runs of a user on other nodes: both sides of a request to stop one, or to answer a question.

    remote = RemoteRuns(directory, store, mailbox)               # asks: `Services.other_nodes`
    await remote.stop_run(user_id, run_id)

    requests = RunRequests(users, sessions, mailbox, send)       # is asked
    mailbox.handle(STOP, requests.on_stop)

The store knows the node of each unfinished run.
"""

from typing import Protocol

import trio
from attrs import frozen

from netra_trio.agents.questions import rejected
from netra_trio.broker.base import RENEW_SECONDS, Directory
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import CorrelationId, NodeId, QuestionId, RunId, SessionId, UserId
from netra_trio.node.registry import Sessions
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import AgentAnswered, Answer, Event, QuestionOutcome
from netra_trio.protocol.problem import Refused, broker_unavailable, problem
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Store

REPLY_SECONDS = 2.0  # for the reply of another node: docs/protocol.md, Several nodes
REGISTERED_SECONDS = RENEW_SECONDS + 0.25  # a live node has its lease again after an empty restart
MOVES = 3  # of a run, between the look-up of its node and the request
STOP, ANSWER_QUESTION, ANSWERED = "stop", "answer_question", "answered"


class Send(Protocol):
    """Sends a message to another node in the background; it may be lost with the broker."""

    def __call__(self, node: NodeId, kind: str, header: JsonObject, data: bytes = b"") -> None:
        """Send a message."""
        ...


class RemoteRuns:
    """Asks other nodes; it is the `OtherNodes` of the services.

    Args:
        directory: Knows the live nodes.
        store: Knows the node of each run.
        mailbox: Sends messages to other nodes.
    """

    def __init__(self, directory: Directory, store: Store, mailbox: Mailbox) -> None:
        self._directory = directory
        self._store = store
        self._mailbox = mailbox

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
                if (await self._ask(found.owner, STOP, header))["is_here"]:
                    return True
            elif await self._store.interrupt_run(run_id, owner=found.owner) is not None:
                return True
        return False

    async def answer(
        self,
        node: NodeId,
        given: Answer,
        *,
        owner: UserId,
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
            "owner": owner,
            "user": user_id,
            "question": given.question_id,
            "session": session_id,
            "correlation": correlation_id,
            "answer": given.answer,
            "approve": given.approve,
        }
        reply = await self._ask(node, ANSWER_QUESTION, header)
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

    async def _ask(self, node: NodeId, kind: str, header: JsonObject) -> JsonObject:
        try:
            answer = await self._mailbox.ask(node, kind, header, seconds=REPLY_SECONDS)
        except BrokerUnavailable:
            text = "The node of the run does not answer now."
            raise Refused(broker_unavailable(text)) from None
        return answer.header


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
            "answer": event.answer,
            "user": event.user_id,
            "size": size,
        }
        self.send(self.node, ANSWERED, header)


class RunRequests:
    """Serves the requests of other nodes for the runs of this node.

    Args:
        users: The users of this node, with their live runs and open questions.
        sessions: The sessions of this node.
        mailbox: Sends the replies.
        send: Sends messages to other nodes.
    """

    def __init__(self, users: Users, sessions: Sessions, mailbox: Mailbox, send: Send) -> None:
        self._users = users
        self._sessions = sessions
        self._mailbox = mailbox
        self._send = send

    async def on_stop(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Stop a run; its end goes to its own session."""
        user = self._users.find(UserId(header["user"]))
        live = None if user is None else user.runs.get(RunId(header["run"]))
        if live is not None:
            live.stop()
        await self._mailbox.answer(sender, header, {"is_here": live is not None})

    async def on_answer(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Answer a question; a copy of how it was closed is sent once it is stored."""
        user_id, question_id = UserId(header["user"]), QuestionId(header["question"])
        user = self._users.find(UserId(header["owner"]))
        question = None if user is None else user.questions.get(question_id)
        error = None
        if question is not None:
            try:
                question.answer(
                    Answer(question_id, header["answer"], header["approve"]),
                    user_id=user_id,
                    reader=_RemoteReader(sender, SessionId(header["session"]), self._send),
                    correlation_id=header["correlation"],
                )
            except Refused as refused:
                error = refused.problem.error
        reply = {"is_here": question is not None, "error": error}
        await self._mailbox.answer(sender, header, reply)

    async def on_answered(self, _sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Give a session of this node, which answered, a copy of how the question was closed."""
        session = self._sessions.get(SessionId(header["session"]))
        if session is None:
            return
        user_id = header["user"]
        closed = AgentAnswered(
            RunId(header["run"]),
            QuestionId(header["question"]),
            QuestionOutcome(header["outcome"]),
            header["answer"],
            None if user_id is None else UserId(user_id),
        )
        session.events.append_now(closed, header["size"], header["correlation"])
