"""Requests to the server that are not messages, and the control frames that wait to be written.

    request = requests.ask("get_thread_history", {"thread_id": "main"})
    page = await request.reply.result()

A request is sent again on each new connection until it is answered. The frames pass from the tasks
that ask to the connection's writer through a memory channel of `CONTROL_FRAMES` places.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define, field

from netra_trio.client.errors import ClientError, MessageRefused, MessageUncertain
from netra_trio.client.event import Event
from netra_trio.client.frames import frame_of
from netra_trio.client.outbox import MESSAGES
from netra_trio.client.refusals import TEMPORARY, wait_seconds
from netra_trio.client.reply import Reply
from netra_trio.ids import new_correlation_id

REQUESTS = 1000  # unanswered; one more waits (docs/client.md, Bounds)
TOKENS = 100  # on one connection that takes nothing: it is dropped before the client renews so many
ANSWER = "answer"  # the type of an answer to a question
CONTROL_FRAMES = REQUESTS + MESSAGES + TOKENS  # each run at most once has to be stopped unasked


@define(eq=False)
class Request:
    """A request that is not answered.

    Attributes:
        text: The frame.
        payload: Its payload.
        run_id: The run that is to be stopped, if that is the request.
        is_answer: Whether it answers a question of an agent.
        key_seconds: How long the server keeps its key; None if the request may be repeated at any
            time.
        written_at: When it was first written, on Trio's clock.
        reply: The answer: an event, or None if the run has ended.
    """

    text: str
    payload: Mapping[str, Any]
    run_id: str | None = None
    is_answer: bool = False
    key_seconds: float | None = None
    written_at: float | None = None
    reply: Reply[Event] = field(factory=Reply)

    def is_settled_by(self, closed: Event) -> bool:
        """Return whether a question was closed by this answer, or by one that says the same."""
        payload, outcome = self.payload, closed.payload.get("outcome")
        if not self.is_answer or payload["question_id"] != closed.payload.get("question_id"):
            return False
        if payload["approve"] is None:
            return outcome == "answered" and payload["answer"] == closed.payload.get("answer")
        return outcome == ("approved" if payload["approve"] else "denied")

    def is_forgotten(self, now: float) -> bool:
        """Return whether the server may have forgotten the key of this request."""
        if self.key_seconds is None or self.written_at is None:
            return False
        return now - self.written_at >= self.key_seconds


class Requests:
    """The unanswered requests, and the control frames that wait for the writer.

    Args:
        notify: Called when there is a frame to write.
        note_sent: Called when an answer to a question or a message to a room is written first.
    """

    def __init__(self, notify: Callable[[], None], note_sent: Callable[[], None]) -> None:
        self._notify = notify
        self._note_sent = note_sent
        self._unanswered: dict[str, Request] = {}  # by key
        self._held: list[Request] = []  # sent again when the replay of the connection is complete
        self._send, self._receive = trio.open_memory_channel[str | Request](CONTROL_FRAMES)
        self._slots = trio.Semaphore(REQUESTS)
        self._failure: ClientError | None = None

    async def ask(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        key: str | None = None,
        key_seconds: float | None = None,
        run_id: str | None = None,
    ) -> Event | None:
        """Send a request and wait for its answer; None if the run that it stops has ended.

        Waits while `REQUESTS` others are unanswered, and while another one has the same key.
        Cancelling is safe: the request is not sent again, but may have been sent.

        Args:
            kind: Its type.
            payload: Its payload.
            key: Its correlation id; a new one if None.
            key_seconds: How long the server keeps the key; without it, the request may be repeated
                at any time.
            run_id: The run that it stops.

        Raises:
            MessageUncertain: No answer came, and the server has forgotten the key.
            ClientError: The request was rejected, or the client ended first.
        """
        key = new_correlation_id() if key is None else key
        async with self._slots:
            while (other := self._unanswered.get(key)) is not None:
                await other.reply.settled.wait()
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            text = frame_of(kind, payload, key)
            is_answer = kind == ANSWER
            request = Request(text, payload, run_id, is_answer=is_answer, key_seconds=key_seconds)
            self._unanswered[key] = request
            self.send(request)
            try:
                return await request.reply.result()
            finally:
                if self._unanswered.get(key) is request:
                    del self._unanswered[key]
                    request.reply.settled.set()  # cancelled: continue one that waits for the key

    async def ask_again(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        key: str | None = None,
        key_seconds: float | None = None,
    ) -> Event:
        """Like `ask`, but repeat the request after a temporary error."""
        key = new_correlation_id() if key is None else key
        refusals = 0
        while True:
            try:
                answer = await self.ask(kind, payload, key=key, key_seconds=key_seconds)
            except MessageRefused as refused:
                if refused.code not in TEMPORARY:
                    raise
                wait = wait_seconds(refused.retry_after_ms, refusals)
            else:
                assert answer is not None  # noqa: S101 - it stops no run
                return answer
            refusals += 1
            await trio.sleep(wait)

    def send(self, frame: "str | Request") -> None:
        """Hand a control frame to the writer; a text is not repeated on the next connection."""
        self._send.send_nowait(frame)
        self._notify()

    def next(self, now: float) -> str | None:
        """Return the next control frame to write; None if there is none."""
        try:
            frame = self._receive.receive_nowait()
        except trio.WouldBlock:
            return None
        if isinstance(frame, str):
            return frame
        if frame.written_at is None:
            frame.written_at = now
            if frame.is_answer or frame.key_seconds is not None:
                self._note_sent()
        return frame.text

    def begin_connection(self, now: float, *, is_replayed: bool) -> None:
        """Begin on a new connection: each request that is not answered is sent again.

        Args:
            now: The present time on Trio's clock.
            is_replayed: Whether a replay follows: it may show that an answer has arrived, which
                would be rejected if it were sent again. So answers wait for the end of the replay.
        """
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._receive.receive_nowait()
        self._held.clear()
        for key, request in list(self._unanswered.items()):
            if request.is_forgotten(now):
                del self._unanswered[key]
                text = f"no answer within the {request.key_seconds:g} s that the server keeps a key"
                request.reply.settle(failure=MessageUncertain(text, key=key))
            elif is_replayed and request.is_answer:
                self._held.append(request)
            else:
                self.send(request)

    def end_replay(self) -> None:
        """Send the answers that the replay has not shown to have arrived."""
        held, self._held = self._held, []
        for request in held:
            if request in self._unanswered.values():
                self.send(request)

    def take(self, key: str | None) -> Request | None:
        """Return the request that an answer with this key belongs to; it is answered then."""
        return self._unanswered.pop(key or "", None)

    def question_closed(self, closed: Event) -> None:
        """Settle the answers that have closed a question."""
        for key, request in list(self._unanswered.items()):
            if request.is_settled_by(closed):
                del self._unanswered[key]
                request.reply.settle(closed)

    def run_ended(self, run_id: str) -> None:
        """Answer the requests to stop this run."""
        for key, request in list(self._unanswered.items()):
            if request.run_id == run_id:
                del self._unanswered[key]
                request.reply.settle()

    def fail(self, failure: ClientError) -> None:
        """Fail every request, and those that wait to be sent."""
        self._failure = failure
        for request in self._unanswered.values():
            request.reply.settle(failure=failure)
        self._unanswered.clear()

    def resume(self) -> None:
        """Accept requests again after `fail`."""
        self._failure = None
