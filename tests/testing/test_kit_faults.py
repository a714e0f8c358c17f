"""When a step of a script is due, and invalid values."""

from collections.abc import Callable
from math import inf

import pytest

from netra_trio.testing import After, At, Crash, Delay, Drop, Every, Fault, HalfOpen, Throttle
from netra_trio.testing.faults import Script


def test_after_happens_once() -> None:
    script = Script([After(2, Drop()), After(2, HalfOpen()), After(1, Delay(1))])
    assert script.opened(0) == []
    assert [script.received(events) for events in (1, 2, 3)] == [
        [Delay(1)],
        [Drop(), HalfOpen()],
        [],
    ]


def test_after_zero_events_is_when_the_connection_is_open() -> None:
    script = Script([After(0, Drop())])
    assert script.opened(0) == [Drop()]
    assert script.opened(0) == []


def test_every_is_repeated_and_not_due_when_a_connection_is_opened() -> None:
    script = Script([Every(2, Drop())])
    due = [script.received(events) for events in (1, 2, 3, 4)]
    assert due == [[], [Drop()], [], [Drop()]]
    assert script.opened(4) == []


def test_timed_steps_are_left_to_the_caller() -> None:
    script = Script([At(5, Drop())])
    assert (script.timed, script.received(5)) == ([At(5, Drop())], [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Delay(-0.1),
        lambda: Throttle(0),
        lambda: Crash(-1),
        lambda: After(-1, Drop()),
        lambda: Every(0, Drop()),
        lambda: At(-1, Drop()),
    ],
)
def test_invalid_values(make: Callable[[], Fault]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_values_at_their_limits() -> None:
    assert (Delay(0), Throttle(inf), Crash(0)) == (Delay(0.0), Throttle(inf), Crash(0.0))
    assert (After(0, Drop()), Every(1, Drop()), At(0, Drop())) is not None
