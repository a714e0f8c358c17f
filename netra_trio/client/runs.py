"""The runs that are not over: events are delivered to them, and lost ends are looked up.

A run whose end may be missing is looked up by its message: the message is sent again under the same
key. The server knows the key, starts nothing, and answers with a copy of the end.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field

from netra_trio.client.errors import ClientError
from netra_trio.client.event import END, Event
from netra_trio.client.frames import frame_of
from netra_trio.client.outbox import Outbox, OutboxMessage
from netra_trio.client.requests import Requests
from netra_trio.client.run import LOST, Run
from netra_trio.ids import new_correlation_id

KEY_SECONDS = 24 * 3600.0  # how long a server keeps a key at least (docs/protocol.md)


class Tell(Protocol):
    """Delivers an event of the client itself to the readers of all events."""

    def __call__(self, kind: str, payload: Mapping[str, Any], /) -> None:
        """Deliver it."""
        ...


@define(eq=False)
class _Tracked:
    """A run that is not over, under its message; several if the key was sent several times."""

    run_id: str
    message: OutboxMessage
    confirmed_at: float  # Unix seconds
    runs: list[Run] = field(factory=list)


class Runs:
    """The runs that are not over.

    Args:
        outbox: Where messages are sent again.
        requests: Where stops are sent and answered.
        tell: Delivers events of the client itself.
        wall_clock: Returns Unix seconds.
    """

    def __init__(
        self, outbox: Outbox, requests: Requests, tell: Tell, wall_clock: Callable[[], float]
    ) -> None:
        self._outbox = outbox
        self._requests = requests
        self._tell = tell
        self._wall_clock = wall_clock
        self._tracked: dict[str, _Tracked] = {}  # by run id
        self._lookups: dict[OutboxMessage, _Tracked] = {}  # by the repeated message

    def __len__(self) -> int:
        return len(self._tracked)

    @property
    def size(self) -> int:
        """The bytes of the messages of these runs."""
        return sum(tracked.message.size for tracked in self._tracked.values())

    def track(self, run: Run, message: OutboxMessage) -> None:
        """Deliver events to a run from now on."""
        tracked = self._tracked.setdefault(
            run.run_id, _Tracked(run.run_id, message, self._wall_clock())
        )
        tracked.runs.append(run)

    def deliver(self, event: Event, size: int) -> None:
        """Deliver an event of the server to its run."""
        tracked = self._tracked.get(event.run_id or "")
        if tracked is None:
            return
        for run in tracked.runs:
            run.push(event, size)
        if event.type == END:
            del self._tracked[tracked.run_id]
            self._requests.run_ended(tracked.run_id)
            for message, looked_up in list(self._lookups.items()):
                if looked_up is tracked:  # its end came without the lookup
                    del self._lookups[message]
                    self._outbox.remove(message)

    def recover_from_gap(self, listed: list[dict[str, Any]]) -> None:
        """Deliver the server's state of each run after events were lost.

        Args:
            listed: The runs that are not over, as the server lists them; others ended in the gap.
        """
        states = {run.get("run_id"): run for run in listed}
        for tracked in list(self._tracked.values()):
            state = states.get(tracked.run_id)
            if state is None:
                self._deliver_own(tracked, "gap", {"run_id": tracked.run_id})
                self._look_up(tracked)
            else:
                self._deliver_own(tracked, "gap", state)

    def recover_from_reset(self, reason: str) -> None:
        """Tell each run that its session is gone, and look up its end."""
        for tracked in list(self._tracked.values()):
            self._deliver_own(tracked, "reset", {"run_id": tracked.run_id, "reason": reason})
            self._look_up(tracked)

    def repeat_confirmed(self, message: OutboxMessage, run_id: str) -> None:
        """Handle the confirmation of a message that was sent again."""
        tracked = self._lookups.pop(message)
        if run_id != tracked.run_id:
            # The server has forgotten the key, and started a second run. An agent must not act
            # twice on one message, so that run is stopped at once.
            self._requests.send(frame_of("stop_agent", {"run_id": run_id}, new_correlation_id()))
            self._lose(tracked, "the server has forgotten the message")

    def repeat_refused(self, message: OutboxMessage) -> None:
        """Handle the refusal of a message that was sent again."""
        self._lose(self._lookups.pop(message), "the server did not say how it ended")

    def finish(self, failure: ClientError) -> None:
        """End each run's events with an error."""
        for tracked in self._tracked.values():
            for run in tracked.runs:
                run.feed.finish(failure)

    def resume(self) -> None:
        """Continue each run's events after `finish`."""
        for tracked in self._tracked.values():
            for run in tracked.runs:
                run.feed.resume()

    def _look_up(self, tracked: _Tracked) -> None:
        """Send the message of a run again, unless its key may be forgotten.

        After a day the same message could start a second run.
        """
        if self._wall_clock() - tracked.confirmed_at > KEY_SECONDS:
            self._lose(tracked, "the server may have forgotten its key by now")
        elif all(looked_up is not tracked for looked_up in self._lookups.values()):
            sent = tracked.message
            message = OutboxMessage(sent.key, sent.text, is_repeat=True, data=sent.data)
            self._lookups[message] = tracked
            self._outbox.add_repeat(message)

    def _lose(self, tracked: _Tracked, reason: str) -> None:
        if self._tracked.pop(tracked.run_id, None) is not None:
            payload = {"run_id": tracked.run_id, "reason": reason}
            self._deliver_own(tracked, LOST, payload)
            self._tell(LOST, payload)
            self._requests.run_ended(tracked.run_id)

    def _deliver_own(self, tracked: _Tracked, kind: str, payload: dict[str, Any]) -> None:
        now = self._wall_clock()
        event = Event(kind, payload, timestamp=now, correlation_id=tracked.message.key)
        for run in tracked.runs:
            run.push(event, len(str(payload.get("content", ""))))
