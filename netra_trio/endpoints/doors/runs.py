"""The events of one run, for the doors: of a new run, or of one that another request started.

    runs = RunReader(connection)
    started = await runs.start({"content": "hello", "thread_id": "travel"}, key="m-1")
    async for frame in runs.events(started):
        print(frame["type"], frame["payload"])

A run is always read in the same way: its events in their order, from `agent_started` to
`agent_completed`. Of a run that has begun, the text and the steps so far become such events first;
a question that is closed becomes `question_closed`, with its id alone. Where text of the run is not
known any more, `text_omitted` stands in its place, with the number of characters, or without it.
Before what was listed stands `listed`, with the number of steps that are known.
"""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Self, TypeAlias, TypeVar

import trio
from attrs import define, evolve, frozen

from netra_trio.endpoints.doors.connection import DoorConnection
from netra_trio.errors import NetraError, TransportClosed
from netra_trio.ids import new_correlation_id
from netra_trio.protocol.codes import ABNORMAL, ErrorCode
from netra_trio.protocol.fields import HISTORY_PAGE_MAX
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    Confirmation,
    Heartbeat,
    MessageConfirmed,
    PartialResult,
    RunStatus,
    ServerDraining,
    StopAgent,
    ThreadHistory,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.rooms import RoomGap, RoomJoined, RoomLeft
from netra_trio.stores.threads import UNFINISHED

ROOM_EVENT = "room_event"
STOP_SECONDS = 5.0  # that a stop waits for the ends of the runs
UNKNOWN_SECONDS = 1.0  # until a run is looked up again that no node lists, and that has not ended
NEWEST = 20  # messages of a thread, among which are those whose runs have not ended
HISTORY_PAGES = 5  # of 100 messages, in which a message or a run is looked up
ERROR = "error"
QUESTION_CLOSED = "question_closed"  # stands for a question of a listed run that is not open
TEXT_OMITTED = "text_omitted"
LISTED = "listed"

_OF_CONNECTION = frozenset({Heartbeat.TYPE, ServerDraining.TYPE})
"""The frames of no run that a door passes on."""

Frame: TypeAlias = dict[str, Any]

_Found = TypeVar("_Found")
_Reply = TypeVar("_Reply")


