"""A run, as its agent uses it: the message, and methods that send events."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil
from typing import Any, Protocol

import trio
from attrs import define
from orjson import Fragment, dumps, loads

from netra_trio.agents.attachments import Attachment, RunFiles, binary_event
from netra_trio.agents.checks import (
    check_data,
    check_media_type,
    check_step,
    check_title,
    check_tool_name,
    check_usage,
)
from netra_trio.agents.output import Output
from netra_trio.agents.questions import (
    ARGUMENTS_BYTES,
    Questions,
    ToolCall,
)
from netra_trio.agents.waits import Wait
from netra_trio.errors import QuestionExpired, ToolDenied, ToolError
from netra_trio.ids import (
    FileId,
    MessageId,
    UserId,
    new_tool_call_id,
    new_usage_id,
)
from netra_trio.protocol.admin import Waits as WaitKind
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentThinking,
    AgentUsage,
    HistoryMessage,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.text import (
    EVENT_BYTES,
    PIECE_CHARACTERS,
    cut_json,
    json_size,
    pieces,
)
from netra_trio.protocol.threads import ThreadChange
from netra_trio.stores.base import NewMessage, Store
from netra_trio.stores.files import StoredFile
from netra_trio.stores.usage import Usage, UsageRecorder
from netra_trio.telemetry.events import TelemetryEvent, ToolEnded, ToolStarted, UsageReported
from netra_trio.telemetry.trace_context import TRACEPARENT
from netra_trio.values import frozen

EXPIRES = 300.0  # seconds for an answer, unless the agent says otherwise


ChangeThread = Callable[[NewMessage, ThreadChange], None]
"""Called for each change of a thread by a message or its run; does not wait."""


class RunControl(Protocol):
    """The part of its execution that a run uses."""

    @property
    def deadline(self) -> float:
        """When the run ends `timed_out`, on Trio's clock; `inf` while a question is open."""
        ...

    @property
    def questions(self) -> Questions:
        """The questions of the run."""
        ...


class RoomPublisher(Protocol):
    """Publishes messages to rooms: `netra_trio.rooms.publisher.Publisher`."""

    async def publish(
        self, room: str, content: JsonObject | str, *, user_id: UserId | None
    ) -> object:
        """Publish a message of a user to a room."""
        ...


@frozen
class RunSpec:
    """The specification of a run.

    Attributes:
        message: The recorded message.
        agent: The agent.
        permissions: The permissions of the user's token.
        input: The payload of an `agent_request`; None for a `user_message`.
        timeout: Seconds from the first `agent_started` to the deadline.
        received: When the message was received, on Trio's clock.
        history: What `Run.history` returns; None for the stored thread.
        files: The files of the message.
    """

    message: NewMessage
    agent: "Agent"
    permissions: frozenset[str]
    input: JsonObject | None
    timeout: float
    received: float = 0.0
    history: tuple[HistoryMessage, ...] | None = None
    files: tuple[StoredFile, ...] = ()


@define
class Tool:
    """A tool call in progress; the agent sets `result`, any JSON value."""

    name: str
    result: Any = None


class RunNursery:
    """The nursery of a run, and whether its agent has used it."""

    __slots__ = ("is_used", "nursery")

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.is_used = False


