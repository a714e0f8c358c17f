"""The faults of a network, and when they happen.

>>> script = Script([After(2, Drop()), Every(3, HalfOpen())])
>>> [script.received(events) for events in (1, 2, 3)]
[[], [Drop()], [HalfOpen()]]
"""

from collections.abc import Iterable

from attrs import field, frozen
from attrs.validators import ge, gt


@frozen
class Drop:
    """Every open connection is cut, and both ends are told; frames in transit are lost."""


@frozen
class HalfOpen:
    """No frame is delivered on any open connection any more, and neither end is told."""


@frozen
class Delay:
    """From now on each frame is delayed, on every connection.

    Attributes:
        seconds: The delay each way; 0 ends it.
    """

    seconds: float = field(validator=ge(0))


@frozen
class Throttle:
    """From now on the throughput is limited, on every connection.

    Attributes:
        bytes_per_second: The limit each way; `math.inf` ends it.
    """

    bytes_per_second: float = field(validator=gt(0))


@frozen
class Crash:
    """The server is killed, and another one starts with the same store.

    All connections are cut, sessions and runs are lost, and none of their later writes is stored.
    An agent that shields itself from cancellation delays the next server.

    Attributes:
        seconds: How long there is no server.
    """

    seconds: float = field(default=1.0, validator=ge(0))


@frozen
class DuplicateConnect:
    """A second connection resumes the session of every open connection, as a duplicated page does.

    The server closes the connection of the client with 4409, and the client does not reconnect
    before `Client.reconnect`.
    """


Fault = Drop | HalfOpen | Delay | Throttle | Crash | DuplicateConnect


@frozen
class After:
    """Once, when clients have received so many events.

    Attributes:
        events: Numbered frames, over all connections; 0 for the first open connection.
        fault: The fault.
    """

    events: int = field(validator=ge(0))
    fault: Fault


@frozen
class Every:
    """Each time that clients have received so many more events.

    Attributes:
        events: Numbered frames, over all connections.
        fault: The fault.
    """

    events: int = field(validator=ge(1))
    fault: Fault


@frozen
class At:
    """Once, at a time.

    Attributes:
        seconds: Seconds after the network was opened.
        fault: The fault.
    """

    seconds: float = field(validator=ge(0))
    fault: Fault


Step = After | Every | At


class Script:
    """The steps that are not done.

    Attributes:
        timed: The steps that are due at a time; the caller has the clock.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        steps = tuple(steps)
        self.timed = [step for step in steps if isinstance(step, At)]
        self._every = [step for step in steps if isinstance(step, Every)]
        self._once = [step for step in steps if isinstance(step, After)]

    def opened(self, events: int) -> list[Fault]:
        """Return the faults that are due when a connection is opened after so many events."""
        due = [step for step in self._once if step.events <= events]
        self._once = [step for step in self._once if step.events > events]
        return [step.fault for step in due]

    def received(self, events: int) -> list[Fault]:
        """Return the faults that are due after one more event, `events` in all."""
        repeated = [step.fault for step in self._every if events % step.events == 0]
        return [*self.opened(events), *repeated]
