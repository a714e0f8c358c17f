"""The inbox: the memory channel from the reader of a connection to the session's agent task.

    inbox.offer(Work(message, correlation_id, received))    # in the reader; False if it is full
    inbox.offer(Adopted(spec))                              # a run that another node has left
    work = await inbox.receive()                            # in the agent task; None at the end

The channel is open while the session has an agent task. The first message opens it. It is closed
when the session is suspended or closed.
"""

import trio

from netra_trio.agents.run import RunSpec
from netra_trio.ids import CorrelationId
from netra_trio.protocol.messages import WorkMessage
from netra_trio.values import frozen

INBOX_MESSAGES = 64  # 32 waiting runs, 20 delayed messages and 8 active runs, rounded up


@frozen
class Work:
    """A message in the inbox; `received` is the time of its arrival, on Trio's clock."""

    message: WorkMessage
    correlation_id: CorrelationId | None
    received: float


@frozen
class Adopted:
    """A run that waited on another node; its message is recorded and confirmed."""

    spec: RunSpec


class Inbox:
    """The messages that wait to be admitted, in order."""

    __slots__ = ("_in", "_out", "_waiting")

    def __init__(self) -> None:
        self._in: trio.MemorySendChannel[Work | Adopted] | None = None
        self._out: trio.MemoryReceiveChannel[Work | Adopted] | None = None
        self._waiting = 0

    def __len__(self) -> int:
        """Return the number of messages in the inbox."""
        return self._waiting

    @property
    def is_open(self) -> bool:
        """Whether the channel is open."""
        return self._in is not None

    def open(self) -> None:
        """Open the channel."""
        self._in, self._out = trio.open_memory_channel(INBOX_MESSAGES)

    def offer(self, work: Work | Adopted) -> bool:
        """Send a message if there is room; return whether there was."""
        if self._in is None:
            self.open()
        assert self._in is not None  # noqa: S101 - for mypy: it has just been opened
        try:
            self._in.send_nowait(work)
        except trio.WouldBlock:
            return False
        self._waiting += 1
        return True

    async def receive(self) -> Work | Adopted | None:
        """Wait for the next message; None when the inbox is closed and empty.

        Cancelling is safe. No checkpoint if there is a message.
        """
        out = self._out
        if out is None:
            return None
        try:
            work = out.receive_nowait() if self._waiting else await out.receive()
        except trio.EndOfChannel:
            return None
        self._waiting -= 1
        return work

    def close(self) -> None:
        """Close the channel; the messages in it can still be received."""
        if self._in is not None:
            self._in.close()
            self._in = None
            if not self._waiting:
                self._out = None  # a task that waits in `receive` has its own reference