class ConnectionEnded(NetraError):
    """The connection of a door has ended before its run.

    Attributes:
        code: The close code of the server; 1006 without one.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the connection has ended with {code}")
        self.code = code


@frozen
class StartedRun:
    """A run whose message is confirmed.

    Attributes:
        run_id: The run.
        message_id: Its message.
        thread_id: Its thread.
        is_duplicate: Whether an earlier message with the same key has started it.
        run_status: Of a duplicate: the status of the run.
    """

    run_id: str
    message_id: str
    thread_id: str
    is_duplicate: bool
    run_status: str | None

    @classmethod
    def of_message(cls, message: Mapping[str, Any], thread_id: str) -> Self:
        """Return the run of a message of the user, as the history has it."""
        run = message["run"]
        return cls(run["run_id"], message["message_id"], thread_id, True, run["status"])


@define
class _Sent:
    """The part of a run that has been yielded: characters of its text, and steps."""

    characters: int = 0
    steps: int = 0
    has_started: bool = False


class RunReader:
    """Starts and reads runs over the connection of a door. One task uses it.

    Args:
        connection: The connection.
        paths: By fields of a `user_message`: the fields of the request that errors name instead.
    """

    def __init__(
        self, connection: DoorConnection, paths: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._connection = connection
        self._paths = paths
        self._early: deque[Frame] = deque()  # events that came before the reply to a request

    async def start(
        self, message: Mapping[str, Any], key: str | None = None, *, goes_on: bool = True
    ) -> StartedRun:
        """Send a `user_message`, and wait for its confirmation.

        Args:
            message: The payload.
            key: Its correlation id, so that a repeated message starts no second run.
            goes_on: Whether a new run goes on without its client: then the connection keeps its
                session, also if it ends before the confirmation.

        Raises:
            Refused: The server refused the message.
            ConnectionEnded: The connection has ended.
        """
        self._connection.keeps_session = goes_on
        try:
            reply = await self.request("user_message", dict(message), MessageConfirmed.TYPE, key)
        except Refused:
            self._connection.keeps_session = False
            raise
        payload = reply["payload"]
        is_duplicate = payload["status"] == Confirmation.DUPLICATE
        self._connection.keeps_session = goes_on and not is_duplicate
        return StartedRun(
            payload["run_id"],
            payload["message_id"],
            payload["thread_id"],
            is_duplicate,
            payload.get("run_status"),
        )

    async def events(
        self,
        run: StartedRun,
        *,
        after: str | None = None,
        listed: list[dict[str, Any]] | None = None,
    ) -> AsyncGenerator[Frame, None]:
        """Return the events of a run, up to its `agent_completed`.

        An agent that returns a text and emits none has its text sent before its end. Heartbeats and
        `server_draining` are returned too. Close the generator if it is not read to its end.

        Args:
            run: The run.
            after: A question of the run: only what follows it is returned.
            listed: Of a duplicate: the runs of its thread, which is watched since then.

        Raises:
            Refused: The thread of a duplicate cannot be read now.
            ConnectionEnded: The connection has ended before the run.
        """
        sent = _Sent()
        if run.is_duplicate:
            frames = self._follow(run.thread_id, run.run_id, sent, after, listed)
        else:
            frames = self._own_events(run.run_id)
        has_text = False
        async with aclosing(frames):
            async for frame in frames:
                has_text |= frame["type"] in {PartialResult.TYPE, TEXT_OMITTED}
                if frame["type"] == AgentCompleted.TYPE and not (has_text or sent.characters):
                    result = frame["payload"].get("result")
                    if isinstance(result, str) and result:
                        yield _frame(PartialResult.TYPE, run_id=run.run_id, content=result)
                yield frame

    def follow(
        self, thread_id: str, run_id: str, *, after: str | None = None
    ) -> AsyncGenerator[Frame, None]:
        """Return the events of a run of another session, from its start to its end.

        Close the generator if it is not read to its end.

        Args:
            thread_id: Its thread.
            run_id: The run.
            after: A question of the run: only what follows it is returned.

        Raises:
            Refused: The thread cannot be read now.
            ConnectionEnded: The connection has ended before the run.
        """
        return self._follow(thread_id, run_id, _Sent(), after, None)

    async def _follow(
        self,
        thread_id: str,
        run_id: str,
        sent: _Sent,
        after: str | None,
        listed: list[dict[str, Any]] | None,
    ) -> AsyncGenerator[Frame, None]:
        while True:
            if listed is None:
                listed = await self.watch(thread_id)
            state = next((each for each in listed if each["run_id"] == run_id), None)
            if state is None:
                ended = await self._ended(thread_id, run_id, sent, after)
                if ended is None:
                    for frame in self._early_of_connection():
                        yield frame
                    await trio.sleep(UNKNOWN_SECONDS)
                    listed = None
                    continue
                for frame in ended:
                    yield frame
                return
            for frame in _unsent_events(state, sent, after):
                yield frame
            after = None
            while (event := await self._next_in_room(run_id)) is not None:
                _note(event, sent)
                yield event
                if event["type"] == AgentCompleted.TYPE:
                    return
            listed = None

    async def watch(self, thread_id: str) -> list[dict[str, Any]]:
        """Watch a thread; return its runs that have not ended.

        Raises:
            Refused: The thread cannot be watched now.
            ConnectionEnded: The connection has ended.
        """
        reply = await self.request("watch_thread", {"thread_id": thread_id}, RoomJoined.TYPE)
        # The events from the room that came before the reply are part of the listing.
        of_room = {ROOM_EVENT, RoomGap.TYPE}
        self._early = deque(frame for frame in self._early if frame["type"] not in of_room)
        return list(reply["payload"].get("runs", ()))

    async def history(
        self, thread_id: str, before: str | None = None, *, limit: int = HISTORY_PAGE_MAX
    ) -> dict[str, Any]:
        """Return a page of a thread: `messages`, at most `limit`, and `has_more`.

        Raises:
            Refused: The thread does not exist, or cannot be read now.
            ConnectionEnded: The connection has ended.
        """
        request = {"thread_id": thread_id, "limit": limit}
        if before is not None:
            request["before"] = before
        reply = await self.request("get_thread_history", request, ThreadHistory.TYPE)
        payload: dict[str, Any] = reply["payload"]
        return payload

    async def newest(
        self, thread_id: str, *, limit: int = HISTORY_PAGE_MAX
    ) -> list[dict[str, Any]]:
        """Return the newest messages of a thread, oldest first; none if it does not exist.

        Raises:
            Refused: The thread cannot be read now.
            ConnectionEnded: The connection has ended.
        """
        page = await if_thread_exists(self.history(thread_id, limit=limit))
        return [] if page is None else list(page["messages"])

    async def search(
        self, thread_id: str, found: Callable[[Mapping[str, Any]], _Found | None]
    ) -> _Found | None:
        """Search the messages of a thread, newest first, as far as `HISTORY_PAGES` go back.

        Args:
            thread_id: The thread.
            found: Returns a result for a message, or None.

        Returns:
            The first result; None without one.

        Raises:
            Refused: The thread does not exist, or cannot be read now.
            ConnectionEnded: The connection has ended.
        """
        before = None
        for _ in range(HISTORY_PAGES):
            page = await self.history(thread_id, before)
            for message in reversed(page["messages"]):
                if (result := found(message)) is not None:
                    return result
            if not page["has_more"]:
                break
            before = page["messages"][0]["message_id"]
        return None

    async def stop(self, run_id: str) -> None:
        """Ask to stop a run; its end is not waited for, and no error is raised if it has ended.

        Raises:
            ConnectionEnded: The connection has ended.
        """
        # With an id of its own, a refusal is not taken for that of a later request.
        await self.send(StopAgent.TYPE, {"run_id": run_id}, new_correlation_id())

    async def stop_all(self, thread_id: str, run_ids: Sequence[str]) -> None:
        """Stop runs of a thread, and wait until they have ended, for `STOP_SECONDS` at most.

        Args:
            thread_id: The thread.
            run_ids: The runs, oldest first.

        Raises:
            Refused: The thread cannot be read now.
            ConnectionEnded: The connection has ended before the runs.
        """
        # The waiting ones first, so that none of them starts meanwhile.
        for run_id in reversed(run_ids):
            await self.stop(run_id)
        with trio.move_on_after(STOP_SECONDS):
            for run_id in run_ids:
                await self.wait_end(thread_id, run_id)

    async def wait_end(self, thread_id: str, run_id: str) -> None:
        """Wait until a run of another session has ended. Cancelling is safe.

        Raises:
            Refused: The thread cannot be read now.
            ConnectionEnded: The connection has ended before the run.
        """
        async with aclosing(self.follow(thread_id, run_id)) as frames:
            async for _ in frames:
                pass

    async def request(
        self, kind: str, payload: dict[str, Any], reply_type: str, key: str | None = None
    ) -> Frame:
        """Send a message, and return the reply of this type.

        Raises:
            Refused: The reply is an `error`.
            ConnectionEnded: The connection has ended.
        """
        key = new_correlation_id() if key is None else key
        await self.send(kind, payload, key)
        while True:
            frame = await self._receive()
            given = frame.get("correlation_id")
            if frame["type"] == ERROR and given in {key, None}:  # none: the frame was not decoded
                raise renamed(_refusal(frame["payload"]), self._paths)
            if frame["type"] == reply_type and given == key:
                return frame
            self._early.append(frame)

    async def send(self, kind: str, payload: dict[str, Any], key: str | None = None) -> None:
        """Send a message without waiting for a reply.

        Raises:
            ConnectionEnded: The connection has ended.
        """
        try:
            await self._connection.send(kind, payload, key)
        except TransportClosed as closed:
            raise _ended(closed) from None

    async def _receive(self) -> Frame:
        try:
            return await self._connection.receive()
        except TransportClosed as closed:
            raise _ended(closed) from None

    async def _next(self) -> Frame:
        """Return the next frame; an error that ends the connection is raised."""
        frame = self._early.popleft() if self._early else await self._receive()
        if frame["type"] == ERROR and not frame["payload"]["recoverable"]:
            raise _refusal(frame["payload"])
        return frame

    def _early_of_connection(self) -> list[Frame]:
        """Take the frames that are of no run out of those that came early."""
        early = self._early
        self._early = deque(frame for frame in early if frame["type"] not in _OF_CONNECTION)
        return [frame for frame in early if frame["type"] in _OF_CONNECTION]

    async def _own_events(self, run_id: str) -> AsyncGenerator[Frame, None]:
        while True:
            frame = await self._next()
            kind = frame["type"]
            if kind in _OF_CONNECTION or frame["payload"].get("run_id") == run_id:
                yield frame
                if kind == AgentCompleted.TYPE:
                    return

    async def _next_in_room(self, run_id: str) -> Frame | None:
        """Return the next event of a run in the room of its thread; None if events are lost."""
        while True:
            frame = await self._next()
            kind, payload = frame["type"], frame["payload"]
            if kind in _OF_CONNECTION:
                return frame
            if kind in {RoomGap.TYPE, RoomLeft.TYPE}:
                return None
            if kind == ROOM_EVENT and payload["event"]["payload"].get("run_id") == run_id:
                event: Frame = payload["event"]
                return event
            if kind == AgentAnswered.TYPE and payload["run_id"] == run_id:
                return frame  # the copy for the session that has answered

    async def _ended(
        self, thread_id: str, run_id: str, sent: _Sent, after: str | None
    ) -> list[Frame] | None:
        """Return the rest of a run that has ended, from the history of its thread.

        Returns:
            None if it has not ended: its node does not answer now, or it moves to another one.
        """

        def of_run(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
            return message if message.get("run", {}).get("run_id") == run_id else None

        unknown = {"run": {"run_id": run_id, "status": RunStatus.INTERRUPTED}}
        found = await self.search(thread_id, of_run) or unknown
        run = found["run"]
        if run["status"] in UNFINISHED:
            return None
        state = {
            "run_id": run_id,
            "status": RunStatus.RUNNING,
            "agent_name": run.get("agent_name", ""),
            "content": found["content"] if found.get("role") == "agent" else "",
            "steps": found.get("steps", ()),
        }
        duration = run.get("duration_ms", 0)
        end = _frame(AgentCompleted.TYPE, run_id=run_id, status=run["status"], duration_ms=duration)
        copies = [
            frame
            for frame in self._early  # the copy of the end that follows a duplicate
            if frame["type"] == AgentCompleted.TYPE and frame["payload"]["run_id"] == run_id
        ]
        rest = list(_unsent_events(state, sent, after))
        if found.get("truncated"):
            rest.append(_frame(TEXT_OMITTED, run_id=run_id))
        return [*rest, *(copies[:1] or [end])]


async def if_thread_exists(reply: Awaitable[_Reply]) -> _Reply | None:
    """Return the reply to a request; None if its thread does not exist."""
    try:
        return await reply
    except Refused as refused:
        if refused.problem.code is ErrorCode.THREAD_NOT_FOUND:
            return None
        raise


def unfinished(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages of the user whose runs have not ended."""
    return [
        each
        for each in messages
        if each["role"] == "user" and each.get("run", {}).get("status") in UNFINISHED
    ]


