"""The OpenAI door: `POST /v1/chat/completions` and `GET /v1/models`.

The client holds the conversation: the agent reads the posted messages as its history. The thread of
a request without `X-Thread-Id` is in no list. A client that leaves stops the run, because the
protocol has no other stop; with an `Idempotency-Key` the run goes on, and the same request again
gets the same answer.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import trio

from netra_trio.endpoints.answer import Answer, refusal
from netra_trio.endpoints.call import Call, Endpoint, decode_json
from netra_trio.endpoints.checks import check_caller, check_user_exists
from netra_trio.endpoints.doors.answering import (
    BODY_BYTES,
    collect_run,
    fault_of,
    noting,
    stream_run,
)
from netra_trio.endpoints.doors.connection import DoorConnection, open_for_request
from netra_trio.endpoints.doors.openai_answer import (
    QUOTA,
    ChatCompletion,
    ChatError,
    ChatStream,
    error_of,
)
from netra_trio.endpoints.doors.openai_request import ChatRequest, read_request
from netra_trio.endpoints.doors.posted_files import (
    DoorFormat,
    attachments_of,
    checking,
    have_content,
    store_files,
)
from netra_trio.endpoints.doors.runs import ConnectionEnded, Frame, RunReader
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.request import Request
from netra_trio.ids import unlisted_thread_id
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.doors import DOOR_PATHS, OPENAI
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS, THREAD_ID_TEXT, is_thread_id
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.telemetry.events import DoorOutcome

OWNER = "netra-trio"
RETRY_SECONDS = "1"  # where the server knows no better
_RETRIED = frozenset({409, 429, 503})

_Answered: TypeAlias = tuple[Answer | None, DoorOutcome]


_PATHS = {
    "$.correlation_id": "Idempotency-Key",
    "$.payload.agent": "$.model",
    "$.payload.attachments": "$.messages",
    "$.payload.content": "$.messages",
    "$.payload.thread_id": "X-Thread-Id",
}
"""The places of the fields of a message in a request."""


def open_door(entrance: Entrance) -> Mapping[str, Mapping[str, Endpoint]]:
    """Return the endpoints of the door, by path and method."""
    door, paths = _Door(entrance), DOOR_PATHS[OPENAI]
    return {
        paths["chat_completions"]: {"POST": door.complete},
        paths["models"]: {"GET": door.list_models},
    }


class _Door:
    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._opened_at = int(entrance.node.services.wall_clock())

    async def complete(self, call: Call) -> Answer | None:
        """Answer a conversation."""
        return await _answered(call, self._complete)

    async def list_models(self, call: Call) -> Answer | None:
        """List the agents as models."""
        return await _answered(call, self._list)

    async def _list(self, call: Call) -> _Answered:
        node, now = self._entrance.node, trio.current_time()
        with self._entrance.counting(call.request):
            node.capacity.check_room()
            self._entrance.rate.check_address(call.request.peer, now)
            identity = await check_caller(call.request, call.services, now=now)
            await check_user_exists(identity, call.services)
        models = [
            {
                "id": agent.name,
                "object": "model",
                "created": self._opened_at,
                "owned_by": OWNER,
                "name": agent.title,
            }
            for agent in node.listed_agents
        ]
        return Answer(200, {"object": "list", "data": models}), DoorOutcome.COMPLETED

    async def _complete(self, call: Call) -> _Answered:
        wire = DoorFormat()
        check = checking(call, wire)
        async with open_for_request(self._entrance, call.request, check) as connection:
            try:
                key, thread_id = _key(call.request), _thread_id(call.request)
                body = decode_json(await call.read_body(BODY_BYTES))
                request = read_request(body, call.services.wall_clock())
                wire.history = request.history
                thread_id = thread_id or unlisted_thread_id(key)
                runs = RunReader(connection, _PATHS)
                known = None
                if key is not None and have_content(request.files):
                    known = await _find(runs, thread_id, key)
                user_id, files = connection.user_id, request.files
                message = {
                    "content": request.content,
                    "agent": request.model,
                    "thread_id": thread_id,
                    "attachments": await store_files(
                        call.services, user_id, files, wire, known=attachments_of(known)
                    ),
                }
                started = await runs.start(message, key, goes_on=key is not None)
                reply = _new_reply(request, started.run_id, call)
                events = runs.events(started)
                answer: Answer | None = None
                with connection.following(started.run_id):
                    if isinstance(reply, ChatStream):
                        outcome = await stream_run(call.responder, connection, events, reply)
                    else:
                        outcome, error = await _collect(call, connection, events, reply)
                        answer = _whole(reply, error, is_repeatable=key is not None)
                if reply.is_asking:
                    with suppress(ConnectionEnded):  # its end is not waited for
                        await runs.stop(started.run_id)
                if reply.is_complete:
                    connection.keeps_session = False
            except Refused:
                connection.keeps_session = False
                raise
        return (None if outcome is DoorOutcome.LEFT else answer), outcome


async def _answered(call: Call, answer: Callable[[Call], Awaitable[_Answered]]) -> Answer | None:
    """Answer a request, and note how; a refused one is answered with an error of the protocol."""
    try:
        with noting(call, OPENAI) as noted:
            sent, noted.outcome = await answer(call)
    except Refused as refused:
        return _refusal(call, refused.problem)
    return sent


def _refusal(call: Call, fault: Problem) -> Answer:
    services = call.services
    timestamp, note = services.wall_clock(), services.instruments.note
    headers = refusal(fault, timestamp, call.request, call.path, note).headers
    return _error_answer(error_of(fault), headers)


def _error_answer(error: ChatError, headers: dict[str, str]) -> Answer:
    if error.body["error"]["code"] == QUOTA:
        headers["x-should-retry"] = "false"  # clients would ask twice more within seconds
    elif error.status in _RETRIED:
        headers.setdefault("retry-after", RETRY_SECONDS)
    return Answer(error.status, error.body, headers)


async def _find(runs: RunReader, thread_id: str, key: str) -> Mapping[str, Any] | None:
    """Return the message with a key, if it is one of the newest of its thread."""
    messages = await runs.newest(thread_id)
    return next((each for each in messages if each.get("correlation_id") == key), None)


def _new_reply(request: ChatRequest, run_id: str, call: Call) -> ChatStream | ChatCompletion:
    created = int(call.services.wall_clock())
    if request.stream:
        return ChatStream(
            run_id, model=request.model, created=created, include_usage=request.include_usage
        )
    return ChatCompletion(run_id, model=request.model, created=created)


async def _collect(
    call: Call,
    connection: DoorConnection,
    events: AsyncGenerator[Frame, None],
    reply: ChatCompletion,
) -> tuple[DoorOutcome, ChatError | None]:
    """Collect an answer; return how that ended, and the error of a connection that was lost."""
    try:
        return await collect_run(call.responder, connection, events, reply.add), None
    except (ConnectionEnded, Refused) as ended:
        return DoorOutcome.LOST, error_of(fault_of(ended))


def _whole(reply: ChatCompletion, lost: ChatError | None, *, is_repeatable: bool) -> Answer:
    """Return an answer that is no stream.

    Args:
        reply: What was collected.
        lost: Why the rest was lost; None if it was not.
        is_repeatable: Whether the same request leads to the same run.
    """
    error = lost or reply.error
    if error is None:
        return Answer(200, reply.body, reply.headers)
    if lost is None or not is_repeatable:
        reply.headers["x-should-retry"] = "false"  # clients would start another run at once
    return _error_answer(error, reply.headers)


def _key(request: Request) -> str | None:
    """Return the idempotency key of a request.

    Raises:
        Refused: BAD_REQUEST.
    """
    key = _header(request, "Idempotency-Key")
    if key is not None and not 1 <= len(key) <= CORRELATION_ID_CHARACTERS:
        raise _bad_header("Idempotency-Key", f"1 to {CORRELATION_ID_CHARACTERS} characters")
    return key


def _thread_id(request: Request) -> str | None:
    """Return the thread that a request names; None for none.

    An empty name is none: clients fill it in from a template, and have no value for some requests.

    Raises:
        Refused: BAD_REQUEST.
    """
    thread_id = _header(request, "X-Thread-Id") or None
    if thread_id is not None and not is_thread_id(thread_id):
        raise _bad_header("X-Thread-Id", THREAD_ID_TEXT)
    return thread_id


def _header(request: Request, name: str) -> str | None:
    values = request.headers.get(name.lower(), [])
    if len(values) > 1:
        raise _bad_header(name, "one value")
    return values[0] if values else None


def _bad_header(name: str, expected: str) -> Refused:
    return Refused(problem(ErrorCode.BAD_REQUEST, f"{name}: expected {expected}."))
