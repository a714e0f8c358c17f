"""The output of a run: its events on their way to the session, the emitted text, and the steps."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from netra_trio.agents.steps import STEP_EVENTS, Steps
from netra_trio.agents.waits import Wait, Waits
from netra_trio.ids import CorrelationId, QuestionId, RunId
from netra_trio.protocol.binary import AnyEvent
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import Event, PartialResult
from netra_trio.protocol.text import EVENT_BYTES, TextTail, cut_text, json_size
from netra_trio.stores.bounds import HISTORY_TEXT_BYTES

NEWEST_TEXT_BYTES = 192 * 1024  # of UTF-8: the maximum for a connection that begins to watch


class Outlet(Protocol):
    """Receives the events of a run: the event stream of its session."""

    def has_room(self, size: int) -> bool:
        """Whether an event of `size` bytes fits now."""
        ...

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits; cancelling is safe."""
        ...

    def append(
        self, event: AnyEvent, size: int, correlation_id: CorrelationId
    ) -> Awaitable[None] | None:
        """Append an event; the caller has checked that there is room.

        Returns:
            None, or an awaitable that waits for room in the channel to the writer.
        """
        ...

    def append_now(self, event: Event, size: int, correlation_id: CorrelationId) -> None:
        """Append an event without a check for room: the end of one of at most 100 questions."""
        ...

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        """Add an open question to the list for resuming clients."""
        ...

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        """Remove a closed question from the list for resuming clients."""
        ...


class Mirror(Protocol):
    """Receives a copy of the events of a run, because its thread is watched."""

    def confirm(self) -> None:
        """Copy the message of the run, because it is confirmed."""
        ...

    def add(self, event: AnyEvent) -> None:
        """Copy an event, without waiting."""
        ...

    def add_delta(self, text: str, size: int) -> None:
        """Copy a delta of `size` bytes of UTF-8, without waiting."""
        ...

    def end(self, completed: bytes) -> None:
        """Copy the end of the run: the payload of its `agent_completed`, as JSON."""
        ...

    def detach(self) -> None:
        """Copy no more events: the run has ended or moved, or its thread is not watched."""
        ...


class Output:
    """Sends the events of one run to the outlet, and keeps the emitted text and the steps.

    Args:
        outlet: The event stream of the session.
        correlation_id: The correlation id of the message.

    Attributes:
        mirror: Receives copies of the events; None unless the thread of the run is watched.
        waits: What the run waits for.
    """

    __slots__ = (
        "_beyond",
        "_bytes",
        "_chunks",
        "_closed",
        "_correlation_id",
        "_counted",
        "_outlet",
        "_place_counted",
        "_steps",
        "_tail",
        "mirror",
        "waits",
    )

    def __init__(self, outlet: Outlet, correlation_id: CorrelationId) -> None:
        self._outlet = outlet
        self._correlation_id = correlation_id
        self._chunks: list[str] = []
        self._bytes = 0
        self._counted = 0  # of the chunks
        self._place_counted = 0  # characters of them
        self._steps: Steps | None = None  # created for the first step, because most runs have none
        self._tail: TextTail | None = None  # of a text that is longer than a result
        self._beyond = 0  # characters after the chunks
        self.mirror: Mirror | None = None
        self.waits = Waits()
        self._closed = False

    async def append(
        self, event: AnyEvent, size: int, on_append: Callable[[], object] | None = None
    ) -> None:
        """Append an event; waits for room in the log, and for room in the channel to the writer.

        Args:
            event: The event.
            size: Its size in bytes.
            on_append: Called right before it is appended, when there is room.

        Raises:
            trio.ClosedResourceError: If the run has ended.
        """
        outlet = self._outlet
        if outlet.has_room(size):
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            with self._client_wait():
                await outlet.wait_for_room(size)
        if self._closed:
            raise trio.ClosedResourceError("the run has ended")
        if on_append is not None:
            on_append()
        if type(event) in STEP_EVENTS:
            if self._steps is None:
                self._steps = Steps()
            self._steps.note(event, self.length)
        waiting = outlet.append(event, size, self._correlation_id)
        if self.mirror is not None:
            self.mirror.add(event)
        if waiting is not None:
            with self._client_wait():
                await waiting

    def append_now(self, event: Event, size: int) -> None:
        """Append an event without waiting for room, also after the end of the run."""
        self._outlet.append_now(event, size, self._correlation_id)
        if self.mirror is not None:
            self.mirror.add(event)

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        """Add an open question to the list for resuming clients."""
        self._outlet.show_question(run_id, question)

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        """Remove a closed question from the list for resuming clients."""
        self._outlet.hide_question(run_id, question_id)

    def is_for(self, reader: object) -> bool:
        """Whether the events go to this event stream."""
        return self._outlet is reader

    async def append_delta(self, run_id: RunId, text: str) -> None:
        """Append a delta as `append` does, and keep its text for the result."""
        size = len(text) if text.isascii() else json_size(text)
        outlet = self._outlet
        if outlet.has_room(size):
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            with self._client_wait():
                await outlet.wait_for_room(size)
        if self._closed:
            raise trio.ClosedResourceError("the run has ended")
        waiting = outlet.append(PartialResult(run_id, text), size, self._correlation_id)
        if self._bytes <= EVENT_BYTES:
            self._chunks.append(text)
            self._bytes += size
        else:
            if self._tail is None:
                self._tail = TextTail(NEWEST_TEXT_BYTES, self._chunks)
            self._tail.add(text, size)
            self._beyond += len(text)
        if self.mirror is not None:
            self.mirror.add_delta(text, size)
        if waiting is not None:
            with self._client_wait():
                await waiting

    def _client_wait(self) -> Wait:
        return self.waits.begin("client", now=trio.current_time())

    @property
    def length(self) -> int:
        """The number of characters of the emitted text, counted on demand."""
        for index in range(self._counted, len(self._chunks)):
            self._place_counted += len(self._chunks[index])
        self._counted = len(self._chunks)
        return self._place_counted + self._beyond

    def close(self) -> None:
        """Refuse more events, because the end of the run is the last one."""
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        return self._closed

    @property
    def has_text(self) -> bool:
        """Whether text was emitted."""
        return bool(self._chunks)

    @property
    def text(self) -> str:
        """The emitted text, as much of it as a result may have."""
        return "".join(self._chunks)

    @property
    def newest_text(self) -> TextTail:
        """The end of the emitted text: all of it, or at least `NEWEST_TEXT_BYTES`."""
        return self._tail or TextTail(NEWEST_TEXT_BYTES, self._chunks)

    @property
    def steps(self) -> bytes | None:
        """The steps as JSON, for the history; None if there are none."""
        return None if self._steps is None else self._steps.encode()


def history_text(text: str) -> tuple[str, bool]:
    """Return the text of an agent for the history, and whether it was cut."""
    return cut_text(text, HISTORY_TEXT_BYTES)
