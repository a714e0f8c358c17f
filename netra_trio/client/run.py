"""A run as a client sees it: what `Client.send` returns.

run = await client.send("hello")
async for event in run:
    print(event.type, event.payload)
print(run.status, run.end.payload["status"])
"""

from collections.abc import Awaitable, Callable
from typing import Any

from netra_trio.client.errors import RunFailed, RunLost
from netra_trio.client.event import DELTA, END, Event
from netra_trio.client.feed import Events, Feed

LOST = "lost"
ENDS = frozenset({END, LOST})


class Run:
    """A run of an agent.

    Iterating over it gives its events up to and including `agent_completed`, or up to a `lost`
    event if its end can no longer be known (see `docs/client.md`). One task at a time may iterate;
    a second one gets `trio.BusyResourceError`. Raises `ClientError` if the client ends before the
    run does.

    Attributes:
        run_id: The run.
        message_id: The message that started it.
        thread_id: The thread that it is in.
        status: `accepted`, `queued`, or `duplicate`: the key was used for the same message before.
        correlation_id: The key of the message.
        end: The event that ended it, read or not; None before it is received.
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
        """Deliver an event; for the client."""
        if self.end is not None:
            return
        self._feed.push(event, size)
        if event.type in ENDS:
            self.end = event
            self._feed.finish()

    @property
    def feed(self) -> Feed:
        """The feed that its events go into; for the client."""
        return self._feed

    async def stop(self) -> None:
        """Ask the server to stop the run, and wait until it has ended; does nothing after its end.

        If the connection is lost, the request is sent again. Cancelling is safe; the request may
        have been sent.

        Raises:
            ClientError: The client ended first.
        """
        await self._stop(self)

    async def text(self) -> str:
        """Read the remaining events, and return their text.

        After a `gap` this is what the server has of the whole answer. If text is missing for
        another reason (`reset`, `lagged`, or the message is a `duplicate`, whose first events may
        have gone to an earlier session) and the result of the run is a text, it is the result.
        Cancelling loses what was read: iterate where that matters.

        Raises:
            ClientError: The client ended first.
        """
        pieces: list[str] = []
        is_whole = self.status != "duplicate"
        async for event in self:
            if event.type == DELTA:
                pieces.append(str(event.payload["content"]))
            elif event.type == "gap" and "content" in event.payload:
                pieces = [str(event.payload["content"])]
                is_whole = not event.payload.get("truncated", False)
            elif event.type in {"gap", "reset"} or (event.type == "lagged" and _is_cut(event)):
                is_whole = False
        result = self.end.payload.get("result") if self.end is not None else None
        return "".join(pieces) if is_whole or not isinstance(result, str) else result

    async def result(self) -> Any:
        """Read the remaining events, and return the result of the run.

        Raises:
            RunFailed: It ended with another status than `completed`.
            RunLost: Its end can no longer be known.
            ClientError: The client ended first.
        """
        async for _ in self:
            pass
        assert self.end is not None  # noqa: S101 - its end is the last event of a run
        if self.end.type == LOST:
            raise RunLost(str(self.end.payload["reason"]))
        status = str(self.end.payload["status"])
        if status != "completed":
            raise RunFailed(status, self.end.payload.get("error"))
        return self.end.payload.get("result")


def _is_cut(event: Event) -> bool:
    return bool(event.payload["cut_bytes"])
