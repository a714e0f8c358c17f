"""A record of what agents emitted and what clients delivered.

    trace = Trace()
    app = create_app(agents={"shout": trace.recording(shout)})
    ...
    async for event in client.events():
        trace.deliver(event)
    assert_nothing_lost(trace)

It is independent of the network: a test against a server on a real one records in the same way.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

import trio

from netra_trio.agents.run import Agent, Run
from netra_trio.client import Client, ClientError, Event, Status
from netra_trio.protocol.text import pieces

ANNOUNCED = frozenset({"gap", "reset", "lost", "lagged"})
POLL_SECONDS = 1.0  # between two polls of a client that failed, and may reconnect


class Trace:
    """A record of conversations.

    Attributes:
        emitted: The text that agents emitted, by run id.
        delivered: The events of each client in their order, by the client's name.
    """

    def __init__(self) -> None:
        self.emitted: dict[str, str] = defaultdict(str)
        self.delivered: dict[str, list[Event]] = defaultdict(list)

    @property
    def announced(self) -> list[Event]:
        """The events that announce a loss; none if nothing was lost."""
        return [
            event
            for events in self.delivered.values()
            for event in events
            if event.type in ANNOUNCED
        ]

    def recording(self, agent: Agent) -> Agent:
        """Return the agent, with the text that it emits recorded."""

        @wraps(agent)
        async def recorded(run: Run) -> Any:
            return await agent(_RecordedRun(run, self.emit))

        return recorded

    def emit(self, run_id: str, text: str) -> None:
        """Record a piece of text that the agent of a run emitted."""
        self.emitted[run_id] += text

    def deliver(self, event: Event, client: str = "client") -> None:
        """Record an event that a client delivered."""
        self.delivered[client].append(event)

    async def follow(self, client: Client, name: str) -> None:
        """Record every event of a client until it is left; it may fail and reconnect."""
        while True:
            try:
                async for event in client.events():
                    self.deliver(event, name)
            except ClientError:
                while client.status is Status.ERROR:  # noqa: ASYNC110 - there is no notification
                    await trio.sleep(POLL_SECONDS)
            else:
                return


class _RecordedRun(Run):
    """A run whose emitted text is recorded."""

    def __init__(self, run: Run, record: Callable[[str, str], None]) -> None:
        vars(self).update(vars(run))  # the same run, with one method replaced
        self._record = record

    async def emit(self, text: str) -> None:
        """Send a piece of the answer, and record the text that was sent."""
        # Piece by piece: if it is cancelled in between, the first pieces were sent.
        for piece in list(pieces(text)) or [text]:
            await super().emit(piece)
            self._record(self.id, piece)
