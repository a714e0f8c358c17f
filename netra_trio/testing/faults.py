"""What may happen to a network, and when: values, and the order in which they are due.

>>> script = Script([After(2, Drop()), Every(3, HalfOpen())])
>>> [script.came(events) for events in (1, 2, 3)]
[[], [Drop()], [HalfOpen()]]
"""

from collections.abc import Iterable

from attrs import field, frozen
from attrs.validators import ge, gt


@frozen
class Drop:
    """Every open line is cut, and both ends know; what was under way is gone."""


@frozen
class HalfOpen:
    """Nothing passes on any open line any more, and neither end is told."""


@frozen
class Delay:
    """From now on frames are under way for so long, on every line.

    Attributes:
        seconds: The time each way; 0 for a network that is well again.
    """

    seconds: float = field(validator=ge(0))


@frozen
class Throttle:
    """From now on so much passes, on every line.

    Attributes:
        bytes_per_second: Each way; `math.inf` for a network that is well again.
    """

    bytes_per_second: float = field(validator=gt(0))


@frozen
class Crash:
    """The server dies like a killed process, and another one comes, with the same store.

    All lines are cut, sessions and runs are gone, and nothing that they still do is stored. An
    agent that shields itself from its cancellation keeps the next server waiting.

    Attributes:
        seconds: For which nobody answers.
    """

    seconds: float = field(default=1.0, validator=ge(0))


@frozen
class DuplicateConnect:
    """Somebody opens the session of every open line once more, as a duplicated page does.

    The server closes the line that the client has, with 4409, and the client does not come back
    before `Client.reconnect`.
    """


Fault = Drop | HalfOpen | Delay | Throttle | Crash | DuplicateConnect


@frozen
class After:
    """Once, when so many events have come to clients.

    Attributes:
        events: Numbered frames, over all lines; 0 for when the first line is open.
        fault: What happens then.
    """

    events: int = field(validator=ge(0))
    fault: Fault


@frozen
class Every:
    """Each time when so many more events have come to clients.

    Attributes:
        events: Numbered frames, over all lines.
        fault: What happens then.
    """

    events: int = field(validator=ge(1))
    fault: Fault


@frozen
class At:
    """Once, at a time.

    Attributes:
        seconds: From when the network was opened.
        fault: What happens then.
    """

    seconds: float = field(validator=ge(0))
    fault: Fault


Step = After | Every | At


class Script:
    """Steps, each of which knows when it is due.

    Attributes:
        timed: Those that wait for a time, for whoever has a clock.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        steps = tuple(steps)
        self.timed = [step for step in steps if isinstance(step, At)]
        self._every = [step for step in steps if isinstance(step, Every)]
        self._once = [step for step in steps if isinstance(step, After)]

    def opened(self, events: int) -> list[Fault]:
        """Return what is due when a line is open and so many events have come."""
        due = [step for step in self._once if step.events <= events]
        self._once = [step for step in self._once if step.events > events]
        return [step.fault for step in due]

    def came(self, events: int) -> list[Fault]:
        """Return what is due when one more event has come, so many in all."""
        repeated = [step.fault for step in self._every if events % step.events == 0]
        return [*self.opened(events), *repeated]
