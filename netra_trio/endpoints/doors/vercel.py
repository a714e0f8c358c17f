"""The door of the Vercel AI SDK (`useChat`): `POST /api/chat`, and the stream and stop of a chat.

A chat is a thread. The history is the server's: of what a client posts, only the newest message, or
the answers to questions, are taken. See docs/doors-vercel.md.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from attrs import define

from netra_trio.endpoints.answer import Answer, refusal
from netra_trio.endpoints.call import Call, Endpoint, decode_json
from netra_trio.endpoints.doors.answering import BODY_BYTES, noting, stream_run
from netra_trio.endpoints.doors.connection import DoorConnection, open_for_request
from netra_trio.endpoints.doors.posted_files import (
    DoorFormat,
    attachments_of,
    checking,
    have_content,
    store_files,
)
from netra_trio.endpoints.doors.runs import (
    NEWEST,
    Frame,
    RunReader,
    StartedRun,
    if_thread_exists,
    unfinished,
)
from netra_trio.endpoints.doors.vercel_request import (
    Chat,
    Given,
    Said,
    check_chat_id,
    decode_chat,
)
from netra_trio.endpoints.doors.vercel_stream import ClosedQuestion, UIMessageStream
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.paths import target_of
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.doors import DOOR_PATHS, VERCEL
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS
from netra_trio.protocol.messages import (
    AgentAnswered,
    OnBusy,
    RunStatus,
    ToolCompleted,
)
from netra_trio.protocol.problem import Refused, problem
from netra_trio.stores.threads import UNFINISHED
from netra_trio.telemetry.events import DoorOutcome

LAST = "last-event-id"  # the header with the id of the newest message that the client has

T = TypeVar("T")

_PATHS = DOOR_PATHS[VERCEL]
_FIELDS = {
    "$.correlation_id": "$.messages[-1].id",
    "$.payload.agent": "$.agent",
    "$.payload.attachments": "$.messages",
    "$.payload.content": "$.messages",
    "$.payload.thread_id": "$.id",
}
"""The places of the fields of a message in a request."""

Listed = list[dict[str, Any]]
"""The runs of a thread that have not ended."""


def open_door(entrance: Entrance) -> Mapping[str, Mapping[str, Endpoint]]:
    """Return the endpoints of the door, by path and method."""
    door = _Door(entrance)
    return {
        _PATHS["chat"]: {"POST": door.chat},
        _PATHS["stream"]: {"GET": door.stream},
        _PATHS["stop"]: {"POST": door.stop},
    }


@define(eq=False)
class _Visit:
    """One request at the door.

    Attributes:
        call: The request.
        connection: Its connection.
        runs: Reads runs over the connection.
        wire: The format of its messages.
        outcome: How it was answered.
    """

    call: Call
    connection: DoorConnection
    runs: RunReader
    wire: DoorFormat
    outcome: DoorOutcome = DoorOutcome.COMPLETED

    async def answer(
        self,
        run: StartedRun,
        translator: UIMessageStream,
        *,
        listed: Listed | None = None,
        after: str | None = None,
        before: Sequence[Frame] = (),
    ) -> None:
        """Stream the events of a run, behind others; see `RunReader.events`."""
        with self.connection.following(run.run_id):
            frames = _behind(before, self.runs.events(run, listed=listed, after=after))
            responder = self.call.responder
            self.outcome = await stream_run(responder, self.connection, frames, translator)
        if translator.has_ended:
            self.connection.keeps_session = False


async def _behind(
    before: Sequence[Frame], frames: AsyncGenerator[Frame, None]
) -> AsyncGenerator[Frame, None]:
    async with aclosing(frames):
        for frame in before:
            yield frame
        async for frame in frames:
            yield frame


_Act = Callable[[_Visit], Awaitable[Answer | None]]


class _Door:
    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    async def chat(self, call: Call) -> Answer | None:
        """Answer `POST /api/chat`."""
        return await self._answer(call, _chat)

    async def stream(self, call: Call) -> Answer | None:
        """Answer `GET /api/chat/{id}/stream`."""
        return await self._answer(call, _stream)

    async def stop(self, call: Call) -> Answer | None:
        """Answer `POST /api/chat/{id}/stop`."""
        return await self._answer(call, _stop)

    async def _answer(self, call: Call, act: _Act) -> Answer | None:
        try:
            with noting(call, VERCEL) as noted:
                async with self._visit(call) as visit:
                    answer = await act(visit)
                noted.outcome = visit.outcome
        except Refused as refused:
            fault, services = refused.problem, call.services
            now, note = services.wall_clock(), services.instruments.note
            answer = refusal(fault, now, call.request, call.path, note)
            # The client shows the body of the answer as its error message.
            headers = {**answer.headers, "content-type": "text/plain; charset=utf-8"}
            return Answer(answer.status, headers=headers, content=fault.error.encode())
        return answer

    @asynccontextmanager
    async def _visit(self, call: Call) -> AsyncIterator[_Visit]:
        """Open a connection for a request."""
        wire = DoorFormat()
        check = checking(call, wire)
        async with open_for_request(self._entrance, call.request, check) as connection:
            yield _Visit(call, connection, RunReader(connection, _FIELDS), wire)


async def _chat(visit: _Visit) -> Answer | None:
    chat = decode_chat(decode_json(await visit.call.read_body(BODY_BYTES)))
    if chat.said is None:
        await _continue(visit, chat)
        return None
    _check(visit, chat, chat.said)
    run = await _begin(visit, chat, chat.said)
    await visit.answer(run, UIMessageStream(run.run_id, run.thread_id))
    return None


async def _stream(visit: _Visit) -> Answer | None:
    chat_id = _chat_id(visit.call, _PATHS["stream"])
    listed = await _unfinished(visit.runs, chat_id)
    wanted = visit.call.request.headers.get(LAST, [""])[0]
    run = None
    if listed:
        last = listed[-1]
        run = StartedRun(last["run_id"], last["message_id"], chat_id, True, last["status"])
    elif wanted and (found := await _find(visit.runs, chat_id, wanted)) is not None:
        run = StartedRun.of_message(found, chat_id)
    elif unlisted := await _unlisted(visit.runs, chat_id):
        run = StartedRun.of_message(unlisted[-1], chat_id)
    if run is None:
        return Answer(204)
    translator = UIMessageStream(run.run_id, chat_id)
    if visit.call.method == "HEAD":
        return Answer(200, headers=dict(translator.headers))
    await visit.answer(run, translator, listed=listed)
    return None


async def _stop(visit: _Visit) -> Answer:
    chat_id = _chat_id(visit.call, _PATHS["stop"])
    run_ids = [each["run_id"] for each in await _unfinished(visit.runs, chat_id)]
    if not run_ids:
        run_ids = [each["run"]["run_id"] for each in await _unlisted(visit.runs, chat_id)]
    await visit.runs.stop_all(chat_id, run_ids)
    return Answer(200, {"stopped": len(run_ids)})


def _chat_id(call: Call, pattern: str) -> str:
    return check_chat_id(target_of(call.path, pattern), "the id in the path")


def _check(visit: _Visit, chat: Chat, said: Said) -> None:
    """Check the agent and the size of a message.

    Raises:
        Refused: BAD_REQUEST or MESSAGE_TOO_LARGE.
    """
    agents = [each["name"] for each in visit.connection.hello["agents"]]
    if chat.agent is not None and chat.agent not in agents:
        text = f"$.agent: expected one of {', '.join(agents)}, got {chat.agent[:100]!r}"
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))
    limit = visit.call.services.settings.max_message_size
    if len(said.text.encode()) > limit:
        text = f"$.messages: the text has more than {limit} bytes."
        raise Refused(problem(ErrorCode.MESSAGE_TOO_LARGE, text))


async def _begin(visit: _Visit, chat: Chat, said: Said) -> StartedRun:
    """Start the run of a message, or return the one that it has started before."""
    runs = visit.runs
    message: dict[str, Any] = {"content": said.text, "thread_id": chat.chat_id}
    if chat.agent is not None:
        message["agent"] = chat.agent
    is_plain = said.target is None and not said.regenerates
    known = None
    if not is_plain or have_content(said.files):
        known = await _find(runs, chat.chat_id, said.message_id)
    replaced = None if is_plain else known
    if known is None and said.target is not None and not said.regenerates:
        replaced = await _find(runs, chat.chat_id, said.target)
    key = said.message_id
    if replaced is not None:
        key = _key(said, replaced)
        if known is not None and _is_sent_again(said, known, key):
            return StartedRun.of_message(known, chat.chat_id)
        message["replaces"] = replaced["message_id"]
        if replaced["run"]["status"] != RunStatus.QUEUED:
            message["on_busy"] = OnBusy.INTERRUPT  # its run is for a message that is gone
    message["attachments"] = await store_files(
        visit.call.services,
        visit.connection.user_id,
        said.files,
        visit.wire,
        known=attachments_of(known or replaced),
    )
    return await runs.start(message, key)


def _key(said: Said, replaced: Mapping[str, Any]) -> str:
    """Return the key of a message that replaces another one."""
    if not said.regenerates and said.target != said.message_id:
        return said.message_id
    of_agent = said.target if said.regenerates and said.target else replaced["run"]["run_id"]
    key = f"{said.message_id}:{of_agent}"
    if len(key) > CORRELATION_ID_CHARACTERS:
        limit = CORRELATION_ID_CHARACTERS - 1
        text = f"$.messages: the ids of both messages together have more than {limit} characters."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))
    return key


def _is_sent_again(said: Said, known: Mapping[str, Any], key: str) -> bool:
    """Whether a message that replaces another one was sent before."""
    if known["correlation_id"] == key:
        return True
    if said.regenerates:  # without a target it cannot be told from the request before it
        return said.target is None and known["run"]["status"] in UNFINISHED
    return said.target == said.message_id and bool(known["content"] == said.text)


async def _continue(visit: _Visit, chat: Chat) -> None:
    """Answer questions, and stream what follows them.

    Raises:
        Refused: ANSWER_REJECTED if a question does not exist or the answer does not fit.
    """
    listed = await _unfinished(visit.runs, chat.chat_id)
    closed, run_id = [], ""
    for given in chat.given:
        run_id, question = await _close(visit.runs, chat.chat_id, given, listed)
        closed.append(question)
    run = StartedRun(run_id, "", chat.chat_id, True, RunStatus.RUNNING)
    translator = UIMessageStream(
        run_id, chat.chat_id, closed=closed, metadata=chat.metadata, tools=chat.tools
    )
    ended = await _ended_calls(visit.runs, chat, run_id, listed) if chat.tools else []
    after = chat.given[-1].question_id
    await visit.answer(run, translator, listed=listed, after=after, before=ended)


async def _ended_calls(
    runs: RunReader, chat: Chat, run_id: str, listed: Listed
) -> list[dict[str, Any]]:
    """Return the ends of tool calls that began before a question, and ended while it was open."""

    def steps_of(message: Mapping[str, Any]) -> Any:
        is_answer = message["role"] == "agent" and message.get("run", {}).get("run_id") == run_id
        return message.get("steps") if is_answer else None

    steps = next((each.get("steps") for each in listed if each["run_id"] == run_id), None)
    if steps is None:
        steps = await _search(runs, chat.chat_id, steps_of)
    return [
        {"type": ToolCompleted.TYPE, "payload": step}
        for step in steps or ()
        if step.get("tool_call_id") in chat.tools and "success" in step
    ]


async def _close(
    runs: RunReader, chat_id: str, given: Given, listed: Listed
) -> tuple[str, ClosedQuestion]:
    """Answer a question; return its run, and how it was closed, also if another answer was first.

    Raises:
        Refused: ANSWER_REJECTED.
    """
    fault = Refused(problem(ErrorCode.ANSWER_REJECTED, "There is no such question in this chat."))
    for each in listed:
        question = _question_of(each, given.question_id)
        if question is not None:
            try:
                reply = await runs.request("answer", _answer_of(given), AgentAnswered.TYPE)
            except Refused as refused:
                fault = refused
            else:
                return each["run_id"], _closed(question, reply["payload"], given)

    def closed(message: Mapping[str, Any]) -> tuple[str, ClosedQuestion] | None:
        question = _question_of(message.get("run", {}), given.question_id)
        if question is None or "outcome" not in question:
            return None
        return message["run"]["run_id"], _closed(question, question, given)

    found = await _search(runs, chat_id, closed)
    if found is None:
        raise fault
    return found


def _question_of(run: Mapping[str, Any], question_id: str) -> Mapping[str, Any] | None:
    questions = run.get("questions", ())
    return next((each for each in questions if each["question_id"] == question_id), None)


def _answer_of(given: Given) -> dict[str, Any]:
    payload: dict[str, Any] = {"question_id": given.question_id}
    if given.approve is not None:
        return {**payload, "approve": given.approve}
    return {**payload, "answer": given.answer}


def _closed(question: Mapping[str, Any], end: Mapping[str, Any], given: Given) -> ClosedQuestion:
    return ClosedQuestion(question, end["outcome"], given.approve, end.get("answer"))


async def _unfinished(runs: RunReader, chat_id: str) -> Listed:
    """Return the runs of a thread that have not ended; none if it does not exist."""
    return await if_thread_exists(runs.watch(chat_id)) or []


async def _unlisted(runs: RunReader, chat_id: str) -> list[Mapping[str, Any]]:
    """Return the newest messages whose runs have not ended, although no node lists them.

    Their node does not answer for a moment, or has given them away.
    """
    return unfinished(await runs.newest(chat_id, limit=NEWEST))


async def _find(runs: RunReader, chat_id: str, wanted: str) -> Mapping[str, Any] | None:
    """Return the newest message of the user with the id that its client uses, or with its run.

    A message that replaces another one has the key of its id and more; see `_key`.
    """

    def found(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if message["role"] != "user" or "run" not in message:
            return None
        key = message.get("correlation_id", "")
        is_it = wanted in {key, message["run"]["run_id"]} or key.startswith(f"{wanted}:")
        return message if is_it else None

    return await _search(runs, chat_id, found)


async def _search(
    runs: RunReader, chat_id: str, found: Callable[[Mapping[str, Any]], T | None]
) -> T | None:
    """Search the history; None also if the thread does not exist (see `RunReader.search`)."""
    return await if_thread_exists(runs.search(chat_id, found))
