"""What agents emitted and what clients delivered, for whoever compares the two.

    trace = Trace()
    app = create_app(agents={"shout": trace.recording(shout)})
    ...
    async for event in client.events():
        trace.deliver(event)
    assert_nothing_lost(trace)

It knows no network: a program that tests against a server on a real one records in the same way.
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
LOOK_SECONDS = 1.0  # between two looks at a client that failed, and may be told to reconnect


class Trace:
    """A record of conversations.

    Attributes:
        emitted: The text that agents emitted, by run id.
        delivered: The events that clients gave, each in their order, by the client's name.
    """

    def __init__(self) -> None:
        self.emitted: dict[str, str] = defaultdict(str)
        self.delivered: dict[str, list[Event]] = defaultdict(list)

    @property
    def announced(self) -> list[Event]:
        """What clients were told that is gone: nothing is the best one may hope for."""
        return [
            event
            for events in self.delivered.values()
            for event in events
            if event.type in ANNOUNCED
        ]

    def recording(self, agent: Agent) -> Agent:
        """Return the agent, with what it emits recorded."""

        @wraps(agent)
        async def recorded(run: Run) -> Any:
            return await agent(_RecordedRun(run, self.emit))

        return recorded

    def emit(self, run_id: str, text: str) -> None:
        """Record a piece of text that the agent of a run emitted."""
        self.emitted[run_id] += text

    def deliver(self, event: Event, client: str = "client") -> None:
        """Record an event that a client gave."""
        self.delivered[client].append(event)

    async def follow(self, client: Client, name: str) -> None:
        """Record every event of a client until it is left, over its failures."""
        while True:
            try:
                async for event in client.events():
                    self.deliver(event, name)
            except ClientError:
                while client.status is Status.ERROR:  # noqa: ASYNC110 - it tells nobody that it goes on
                    await trio.sleep(LOOK_SECONDS)
            else:
                return


class _RecordedRun(Run):
    """A run as its agent sees it, that tells what was emitted."""

    def __init__(self, run: Run, tell: Callable[[str, str], None]) -> None:
        vars(self).update(vars(run))  # it is that run, with one method more to it
        self._tell = tell

    async def emit(self, text: str) -> None:
        """Send a piece of the answer, and record what of it was sent."""
        for piece in list(pieces(text)) or [text]:  # cancelled in between, the first ones were sent
            await super().emit(piece)
            self._tell(self.id, piece)