class Run:
    """A run, as its agent uses it: the message, and methods that send events.

    Attributes:
        id: The id of the run.
        user: The id of the user who sent the message.
        permissions: The permissions of the user's token.
        thread_id: The thread of the message.
        agent_name: The name that the agent is served under.
        correlation_id: The correlation id of the message.
        content: The text of the message; of an `agent_request`, its input as text.
        input: The payload of an `agent_request`; None for a `user_message`.
        attachments: The files of the message.
        attempt: 1, 2 or 3.
        traceparent: The trace of the run, for the HTTP header of that name; None if there is none.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        attempt: int,
        control: RunControl,
        nursery: RunNursery,
        output: Output,
        files: RunFiles,
        store: Store,
        publisher: RoomPublisher,
        wall_clock: Callable[[], float],
        note: Callable[[TelemetryEvent], None],
        changed: ChangeThread,
        usage: UsageRecorder,
    ) -> None:
        message = spec.message
        self._message = message
        self.id = message.run_id
        self.user = message.user_id
        self.permissions = spec.permissions
        self.thread_id = message.thread_id
        self.correlation_id = message.correlation_id
        self.content = message.content
        self.input = spec.input
        self.attachments: Sequence[Attachment] = files.received
        self.attempt = attempt
        self.agent_name = message.agent_name
        self._posted = spec.history
        self._control = control
        self._nursery = nursery
        self.traceparent = TRACEPARENT.get()
        self._output = output
        self._files = files
        self._store = store
        self._publisher = publisher
        self._wall_clock = wall_clock
        self._note = note
        self._changed = changed
        self._usage = usage

    @property
    def deadline(self) -> float:
        """When the run ends `timed_out`, on Trio's clock; `inf` while a question is open."""
        return self._control.deadline

    @property
    def nursery(self) -> trio.Nursery:
        """A nursery for concurrent tasks. The run ends after these tasks have ended.

        Raises:
            RuntimeError: If the run has ended.
        """
        if self._output.is_closed:
            raise RuntimeError("the run has ended, and its nursery is closed")
        self._nursery.is_used = True
        return self._nursery.nursery

    @property
    def has_ended(self) -> bool:
        """Whether its end was written; then it sends nothing more."""
        return self._output.is_closed

    async def emit(self, text: str) -> None:
        """Send a piece of the answer; waits while the client does not keep up.

        A long text is sent as several events. Cancelling is safe; events that were sent stay sent.

        Raises:
            TypeError: If `text` is no string.
            ValueError: If `text` cannot be encoded as UTF-8.
            trio.ClosedResourceError: If the run has ended.
        """
        if not isinstance(text, str):
            raise TypeError(f"emit takes a str, got {type(text).__name__}")
        if not text:
            await trio.lowlevel.checkpoint()  # a loop of empty texts must not block the event loop
        elif len(text) <= PIECE_CHARACTERS:  # the usual case: a token of a model
            await self._output.append_delta(self.id, text)
        else:
            for piece in pieces(text):
                await self._output.append_delta(self.id, piece)

    async def attachment(self, file_id: FileId | str) -> Attachment:
        """Return a file of the user by its id, for example of an earlier message.

        Raises:
            FilesNotFound: If the user does not have it.
            StoreUnavailable: If the store cannot answer now.
        """
        with self._waiting("store"):
            return await self._files.find(FileId(file_id))

    async def attach(
        self, name: str, data: bytes | AsyncIterable[bytes], media_type: str | None = None
    ) -> Attachment:
        """Attach a file to the answer; its client gets it with the end of the run.

        At most 16 files, also if an earlier attempt has attached some: these are dropped. If it
        is cancelled or fails, nothing is attached.

        Args:
            name: The name for the user.
            data: The content, of at most `FILES_MAX_BYTES`; a generator is closed at the end.
            media_type: Its type; by default it is detected. It is detected too if `data` is bytes
                with an HTML page or an SVG.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the media type is not valid.
            RuntimeError: If 16 files are attached.
            FileTooLarge: If it has more than `FILES_MAX_BYTES`.
            FilesFull: If the files of the user would have more than `FILES_USER_MAX_BYTES`.
            StorageUnavailable, StoreUnavailable: If it cannot be stored now.
            trio.ClosedResourceError: If the run has ended.
        """
        if not isinstance(name, str):
            raise TypeError(f"a name is a str, got {type(name).__name__}")
        if not isinstance(data, AsyncIterable):
            check_data(data)
        if media_type is not None:
            check_media_type(media_type)
        with self._files.attaching.take():
            file = await self._store_file(data, name, media_type)
            return self._files.add(file, is_sent=False)

    async def emit_bytes(self, data: bytes, *, media_type: str) -> None:
        """Send binary data as a part of the answer; waits while the client does not keep up.

        Each call stores a file, which the answer names. So prefer few large pieces, of 32 KiB or
        more, to many small ones: at most 256 in a run. Cancelling is safe; what was sent stays
        sent.

        Args:
            data: The data, of at most `FILES_MAX_BYTES`; without any nothing is sent.
            media_type: Its type.

        Raises:
            RuntimeError: If the run has sent 256 pieces. Otherwise as `attach`.
        """
        check_data(data)
        check_media_type(media_type)
        if not data:
            await trio.lowlevel.checkpoint()
            return
        with self._files.sending.take():
            file = await self._store_file(data, "", media_type)
            event, size = binary_event(self.id, media_type, file, data)
            add = partial(self._files.add, file, is_sent=True)
            await self._output.append(event, size, add)

    async def _store_file(
        self, data: bytes | AsyncIterable[bytes], name: str, media_type: str | None
    ) -> StoredFile:
        if not isinstance(data, AsyncIterable):
            data = bytes(data)
        if self.has_ended:
            raise trio.ClosedResourceError("the run has ended")
        with self._waiting("store"):
            file = await self._files.store(data, name=name, media_type=media_type)
        if self.has_ended:
            raise trio.ClosedResourceError("the run has ended")
        return file

    async def think(
        self, thought: str, *, step: int | None = None, total: int | None = None
    ) -> None:
        """Send a thought; with a plan, it is step `step` of `total`.

        Raises:
            TypeError: If `thought` is not a string, or a step is not an integer.
            ValueError: If `thought` cannot be encoded as UTF-8, or a step exceeds 2^53 - 1.
            trio.ClosedResourceError: If the run has ended.
        """
        if not isinstance(thought, str):
            raise TypeError(f"think takes a str, got {type(thought).__name__}")
        check_step(step)
        check_step(total)
        for piece in pieces(thought):
            event = AgentThinking(self.id, piece, step, total)
            await self._output.append(event, json_size(piece))

    async def ask(
        self, prompt: str, schema: JsonObject | None = None, expires: float = EXPIRES
    ) -> Any:
        """Ask the user a question; return the answer, a value of JSON.

        The deadline of the run stands still meanwhile. While the run has eight open questions, this
        waits for one of them to be closed. Cancelling is safe: the question is closed.

        Args:
            prompt: The question, at most 8 KiB of UTF-8.
            schema: The JSON Schema (draft 2020-12) of the answer, at most 16 KiB; None for any
                answer. An answer that does not fit it is rejected.
            expires: Seconds until the question is closed without an answer, at most a day.

        Raises:
            QuestionExpired: If no user answered in time.
            TypeError: If an argument has the wrong type.
            ValueError: If one is too long, or the schema is not valid.
            RuntimeError: If the run has asked a hundred questions.
            StoreUnavailable: If the question cannot be stored now.
            trio.ClosedResourceError: If the run has ended.
        """
        closed = await self._control.questions.ask(
            QuestionKind.QUESTION, prompt, expires=expires, schema=schema
        )
        if closed.outcome is QuestionOutcome.EXPIRED:
            raise QuestionExpired(f"no answer within {expires:g} s")
        if closed.outcome is QuestionOutcome.CANCELLED:  # the run has ended without this task
            raise trio.ClosedResourceError("the run has ended")
        return closed.answer

    async def publish(self, room: str, payload: JsonObject | str) -> None:
        """Publish a `room_message` of the run's user to a room, for all its members.

        The permission of the user is not checked. Cancelling is safe; the message may have been
        published all the same.

        Args:
            room: The name of the room.
            payload: The content of the message: a text, or an object that can be encoded as JSON.

        Raises:
            TypeError: If `payload` is neither, or cannot be encoded as JSON.
            ValueError: If the name of the room is not valid, or the event has more than 256 KiB.
            BrokerUnavailable: If the broker does not answer in time.
            trio.ClosedResourceError: If the run has ended.
        """
        if self._output.is_closed:
            raise trio.ClosedResourceError("the run has ended")
        await self._publisher.publish(room, payload, user_id=self.user)

    async def usage(
        self, *, model: str, input_tokens: int, output_tokens: int, cost: float | None = None
    ) -> None:
        """Report what the run has used of a model: to the client, the metrics and the store.

        A run that exceeds a budget is cancelled here. Cancelling is safe: the report counts.

        Args:
            model: The name of the model, at most 256 bytes of UTF-8.
            input_tokens: Tokens that the model has read, from 0 to 2^53 - 1.
            output_tokens: Tokens that it has written, likewise.
            cost: What they cost, in the currency of the application; None if that is unknown.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If one is out of range.
            trio.ClosedResourceError: If the run has ended.
        """
        cost = check_usage(model, input_tokens, output_tokens, cost)
        event = AgentUsage(self.id, model, input_tokens, output_tokens, cost)
        await self._output.append(event, json_size(model))
        self._note(UsageReported(self.id, self.agent_name, input_tokens, output_tokens, cost))
        usage = Usage(
            new_usage_id(),
            self.id,
            self.user,
            self.agent_name,
            model,
            input_tokens,
            output_tokens,
            cost,
            self._wall_clock(),
        )
        with self._waiting("store"):
            await self._usage.record_usage(usage)

    def model_call(self, *, now: float | None = None) -> Wait:
        """Show the run as waiting for its language model, on the live page, in a `with` block.

        For an agent that calls a model itself; agents of `netra_trio.models` do this already. It
        does not wait.

        Args:
            now: The time on Trio's clock, in another thread.
        """
        return self._waiting("model", now=now)

    def _waiting(
        self, kind: WaitKind, *, name: str = "", call_id: str = "", now: float | None = None
    ) -> Wait:
        since = trio.current_time() if now is None else now
        return self._output.waits.begin(kind, now=since, name=name, call_id=call_id)

    @asynccontextmanager
    async def tool(
        self, name: str, /, *, approve: bool = False, **arguments: Any
    ) -> AsyncIterator[Tool]:
        """Send `tool_executing` before the block, and `tool_completed` after it.

        The block sets the `result` of the `Tool`. An exception of the block is sent as a failure
        and raised again; only the text of a `ToolError` is sent. A block that is cancelled sends no
        `tool_completed`: the end of the run ends the tool call too.

        Args:
            name: The name of the tool.
            approve: Whether to ask the user for approval first, for five minutes. The approval is
                for this tool with these arguments, and for one call.
            arguments: The arguments, which the client shows.

        Raises:
            ToolDenied: If the call was not approved; the block is not entered. Otherwise as `ask`.
            TypeError: If the name is not a string, or arguments or result cannot be encoded as
                JSON.
            ValueError: If the name is too long, or cannot be encoded as UTF-8.
            trio.ClosedResourceError: If the run has ended.
        """
        check_tool_name(name)
        if approve:
            await self._approve(name, arguments)
        call_id = new_tool_call_id()
        shown, truncated = cut_json(arguments, EVENT_BYTES)
        executing = ToolExecuting(self.id, call_id, name, Fragment(shown), truncated or None)
        await self._output.append(executing, len(shown))
        tool = Tool(name)
        started = trio.current_time()
        self._note(ToolStarted(self.id, call_id, name))

        async def complete(result: Any = None, error: str | None = None) -> None:
            shown, truncated = cut_json(result if error is None else error, EVENT_BYTES)
            event = ToolCompleted(
                self.id,
                call_id,
                name,
                error is None,
                milliseconds(trio.current_time() - started),
                Fragment(shown) if error is None else None,
                None if error is None else loads(shown),
                truncated or None,
            )
            await self._output.append(event, len(shown))

        outcome = "cut_off"
        try:
            try:
                with self._waiting("tool", name=name, call_id=call_id):
                    yield tool
                outcome = "completed"
            except Exception:
                outcome = "failed"
                raise
            finally:  # before `tool_completed` is sent, which may have to wait
                self._note(ToolEnded(call_id, outcome, trio.current_time() - started))
        except ToolError as error:
            # A file name in the text may have lone surrogates, which UTF-8 cannot encode.
            await complete(error=str(error).encode(errors="replace").decode())
            raise
        except Exception:
            await complete(error="The tool failed.")
            raise
        await complete(tool.result)

    async def _approve(self, name: str, arguments: JsonObject) -> None:
        call = ToolCall.of(name, arguments)
        if len(call.arguments) > ARGUMENTS_BYTES:
            # A user cannot approve what is not shown.
            raise ValueError(f"arguments to approve have at most {ARGUMENTS_BYTES} bytes of JSON")
        closed = await self._control.questions.ask(
            QuestionKind.APPROVAL,
            f"Allow the call of {name}?",
            expires=EXPIRES,
            call=call,
        )
        if closed.outcome is not QuestionOutcome.APPROVED:
            raise ToolDenied(name, closed.outcome)
        if ToolCall.of(name, arguments).digest != call.digest:
            raise ToolDenied(name, "changed")

    async def set_title(self, title: str) -> bool:
        """Set the title of the thread; all sessions of the user get it.

        Args:
            title: The title, not blank, at most 200 characters.

        Returns:
            Whether it was set: it does not replace a title of the user.

        Raises:
            TypeError: If `title` is not a string.
            ValueError: If it is blank or too long, or cannot be encoded as UTF-8.
            StoreUnavailable: If the store cannot answer now.
            NotStorable: If the store can never keep it.
            trio.ClosedResourceError: If the run has ended.
        """
        check_title(title)
        if self.has_ended:
            raise trio.ClosedResourceError("the run has ended")
        with self._waiting("store"):
            is_set = await self._store.set_title(self.user, self.thread_id, title, by_user=False)
        if is_set:
            self._changed(self._message, ThreadChange.RENAMED)
        return is_set

    async def history(self, limit: int = 50) -> Sequence[HistoryMessage]:
        """Return up to `limit` earlier messages of the conversation, oldest first.

        They are those of the thread; the message of this run and messages whose run has not started
        are left out. Where the client holds the conversation itself, they are the ones it sent.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        if self._posted is not None:
            await trio.lowlevel.checkpoint()
            return self._posted[max(0, len(self._posted) - limit) :]
        earlier: list[HistoryMessage] = []
        before: MessageId | None = None
        while len(earlier) < limit:
            with self._waiting("store"):
                page = await self._store.history(
                    self.user, self.thread_id, limit=limit + 1, before=before
                )
            messages, has_more = page if page is not None else ((), False)
            earlier[:0] = [message for message in messages if self._is_past(message)]
            if not has_more:
                break
            before = messages[0].message_id
        return earlier[max(0, len(earlier) - limit) :]

    def _is_past(self, message: HistoryMessage) -> bool:
        run = message.run
        return run is None or (run.run_id != self.id and run.status is not RunStatus.QUEUED)


Agent = Callable[[Run], Awaitable[Any]]
"""An agent: an async function of a `Run`; it returns the result of the run, any JSON value."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up."""
    return ceil(seconds * 1000)


def tool_arguments(arguments: JsonObject) -> JsonObject:
    """Return a model's arguments for `Run.tool`, which has a parameter `approve` of its own.

    A model must neither ask for an approval nor skip one by an argument of that name.
    """
    return {"arguments": arguments} if "approve" in arguments else arguments


def content_of(input_: JsonObject | str) -> str:
    """Return the input of an `agent_request` as text: a string as it is, an object as JSON."""
    return input_ if isinstance(input_, str) else dumps(input_).decode()
