"""The message rate of a user: messages that start, wait for their slots, or are refused."""

from typing import Any

import pytest
import trio
from support.memory import EPOCH, Client, Frame, Server, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.agents.run import Run

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}  # no heartbeat in the tests


async def echo(run: Run) -> str:
    return run.content


async def say(client: Client, key: str, *, thread_id: str | None = None) -> None:
    if thread_id is None:
        await client.say("hello", key)
    else:
        await client.say("hello", key, thread_id=thread_id)


async def expect_confirmation(client: Client, key: str, *, thread_id: str | None = None) -> Frame:
    """Send a message and return the payload of its confirmation."""
    await say(client, key, thread_id=thread_id)
    frame = (await client.until("message_confirmed"))[-1]
    assert frame["correlation_id"] == key
    payload: Frame = frame["payload"]
    return payload


async def expect_refusal(client: Client, key: str) -> Frame:
    """Send a message that is refused; return the payload of the error."""
    await say(client, key)
    frame = (await client.until("error"))[-1]
    assert frame["correlation_id"] == key
    payload: Frame = frame["payload"]
    assert payload["code"] == "RATE_LIMIT_EXCEEDED"
    assert payload["recoverable"] is True
    return payload


async def until_end(client: Client, key: str) -> list[Frame]:
    """Return the frames up to the end of the run of this message."""
    frames = await client.until("agent_completed")
    while frames[-1]["correlation_id"] != key:
        frames += await client.until("agent_completed")
    return frames


async def fill(client: Client, count: int = 60, *, name: str = "fill") -> None:
    """Use the whole rate at second 0."""
    for number in range(count):
        await say(client, f"{name}{number}")
    await until_end(client, f"{name}{count - 1}")


def starts(frames: list[Frame]) -> list[tuple[str, float]]:
    """Return the keys of the runs that started, and the seconds of their starts."""
    return [
        (frame["correlation_id"], frame["timestamp"] - EPOCH)
        for frame in frames
        if frame["type"] == "agent_started"
    ]


