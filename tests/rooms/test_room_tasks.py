"""An exception in a background task of the rooms is logged, and the node continues."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.memory import open_server
from trio.testing import MockClock

from netra_trio.rooms.presence import Presence
from netra_trio.rooms.tasks import run_contained, start_contained

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def log() -> Iterator[Lines]:
    with capture_logs() as lines:
        yield lines


async def may(*_: str) -> bool:
    await trio.lowlevel.checkpoint()
    return True


async def fail(*_: object) -> None:
    await trio.lowlevel.checkpoint()
    raise LookupError("scripted")


async def test_a_failure_is_logged(log: Lines, autojump_clock: MockClock) -> None:
    await run_contained(fail, "argument")
    (line,) = [each for each in log if each["event"] == "room_task_failed"]
    assert line["task"] == "fail"
    assert line["log_level"] == "error"


async def test_a_cancellation_passes(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await run_contained(trio.sleep_forever)
    assert scope.cancelled_caught


async def test_a_task_needs_a_nursery_that_is_not_cancelled(autojump_clock: MockClock) -> None:
    ran = trio.Event()

    async def run(argument: str) -> None:
        await trio.lowlevel.checkpoint()
        assert argument == "argument"
        ran.set()

    assert not start_contained(None, run, "argument")
    async with trio.open_nursery() as nursery:
        assert start_contained(nursery, run, "argument")
        await ran.wait()
        nursery.cancel_scope.cancel()
        assert not start_contained(nursery, run, "argument")
        assert not nursery.child_tasks


async def test_members_stay_after_a_failure_of_their_presence(
    monkeypatch: pytest.MonkeyPatch, log: Lines, autojump_clock: MockClock
) -> None:
    async with (
        open_server(may=may) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await alice.send("join_room", {"room": "news"})
        await alice.expect("room_joined")
        with monkeypatch.context() as failing:
            failing.setattr(Presence, "_send_to_members", fail)
            await bob.send("join_room", {"room": "news"})
            await bob.expect("room_joined")
            await trio.sleep(1)
        assert any(each["event"] == "room_task_failed" for each in log)
        await bob.send("room_message", {"room": "news", "content": "hello"})
        event = await alice.expect("room_event")
        assert event["payload"]["event"]["payload"]["content"] == "hello"
        await bob.send("leave_room", {"room": "news"})
        await trio.sleep(11)
        left = await alice.expect("presence_changed")
        assert left["payload"]["change"] == "left"