def renamed(refused: Refused, paths: Mapping[str, str]) -> Refused:
    """Return an error with other paths in its text."""
    text = refused.problem.error
    for old, new in paths.items():
        text = text.replace(old, new)
    return Refused(evolve(refused.problem, error=text))


def _note(event: Mapping[str, Any], sent: _Sent) -> None:
    kind = event["type"]
    if kind == PartialResult.TYPE:
        sent.characters += len(event["payload"]["content"])
    elif kind in {AgentThinking.TYPE, ToolExecuting.TYPE, AgentAsking.TYPE}:
        sent.steps += 1
    elif kind == AgentStarted.TYPE:
        sent.has_started = True


def _unsent_events(state: Mapping[str, Any], sent: _Sent, after: str | None) -> Iterator[Frame]:
    """Return the events of a listed run that were not sent yet, in their order.

    Args:
        state: The run, as a listing or the history has it.
        sent: The part that was sent; it is updated.
        after: A question: only what follows it is returned.
    """
    run_id, text = state["run_id"], state["content"]
    omitted = state.get("omitted", 0)  # characters in front of `text`
    is_unknown = state.get("truncated", False) and not omitted
    if is_unknown:  # how much is missing; the rest is taken for the text that follows
        omitted = sent.characters
    questions = {each["question_id"]: each for each in state.get("questions", ())}
    steps = list(state.get("steps", ()))
    if after is not None:
        places = [place for place, step in enumerate(steps) if step.get("question_id") == after]
        sent.steps = places[-1] + 1 if places else len(steps)
        sent.characters = omitted + (steps[places[-1]]["at"] if places else len(text))
        sent.has_started = True
    yield _frame(LISTED, run_id=run_id, steps=len(steps))
    if not sent.has_started and state["status"] != RunStatus.QUEUED:
        sent.has_started = True
        yield _frame(AgentStarted.TYPE, run_id=run_id, agent_name=state["agent_name"], attempt=1)
    if is_unknown:
        yield _frame(TEXT_OMITTED, run_id=run_id)
    elif omitted > sent.characters:
        yield _frame(TEXT_OMITTED, run_id=run_id, characters=omitted - sent.characters)
        sent.characters = omitted
    for step in steps[sent.steps :]:
        yield from _text_up_to(step["at"], omitted, state, sent)
        yield from _step_frames(run_id, step, questions)
        sent.steps += 1
    yield from _text_up_to(len(text), omitted, state, sent)


