"""A run as a client sees it: what `Client.send` returns.

run = await client.send("hello")
async for event in run:
    print(event.type, event.payload)
print(run.status, run.end.payload["status"])
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import trio

from netra_trio.client.errors import ClientError, RunFailed, RunLost
from netra_trio.client.event import DELTA, END, Event
from netra_trio.client.stream import Stream

LOST = "lost"
ENDS = frozenset({END, LOST})


class Feed:
    """A stream that one reader at a time waits for.

    Args:
        readers: Where it puts itself while somebody reads it.
        wall_clock: Returns Unix seconds.
        taken: Called when the reader has taken something, or has gone.
    """

    def __init__(
        self, readers: set["Feed"], wall_clock: Callable[[], float], taken: Callable[[], object]
    ) -> None:
        self.stream = Stream()
        self._readers = readers
        self._wall_clock = wall_clock
        self._taken = taken
        self._news = trio.Event()
        self._is_over = False  # nothing more will come
        self._failure: ClientError | None = None

    def push(self, event: Event, size: int = 0) -> None:
        """Put in an event that took `size` bytes on the wire."""
        self.stream.push(event, size)
        self._tell()

    def finish(self, failure: ClientError | None = None) -> None:
        """Say that nothing more comes; the reader gets what is left, then the failure."""
        self._is_over, self._failure = True, failure
        self._tell()

    def resume(self) -> None:
        """Say that more comes after all."""
        self._is_over, self._failure = False, None

    def enter(self) -> None:
        """Begin to read.

        Raises:
            trio.BusyResourceError: There is a reader already.
        """
        if self in self._readers:
            raise trio.BusyResourceError("another task reads these events")
        self._readers.add(self)
        self.stream.begin()

    def leave(self) -> None:
        """Read no longer."""
        self._readers.discard(self)
        self.stream.end()
        self._taken()

    async def next(self) -> Event | None:
        """Wait for the next event; None after the last one.

        Raises:
            ClientError: What `finish` was given.
        """
        await trio.lowlevel.checkpoint()
        while True:
            event = self.stream.pop(self._wall_clock())
            if event is not None:
                self._taken()
                return event
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if self._is_over:
                return None
            self._news = trio.Event()
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()


class Events(AsyncIterator[Event]):
    """One reader's way through events; it begins with the first event that it asks for.

    Leaving the loop, by `break` or an exception, ends it: what comes then is put together as if
    nobody read, and another loop goes on from there. Cancelling is safe: no event is lost.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._is_in = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._is_in:
            self._feed.enter()
            self._is_in = True
        try:
            event = await self._feed.next()
        except ClientError:
            self.close()
            raise
        if event is None:
            self.close()
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """Read no longer; doing so twice is fine."""
        if self._is_in:
            self._is_in = False
            self._feed.leave()

    def __del__(self) -> None:
        # A `break` leaves nothing behind but this object, and nobody else would let go of the
        # acknowledgements: the server would stop sending after a thousand events.
        with contextlib.suppress(RuntimeError):  # where the collector runs in a thread of its own
            self.close()


class Run:
    """A run of an agent.

    Iterating over it gives its events up to and with `agent_completed`, or up to a `lost` event
    where its end cannot be known any more (see `docs/client.md`). One task at a time may iterate; a
    second one gets `trio.BusyResourceError`. Raises `ClientError` when the client ends before the
    run does.

    Attributes:
        run_id: The run.
        message_id: The message that asked for it.
        thread_id: The thread that it is in.
        status: `accepted`, `queued`, or `duplicate`: the key had been used for the same before.
        correlation_id: The key of the message.
        end: The event that ended it, once it has come in, read or not; None before.
    """

    def __init__(
        self,
        confirmed: Event,
        feed: Feed,
        stop: Callable[["Run"], Awaitable[None]],
    ) -> None:
        payload = confirmed.payload
        self.run_id: str = payload["run_id"]
        self.message_id: str = payload["message_id"]
        self.thread_id: str = payload["thread_id"]
        self.status: str = payload["status"]
        self.correlation_id: str = confirmed.correlation_id or ""
        self.end: Event | None = None
        self._feed = feed
        self._stop = stop

    def __repr__(self) -> str:
        return f"<Run {self.run_id} {self.status}>"

    def __aiter__(self) -> Events:
        return Events(self._feed)

    def push(self, event: Event, size: int = 0) -> None:
        """Take in an event; for the client."""
        if self.end is not None:
            return
        self._feed.push(event, size)
        if event.type in ENDS:
            self.end = event
            self._feed.finish()

    @property
    def feed(self) -> Feed:
        """Where its events wait; for the client."""
        return self._feed

    async def stop(self) -> None:
        """Ask the server to stop it, and wait until it has ended; nothing if it has.

        Over a lost connection it is asked again. Cancelling is safe; the
        server may have been asked.

        Raises:
            ClientError: The client ended first.
        """
        await self._stop(self)

    async def text(self) -> str:
        """Read the events that are left, and return the text in them.

        After a `gap` that is what the server has of the whole answer. Where text went missing
        otherwise (`reset`, `lagged`) and the run has a text as result, it is that. Cancelling loses
        what was read: iterate where that matters.

        Raises:
            ClientError: The client ended first.
        """
        pieces: list[str] = []
        is_whole = True
        async for event in self:
            if event.type == DELTA:
                pieces.append(str(event.payload["content"]))
            elif event.type == "gap" and "content" in event.payload:
                pieces = [str(event.payload["content"])]
                is_whole = not event.payload.get("truncated", False)
            elif event.type in {"gap", "reset"} or (event.type == "lagged" and _has_cut(event)):
                is_whole = False
        result = self.end.payload.get("result") if self.end is not None else None
        return "".join(pieces) if is_whole or not isinstance(result, str) else result

    async def result(self) -> Any:
        """Read the events that are left, and return the result of the run.

        Raises:
            RunFailed: It ended otherwise than `completed`.
            RunLost: Its end cannot be known any more.
            ClientError: The client ended first.
        """
        async for _ in self:
            pass
        assert self.end is not None  # noqa: S101 - a run's events end with it
        if self.end.type == LOST:
            raise RunLost(str(self.end.payload["reason"]))
        status = str(self.end.payload["status"])
        if status != "completed":
            raise RunFailed(status, self.end.payload.get("error"))
        return self.end.payload.get("result")


def _has_cut(event: Event) -> bool:
    return bool(event.payload["cut_bytes"])
