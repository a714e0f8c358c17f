"""The joint between the connection's reader and a task that iterates over events.

    feed.push(event, size)      # the connection's reader, without waiting
    event = await feed.next()   # the task that iterates

While a task iterates, events pass through a memory channel of `READ_EVENTS` places, each as it
came, and `held_from` is the first number that must not be acknowledged yet: the server's log fills,
and the agent waits. While no task iterates, events go into a `Backlog`, which merges and bounds
them.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Self

import trio

from netra_trio.client.backlog import BYTES, Backlog
from netra_trio.client.errors import ClientError
from netra_trio.client.event import Event

READ_EVENTS = 8192  # eight full logs of a server, so a few resumes; it bounds memory


class Feed:
    """Events for one reader at a time.

    Args:
        readers: The feeds that are being read; the feed adds itself while a task iterates.
        wall_clock: Returns Unix seconds.
        on_taken: Called when the reader has taken an event, or has stopped reading.
    """

    def __init__(
        self, readers: set["Feed"], wall_clock: Callable[[], float], on_taken: Callable[[], object]
    ) -> None:
        self._readers = readers
        self._wall_clock = wall_clock
        self._on_taken = on_taken
        self._backlog = Backlog()
        self._channel: _Channel | None = None  # while a task iterates
        self._is_finished = False
        self._failure: ClientError | None = None

    def __len__(self) -> int:
        return len(self._backlog) + (0 if self._channel is None else self._channel.count)

    @property
    def held_from(self) -> int | None:
        """The oldest number that a task which iterates has not taken yet."""
        return None if self._channel is None else self._channel.held_from

    @property
    def is_finished(self) -> bool:
        """Whether no more events follow, unless `resume` is called."""
        return self._is_finished

    @property
    def dropped(self) -> int:
        """How many events were dropped since the last `lagged`."""
        return self._backlog.dropped

    @property
    def cut(self) -> int:
        """How many bytes of text were cut since the last `lagged`."""
        return self._backlog.cut

    def push(self, event: Event, size: int = 0) -> None:
        """Append an event that took `size` bytes on the wire; never waits."""
        if self._channel is None:
            self._backlog.push(event, size)
            return
        while self._is_full(self._channel, size):
            if self._backlog.others:
                self._backlog.drop_oldest()
                continue
            try:
                self._channel.take()
            except trio.WouldBlock:  # the only event has been handed to the reader
                break
            self._backlog.dropped += 1
        self._channel.put(event, size)

    def pop(self) -> Event | None:
        """Return the next event without waiting; None if there is none."""
        backlog = self._backlog
        if backlog.dropped or backlog.cut:
            payload = {"dropped": backlog.dropped, "cut_bytes": backlog.cut}
            backlog.dropped = backlog.cut = 0
            return Event("lagged", payload, timestamp=self._wall_clock())
        event = backlog.pop()
        if event is None and self._channel is not None:
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                event = self._channel.take()
        return event

    def clear(self) -> None:
        """Drop all events, and the record of dropped ones."""
        self._backlog = Backlog()
        if self._channel is not None:
            self._channel.clear()

    def finish(self, failure: ClientError | None = None) -> None:
        """End the feed: the reader gets the rest, then the failure."""
        self._is_finished, self._failure = True, failure
        if self._channel is not None:
            self._channel.close()

    def resume(self) -> None:
        """Continue a feed that was finished."""
        self._is_finished, self._failure = False, None
        if self._channel is not None:
            self._channel = self._channel.reopened()

    def enter(self) -> None:
        """Begin to read: from now on events are held for the reader.

        Raises:
            trio.BusyResourceError: Another task reads.
        """
        if self._channel is not None:
            raise trio.BusyResourceError("another task reads these events")
        self._channel = _Channel()
        self._readers.add(self)
        if self._is_finished:
            self._channel.close()

    def leave(self) -> None:
        """Stop reading: the remaining events are merged and bounded as if no task read."""
        channel, self._channel = self._channel, None
        self._readers.discard(self)
        for event, size in () if channel is None else channel.drain():
            self._backlog.push(event, size)
        self._on_taken()

    async def next(self) -> Event | None:
        """Wait for the next event; None after the last one. Cancelling is safe.

        Raises:
            ClientError: The failure that `finish` was given.
        """
        await trio.lowlevel.checkpoint()
        event = self.pop()
        while event is None:
            channel = self._channel
            assert channel is not None  # noqa: S101 - the reader has entered
            try:
                event = await channel.receive()
            except trio.EndOfChannel:
                if channel is not self._channel:  # finished and resumed in the meantime
                    event = self.pop()
                    continue
                if self._failure is not None:
                    raise self._failure.with_traceback(None) from None
                return None
        self._on_taken()
        return event

    def _is_full(self, channel: "_Channel", size: int) -> bool:
        count = self._backlog.others + channel.count
        return count >= READ_EVENTS or (
            count > 0 and self._backlog.size + channel.size + size > BYTES
        )


class _Channel:
    """A memory channel that knows its oldest number and its bytes.

    Attributes:
        count: How many events were sent and not taken; one on its way to the reader counts.
        size: Their bytes.
        held_from: The oldest number that was not taken; after a take, the number after it.
    """

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[Event, int]](READ_EVENTS)
        self.count = 0
        self.size = 0
        self.held_from: int | None = None

    def put(self, event: Event, size: int) -> None:
        self._send.send_nowait((event, size))
        self.count += 1
        self.size += size
        if self.held_from is None:
            self.held_from = event.first

    def take(self) -> Event:
        """Return the oldest event.

        Raises:
            trio.WouldBlock: There is none.
            trio.EndOfChannel: There is none, and the channel is closed.
        """
        return self._taken(*self._receive.receive_nowait())

    async def receive(self) -> Event:
        """Wait for the oldest event.

        Raises:
            trio.EndOfChannel: There is none, and the channel is closed.
        """
        return self._taken(*await self._receive.receive())

    def close(self) -> None:
        self._send.close()

    def clear(self) -> None:
        self.drain()
        self.count = self.size = 0
        self.held_from = None

    def drain(self) -> list[tuple[Event, int]]:
        left = []
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                left.append(self._receive.receive_nowait())
        return left

    def reopened(self) -> "_Channel":
        """Return an open channel with the same events."""
        channel = _Channel()
        for event, size in self.drain():
            channel.put(event, size)
        return channel

    def _taken(self, event: Event, size: int) -> Event:
        self.count -= 1
        self.size -= size
        if not self.count:
            self.held_from = None
        elif event.seq is not None:
            self.held_from = event.seq + 1
        return event


class Events(AsyncIterator[Event]):
    """An iteration over events; it begins with the first event that is asked for.

    Leaving the loop, by `break` or an exception, ends the iteration: events that come afterwards
    are merged as if no task read, and another loop continues from there. Cancelling is safe: no
    event is lost.

    Args:
        feed: The events.
        note: Called with each event before the iteration returns it.
    """

    def __init__(self, feed: Feed, note: Callable[[Event], None] | None = None) -> None:
        self._feed = feed
        self._note = note
        self._has_entered = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._has_entered:
            self._feed.enter()
            self._has_entered = True
        try:
            event = await self._feed.next()
        except ClientError:
            self.close()
            raise
        if event is None:
            self.close()
            raise StopAsyncIteration
        if self._note is not None:
            self._note(event)
        return event

    def close(self) -> None:
        """Stop reading; may be called more than once."""
        if self._has_entered:
            self._has_entered = False
            self._feed.leave()

    def __del__(self) -> None:
        # After a `break` only the end of this object can release the acknowledgements: without
        # that, the server would stop sending after a thousand events.
        with contextlib.suppress(RuntimeError):  # if the collector runs in another thread
            self.close()