async def test_sixty_messages_start_at_once_and_twenty_start_at_their_slots(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        for number in range(60):  # a message every quarter of a second
            assert (await expect_confirmation(client, f"k{number}"))["status"] == "accepted"
            await until_end(client, f"k{number}")
            await trio.sleep(0.25)
        assert trio.current_time() == 15
        for number in range(20):
            confirmed = await expect_confirmation(client, f"w{number}")
            assert confirmed["status"] == "queued"
            assert confirmed["position"] == number + 1
        # The first of them starts at second 60; then the next one can wait.
        assert (await expect_refusal(client, "w20"))["retry_after_ms"] == 45_000
        assert trio.current_time() == 15
        frames = await until_end(client, "w19")
        assert starts(frames) == [(f"w{number}", 60 + number * 0.25) for number in range(20)]


async def test_a_refused_message_is_accepted_after_the_given_wait(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await fill(client)
        await trio.sleep(1)
        await expect_confirmation(client, "w0")
        await trio.sleep(0.5)
        for number in range(1, 20):
            await expect_confirmation(client, f"w{number}")
        wait = (await expect_refusal(client, "late"))["retry_after_ms"]
        assert wait == 58_500
        await trio.sleep(wait / 1000 - 0.001)
        assert (await expect_refusal(client, "late"))["retry_after_ms"] == 1
        await trio.sleep(0.001)
        assert (await expect_confirmation(client, "late"))["status"] in {"accepted", "queued"}
        frames = await until_end(client, "late")
        assert starts(frames)[-1] == ("late", 60.0)


async def test_at_most_sixty_runs_start_in_any_minute(autojump_clock: MockClock) -> None:
    seen: list[Frame] = []
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        last = ""
        for number in range(400):  # slightly more than one each second: always beyond the rate
            await say(client, f"k{number}")
            frame = await client.next()
            while frame["type"] not in {"message_confirmed", "error"}:
                seen.append(frame)
                frame = await client.next()
            if frame["type"] == "message_confirmed":
                last = frame["correlation_id"]
            await trio.sleep(0.75)
        seen += await until_end(client, last)
    times = [second for _, second in starts(seen)]
    assert times == sorted(times)
    assert len(times) >= 60 * 5
    for first, later in zip(times, times[60:], strict=False):
        assert later - first >= 60


async def test_the_error_has_the_rate_and_the_wait(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {"max_message_rate": 1, "burst_queue": 0, **NO_HEARTBEAT}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 1)
        await trio.sleep(48)
        confirmed = await expect_refusal(client, "k")
    assert confirmed["error"] == "Too many messages: 1 per minute."
    assert confirmed["help"] == "Wait 12 s and send again."
    assert confirmed["retry_after_ms"] == 12_000


async def test_the_connections_of_a_user_share_the_rate(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await fill(one, 30)
        await fill(two, 30, name="too")
        turns = []
        for number in range(20):
            client = (one, two)[number % 2]
            assert (await expect_confirmation(client, f"w{number}"))["status"] == "queued"
            await trio.sleep(0.25)
            turns.append((client, f"w{number}"))
        assert (await expect_refusal(one, "late"))["retry_after_ms"] == 55_000
        assert (await expect_refusal(two, "late"))["retry_after_ms"] == 55_000
        # All sixty slots expire at second 60, so all waiting messages start then.
        for client, key in turns:
            assert starts(await until_end(client, key))[-1] == (key, 60.0)
        assert trio.current_time() == 60


async def test_slots_are_in_order_over_all_connections(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 4, **NO_HEARTBEAT}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        for number in range(4):
            await expect_confirmation((one, two)[number % 2], f"k{number}")
            await trio.sleep(1)
        for number in range(6):
            await expect_confirmation((one, two)[number % 2], f"w{number}")
        times = dict(starts(await until_end(one, "w4")) + starts(await until_end(two, "w5")))
    waited = {key: second for key, second in times.items() if key.startswith("w")}
    assert waited == {"w0": 60, "w1": 61, "w2": 62, "w3": 63, "w4": 120, "w5": 121}


async def test_each_user_has_a_separate_rate(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await fill(alice)
        for number in range(20):
            await expect_confirmation(alice, f"w{number}")
        await expect_refusal(alice, "late")
        for number in range(60):
            assert (await expect_confirmation(bob, f"k{number}"))["status"] == "accepted"
        assert (await expect_confirmation(bob, "k60"))["status"] == "queued"


async def test_the_rate_is_kept_over_a_reconnect(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            await fill(client)
        await trio.sleep(1)
        await open_other_users(server)
        async with server.connect() as client:
            for number in range(20):
                assert (await expect_confirmation(client, f"w{number}"))["status"] == "queued"
            assert (await expect_refusal(client, "late"))["retry_after_ms"] == 59_000


async def open_other_users(server: Server) -> None:
    for _ in range(5):
        async with server.connect("bob"):
            pass


@pytest.mark.parametrize(("second", "status"), [(59.999, "queued"), (60.0, "accepted")])
async def test_the_window_is_removed_after_a_minute(
    autojump_clock: MockClock, second: float, status: str
) -> None:
    async with open_server(agents={"echo": echo}, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            await fill(client)
        await trio.sleep_until(autojump_clock.current_time() + second)
        async with server.connect() as client:
            assert (await expect_confirmation(client, "k"))["status"] == status


async def test_a_delayed_message_also_waits_for_its_thread(
    autojump_clock: MockClock,
) -> None:
    async def slow(run: Run) -> None:
        await trio.sleep(90)

    settings: dict[str, Any] = {"max_message_rate": 1, **NO_HEARTBEAT}
    async with (
        open_server(agents={"slow": slow}, **settings) as server,
        server.connect() as client,
    ):
        await say(client, "a")
        await say(client, "b")  # its slot is at 60, its thread is free at 90
        assert starts(await until_end(client, "b")) == [("a", 0.0), ("b", 90.0)]


async def test_a_delayed_message_can_be_stopped(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {"max_message_rate": 1, **NO_HEARTBEAT}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 1)
        run_id = (await expect_confirmation(client, "w"))["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        end = await client.expect("agent_completed")
        assert end["payload"] == {"run_id": run_id, "status": "cancelled", "duration_ms": 0}
        assert trio.current_time() == 0
        await trio.sleep(130)
        assert (await expect_confirmation(client, "next"))["status"] == "accepted"


async def test_a_high_rate_can_be_configured(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2_000, "burst_queue": 0, **NO_HEARTBEAT}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        for number in range(2_000):
            assert (await expect_confirmation(client, f"k{number}"))["status"] == "accepted"
            await until_end(client, f"k{number}")
        assert (await expect_refusal(client, "late"))["retry_after_ms"] == 60_000


async def test_a_duplicate_uses_no_slot_and_is_not_refused(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 4, "burst_queue": 2, **NO_HEARTBEAT}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 4)
        for number in range(4):  # more than may wait
            assert (await expect_confirmation(client, f"fill{number}"))["status"] == "duplicate"
        for number in range(2):
            assert (await expect_confirmation(client, f"w{number}"))["status"] == "queued"
        assert (await expect_confirmation(client, "fill0"))["status"] == "duplicate"
        await expect_refusal(client, "late")


async def test_a_message_that_was_not_stored_uses_no_slot(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2, "burst_queue": 0, **NO_HEARTBEAT}
    store = ScriptedStore()
    async with (
        open_server(agents={"echo": echo}, store=store, **settings) as server,
        server.connect() as client,
    ):
        store.is_down = True
        for number in range(5):
            await say(client, f"k{number}")
            assert (await client.error())["code"] == "SERVICE_UNAVAILABLE"
        store.is_down = False
        await fill(client, 2)
        await expect_refusal(client, "late")
