"""The `ag-ui` door: `POST /ag-ui/{agent}` for every client of AG-UI 1.0, such as CopilotKit.

A request starts the run of its newest user message, or goes on with a run: that of the same message
(its id is the key), or the one whose interrupts it answers. A client that leaves does not stop its
run; `POST /ag-ui/{agent}/stop` does. docs/doors-ag-ui.md has the rules.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from attrs import frozen

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call, Endpoint, decode_json
from netra_trio.endpoints.doors.ag_ui_events import AgUiTranslator, ClosedQuestion, Place
from netra_trio.endpoints.doors.ag_ui_input import (
    ResumeEntry,
    RunInput,
    read_answer,
    read_input,
    read_stop,
)
from netra_trio.endpoints.doors.answering import BODY_BYTES, noting, stream_run
from netra_trio.endpoints.doors.connection import DoorConnection, open_for_request
from netra_trio.endpoints.doors.posted_files import (
    DoorFormat,
    attachments_of,
    checking,
    store_files,
)
from netra_trio.endpoints.doors.runs import NEWEST, RunReader, StartedRun, renamed, unfinished
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.paths import target_of
from netra_trio.ids import FileId
from netra_trio.protocol.codec import too_large
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.doors import AG_UI, DOOR_PATHS
from netra_trio.protocol.fields import HISTORY_PAGE_MAX
from netra_trio.protocol.messages import AgentAnswered
from netra_trio.protocol.problem import Refused, problem
from netra_trio.stores.threads import UNFINISHED

STOP_BYTES = 16 * 1024

_PATHS = DOOR_PATHS[AG_UI]


@frozen
class _Asked:
    """A question of a thread, and the message whose run has asked it."""

    question: Mapping[str, Any]
    message: Mapping[str, Any]

    @property
    def outcome(self) -> str | None:
        """How it was closed; None while it is open."""
        outcome: str | None = self.question.get("outcome")
        return outcome


@frozen
class _Reading:
    """The run that a request reads.

    Attributes:
        run: The run.
        answered: Its questions that the request has answered.
    """

    run: StartedRun
    answered: Mapping[str, ClosedQuestion]


def open_door(entrance: Entrance) -> dict[str, dict[str, Endpoint]]:
    """Return the endpoints of the door, by path."""
    door = AgUiDoor(entrance)
    return {_PATHS["stop"]: {"POST": door.stop}, _PATHS["agent"]: {"POST": door.run}}


class AgUiDoor:
    """The endpoints of the door.

    Args:
        entrance: Admits connections to the node.
    """

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    async def run(self, call: Call) -> Answer | None:
        """Answer with the events of a run; cancelling cuts the answer.

        Raises:
            Refused: Before the first event.
        """
        agent = target_of(call.path, _PATHS["agent"])
        with noting(call, AG_UI) as noted:
            wire = DoorFormat()
            check = checking(call, wire)
            async with open_for_request(self._entrance, call.request, check) as connection:
                run_input = read_input(decode_json(await call.read_body(BODY_BYTES)))
                place = _place_of(call)
                request = _Request(call, connection, str(agent), run_input, wire)
                reading = await request.read()
                translator = AgUiTranslator(
                    reading.run.run_id,
                    thread_id=run_input.thread_id,
                    client_run_id=run_input.run_id,
                    place=_useful(place, reading),
                    held=run_input.held,
                    answered=reading.answered,
                )
                frames = request.runs.events(reading.run)
                with connection.following(reading.run.run_id):
                    noted.outcome = await stream_run(call.responder, connection, frames, translator)
                if translator.has_ended:
                    connection.keeps_session = False
        return None

    async def stop(self, call: Call) -> Answer:
        """Stop the runs of a thread, or that of one message; wait until they have ended.

        Raises:
            Refused: If the request is refused.
        """
        with noting(call, AG_UI):
            check = checking(call, DoorFormat())
            async with open_for_request(self._entrance, call.request, check) as connection:
                stop = read_stop(decode_json(await call.read_body(STOP_BYTES)))
                stopped = await _stop(connection, stop.thread_id, stop.message_id)
                return Answer(200, {"stopped": stopped})


class _Request:
    """Finds or starts the run that a request reads.

    Args:
        call: The request.
        connection: Its connection.
        agent: The agent of its path.
        run_input: Its body.
        wire: The format of the connection.
    """

    def __init__(
        self,
        call: Call,
        connection: DoorConnection,
        agent: str,
        run_input: RunInput,
        wire: DoorFormat,
    ) -> None:
        self._services = call.services
        self._wire = wire
        self._connection = connection
        self._agent = agent
        self._input = run_input
        self.runs = RunReader(connection)

    async def read(self) -> _Reading:
        """Answer the interrupts, or start the run of the message; return the run to read.

        Raises:
            Refused: The request is refused.
            ConnectionEnded: The connection has ended.
        """
        is_plain = not self._input.resume and not self._input.regenerates
        listed = await self._messages(NEWEST if is_plain else HISTORY_PAGE_MAX)
        if not self._input.resume:
            return _Reading(await self._start(listed), {})
        asked = [_find(listed, entry) for entry in self._input.resume]
        answered = {}
        for entry, each in zip(self._input.resume, asked, strict=True):
            outcome = await self._answer(entry, each)
            question = each.question
            answered[entry.question_id] = ClosedQuestion(question.get("tool_name"), outcome)
        is_new = self._input.message_id is not None and not any(map(self._input.is_message, listed))
        if is_new:
            return _Reading(await self._start(listed, is_answered=True), {})
        message = asked[-1].message
        of_run = {
            entry.question_id: answered[entry.question_id]
            for entry, each in zip(self._input.resume, asked, strict=True)
            if each.message is message
        }
        return _Reading(await self._again(message), of_run)

    async def _again(self, message: Mapping[str, Any]) -> StartedRun:
        """Return the run of a message; if the input has the message, its end has the result."""
        key = self._input.message_id
        if key is not None and message.get("correlation_id") == key:
            with suppress(Refused):  # the text may be another one
                return await self._send(self._payload, key, attachments_of(message))
        return StartedRun.of_message(message, self._input.thread_id)

    async def _send(
        self, payload: dict[str, Any], key: str | None, known: Sequence[FileId]
    ) -> StartedRun:
        """Store the files of the message, except the known ones, and start its run."""
        user_id, posted = self._connection.user_id, self._input.files
        files = await store_files(self._services, user_id, posted, self._wire, known=known)
        return await self.runs.start({**payload, "attachments": files}, key)

    @property
    def _payload(self) -> dict[str, Any]:
        run_input = self._input
        return {
            "content": run_input.text,
            "thread_id": run_input.thread_id,
            "agent": self._agent,
        }

    async def _messages(self, limit: int = HISTORY_PAGE_MAX) -> list[dict[str, Any]]:
        """Return the newest messages of the thread; none if the thread is new."""
        try:
            return await self.runs.newest(self._input.thread_id, limit=limit)
        except Refused as refused:
            raise self._at_input(refused) from None

    async def _start(
        self, listed: list[dict[str, Any]], *, is_answered: bool = False
    ) -> StartedRun:
        """Start the run of the message, or find the one that it has started."""
        run_input = self._input
        known = [each for each in listed if run_input.is_message(each)]
        payload = self._payload
        key = run_input.message_id
        newest = known[-1] if known else None
        if newest is not None:
            again = run_input.regenerated_key
            its_key = newest["correlation_id"]
            if (its_key not in {key, again} and not run_input.regenerates) or its_key == again:
                return StartedRun.of_message(newest, run_input.thread_id)
            if run_input.regenerates:
                payload["replaces"], key = newest["message_id"], again
        elif not is_answered:
            _check_no_interrupt(listed)
        self._check_size(len(run_input.text.encode()))
        try:
            return await self._send(payload, key, attachments_of(newest))
        except Refused as refused:
            raise self._at_input(refused) from None

    async def _answer(self, entry: ResumeEntry, asked: _Asked) -> str:
        """Answer one question; return how it was closed.

        An answer is repeated safely. A question cannot be declined, so its run is stopped instead.
        """
        kind = str(asked.question["kind"])
        if entry.is_cancelled:
            if asked.outcome is not None:
                return asked.outcome
            if kind != "approval":
                await self.runs.stop_all(self._input.thread_id, [asked.message["run"]["run_id"]])
                return "cancelled"
            fields: dict[str, Any] = {"approve": False}
        else:
            fields = read_answer(entry, kind)
        if asked.outcome is None:
            self._check_size(len(orjson.dumps(fields)))
            request = {"question_id": entry.question_id, **fields}
            try:
                reply = await self.runs.request("answer", request, AgentAnswered.TYPE)
                return str(reply["payload"]["outcome"])
            except Refused as refused:
                if refused.problem.code != ErrorCode.ANSWER_REJECTED:
                    raise self._at_entry(refused, entry) from None
                asked = _find(await self._messages(), entry)
                if asked.outcome is None:
                    raise self._at_entry(refused, entry) from None
        if entry.is_cancelled or _is_same(asked.question, fields):
            return str(asked.outcome)
        text = f"{entry.path}: The interrupt is closed: {asked.outcome}."
        raise Refused(problem(ErrorCode.ANSWER_REJECTED, text))

    def _check_size(self, size: int) -> None:
        longest = self._connection.hello["limits"]["max_message_size"]
        if size > longest:
            raise Refused(too_large(size, longest))

    def _at_input(self, refused: Refused) -> Refused:
        """Return an error with the path of the input instead of that of a frame."""
        place = self._input.place
        return renamed(
            refused,
            {
                "$.payload.thread_id": "$.threadId",
                "$.payload.content": f"{place}.content",
                "$.payload.attachments": f"{place}.content",
                "$.correlation_id": f"{place}.id",
            },
        )

    def _at_entry(self, refused: Refused, entry: ResumeEntry) -> Refused:
        paths = ("$.payload.answer", "$.payload.approve", "$.payload")
        return renamed(refused, dict.fromkeys(paths, f"{entry.path}.payload"))


async def _stop(connection: DoorConnection, thread_id: str, message_id: str | None) -> list[str]:
    """Stop runs of a thread; return their ids when they have ended, or after `STOP_SECONDS`."""
    runs = RunReader(connection)
    try:
        listed = list((await runs.history(thread_id))["messages"])
    except Refused as refused:
        raise renamed(refused, {"$.payload.thread_id": "$.threadId"}) from None
    message = RunInput(thread_id, "", message_id, "", "$")
    stopped = [
        str(each["run"]["run_id"])
        for each in unfinished(listed)
        if message_id is None or message.is_message(each)
    ]
    await runs.stop_all(thread_id, stopped)
    return stopped


def _place_of(call: Call) -> Place | None:
    """Return the place where the answer is continued.

    Raises:
        Refused: BAD_REQUEST.
    """
    given = call.request.headers.get("last-event-id", [])
    if not given or given == [""]:
        return None
    place = Place.parse(given[0]) if len(given) == 1 else None
    if place is None:
        text = "Last-Event-ID: expected the id of an event of this endpoint."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))
    return place


def _useful(place: Place | None, reading: _Reading) -> Place | None:
    """Return the place if it is one of the answer: not of another run, or before an interrupt."""
    if place is None or place.run_id != reading.run.run_id or not reading.run.is_duplicate:
        return None
    return None if place.is_end and reading.answered else place


def _find(listed: list[dict[str, Any]], entry: ResumeEntry) -> _Asked:
    """Return the question of an interrupt.

    Raises:
        Refused: ANSWER_REJECTED if the thread has none of that id.
    """
    for message in reversed(listed):
        for question in message.get("run", {}).get("questions", ()):
            if question["question_id"] == entry.question_id:
                return _Asked(question, message)
    text = f"{entry.path}.interruptId: the thread has no such interrupt."
    raise Refused(problem(ErrorCode.ANSWER_REJECTED, text))


def _check_no_interrupt(listed: list[dict[str, Any]]) -> None:
    """Check that no run of the thread asks: a new message would wait behind it.

    Raises:
        Refused: AGENT_BUSY.
    """
    for message in listed:
        run = message.get("run", {})
        for question in run.get("questions", ()):
            if "outcome" not in question and run["status"] in UNFINISHED:
                text = f"$.resume: missing; the thread has the interrupt {question['question_id']}."
                help_ = "Answer the interrupt in `resume`, or cancel it there."
                raise Refused(problem(ErrorCode.AGENT_BUSY, text, help=help_))


def _is_same(question: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a question was closed with this answer."""
    outcome = question["outcome"]
    if "approve" in fields:
        return bool(outcome == ("approved" if fields["approve"] else "denied"))
    return bool(outcome == "answered" and question.get("answer") == fields["answer"])
