"""Requests to the server that are not messages, and the control frames that wait to be written.

    request = requests.ask("get_thread_history", {"thread_id": "main"})
    page = await request.reply.result()

A request is sent again on each new connection until it is answered. The frames pass from the tasks
that ask to the connection's writer through a memory channel of `CONTROL_FRAMES` places.
"""

from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define, field

from netra_trio.client.errors import ClientError
from netra_trio.client.event import Event
from netra_trio.client.frames import frame_of
from netra_trio.client.outbox import MESSAGES
from netra_trio.client.reply import Reply
from netra_trio.ids import new_correlation_id

REQUESTS = 1000  # unanswered; one more waits (docs/client.md, Bounds)
TOKENS = 100  # on one connection that takes nothing: it is dropped before the client renews so many
CONTROL_FRAMES = REQUESTS + MESSAGES + TOKENS  # each run at most once has to be stopped unasked


@define(eq=False)
class Request:
    """A request that is not answered.

    Attributes:
        text: The frame.
        run_id: The run that is to be stopped, if that is the request.
        reply: The answer: an event, or None if the run has ended.
    """

    text: str
    run_id: str | None = None
    reply: Reply[Event] = field(factory=Reply)


class Requests:
    """The unanswered requests, and the control frames that wait for the writer.

    Args:
        notify: Called when there is a frame to write.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._unanswered: dict[str, Request] = {}  # by key
        self._send, self._receive = trio.open_memory_channel[str](CONTROL_FRAMES)
        self._slots = trio.Semaphore(REQUESTS)
        self._failure: ClientError | None = None

    async def ask(
        self, kind: str, payload: Mapping[str, Any], *, run_id: str | None = None
    ) -> Event | None:
        """Send a request and wait for its answer; None if the run that it stops has ended.

        Waits while `REQUESTS` others are unanswered. Cancelling is safe: the request is not sent
        again, but may have been sent.

        Raises:
            ClientError: The request was rejected, or the client ended first.
        """
        async with self._slots:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            key = new_correlation_id()
            request = Request(frame_of(kind, payload, key), run_id)
            self._unanswered[key] = request
            self.send(request.text)
            try:
                return await request.reply.result()
            finally:
                self._unanswered.pop(key, None)

    def send(self, text: str) -> None:
        """Hand a control frame to the writer; it is not repeated on the next connection."""
        self._send.send_nowait(text)
        self._notify()

    def next(self) -> str | None:
        """Return the next control frame to write; None if there is none."""
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    def begin_connection(self) -> None:
        """Begin on a new connection: each request that is not answered is sent again."""
        while self.next() is not None:
            pass
        for request in self._unanswered.values():
            self.send(request.text)

    def take(self, key: str | None) -> Request | None:
        """Return the request that an answer with this key belongs to; it is answered then."""
        return self._unanswered.pop(key or "", None)

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