def _text_up_to(end: int, omitted: int, state: Mapping[str, Any], sent: _Sent) -> Iterator[Frame]:
    """Return the listed text of a run up to a character, without the part that was sent."""
    start = sent.characters - omitted
    if end > start:
        text = state["content"][start:end]
        yield _frame(PartialResult.TYPE, run_id=state["run_id"], content=text)
        sent.characters = omitted + end


def _step_frames(
    run_id: str, step: Mapping[str, Any], questions: Mapping[str, Any]
) -> Iterator[Frame]:
    fields = {name: value for name, value in step.items() if name not in {"type", "at"}}
    if step["type"] == "thought":
        yield _frame(AgentThinking.TYPE, run_id=run_id, **fields)
    elif step["type"] == "tool":
        call = {name: fields[name] for name in ("tool_call_id", "tool_name")}
        arguments = fields.get("arguments")
        yield _frame(ToolExecuting.TYPE, run_id=run_id, **call, arguments=arguments)
        if "success" in fields:
            fields.pop("arguments", None)
            yield _frame(ToolCompleted.TYPE, run_id=run_id, **fields)
    elif step["question_id"] in questions:
        yield _frame(AgentAsking.TYPE, **{"run_id": run_id, **questions[step["question_id"]]})
    else:
        yield _frame(QUESTION_CLOSED, run_id=run_id, question_id=step["question_id"])


def _frame(kind: str, /, **payload: Any) -> Frame:
    return {"type": kind, "payload": payload}


def _ended(closed: TransportClosed) -> ConnectionEnded:
    return ConnectionEnded(closed.code or ABNORMAL)


def _refusal(body: Mapping[str, Any]) -> Refused:
    """Return the error that an `error` frame reports."""
    return Refused(
        problem(
            ErrorCode(body["code"]),
            body["error"],
            help=body["help"],
            retry_after_ms=body.get("retry_after_ms"),
            error_id=body.get("error_id"),
        )
    )
