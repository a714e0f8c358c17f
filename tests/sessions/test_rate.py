"""The rate of a user's messages: what starts, what waits for its exact turn, what is refused."""

from typing import Any

import pytest
import trio
from support.memory import EPOCH, Client, Frame, Server, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.agents.run import Run

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}  # nothing but answers on the line


async def echo(run: Run) -> str:
    return run.content


async def say(client: Client, key: str, *, thread_id: str | None = None) -> None:
    if thread_id is None:
        await client.say("hello", key)
    else:
        await client.say("hello", key, thread_id=thread_id)


async def confirmed(client: Client, key: str, *, thread_id: str | None = None) -> Frame:
    """Send a message and return the payload of its confirmation."""
    await say(client, key, thread_id=thread_id)
    frame = (await client.until("message_confirmed"))[-1]
    assert frame["correlation_id"] == key
    payload: Frame = frame["payload"]
    return payload


async def refusal(client: Client, key: str) -> Frame:
    """Send a message that is one too many; return the error's payload."""
    await say(client, key)
    frame = (await client.until("error"))[-1]
    assert frame["correlation_id"] == key
    payload: Frame = frame["payload"]
    assert payload["code"] == "RATE_LIMIT_EXCEEDED"
    assert payload["recoverable"] is True
    return payload


async def ended(client: Client, key: str) -> list[Frame]:
    """Return the frames up to the end of this message's run."""
    frames = await client.until("agent_completed")
    while frames[-1]["correlation_id"] != key:
        frames += await client.until("agent_completed")
    return frames


async def fill(client: Client, count: int = 60, *, name: str = "fill") -> None:
    """Use up the rate at second 0."""
    for number in range(count):
        await say(client, f"{name}{number}")
    await ended(client, f"{name}{count - 1}")


def starts(frames: list[Frame]) -> list[tuple[str, float]]:
    """Return which messages' runs started, and at which second."""
    return [
        (frame["correlation_id"], frame["timestamp"] - EPOCH)
        for frame in frames
        if frame["type"] == "agent_started"
    ]


async def test_sixty_start_at_once_and_twenty_wait_for_their_exact_turn(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"echo": echo}, **QUIET) as server, server.connect() as client:
        for number in range(60):  # a message every quarter of a second
            assert (await confirmed(client, f"k{number}"))["status"] == "accepted"
            await ended(client, f"k{number}")
            await trio.sleep(0.25)
        assert trio.current_time() == 15
        for number in range(20):
            told = await confirmed(client, f"w{number}")
            assert told["status"] == "queued"
            assert told["position"] == number + 1
        # The first of them starts at second 60: that is when a place for the next one comes.
        assert (await refusal(client, "w20"))["retry_after_ms"] == 45_000
        assert trio.current_time() == 15
        frames = await ended(client, "w19")
        assert starts(frames) == [(f"w{number}", 60 + number * 0.25) for number in range(20)]


async def test_a_refused_message_is_taken_after_exactly_its_wait(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"echo": echo}, **QUIET) as server, server.connect() as client:
        await fill(client)
        await trio.sleep(1)
        await confirmed(client, "w0")
        await trio.sleep(0.5)
        for number in range(1, 20):
            await confirmed(client, f"w{number}")
        wait = (await refusal(client, "late"))["retry_after_ms"]
        assert wait == 58_500
        await trio.sleep(wait / 1000 - 0.001)
        assert (await refusal(client, "late"))["retry_after_ms"] == 1
        await trio.sleep(0.001)
        assert (await confirmed(client, "late"))["status"] in {"accepted", "queued"}
        frames = await ended(client, "late")
        assert starts(frames)[-1] == ("late", 60.0)


async def test_in_any_minute_no_more_than_sixty_start(autojump_clock: MockClock) -> None:
    seen: list[Frame] = []
    async with open_server(agents={"echo": echo}, **QUIET) as server, server.connect() as client:
        last = ""
        for number in range(400):  # one each second and a bit more: beyond the rate for ever
            await say(client, f"k{number}")
            frame = await client.next()
            while frame["type"] not in {"message_confirmed", "error"}:
                seen.append(frame)
                frame = await client.next()
            if frame["type"] == "message_confirmed":
                last = frame["correlation_id"]
            await trio.sleep(0.75)
        seen += await ended(client, last)
    times = [second for _, second in starts(seen)]
    assert times == sorted(times)
    assert len(times) >= 60 * 5
    for first, later in zip(times, times[60:], strict=False):
        assert later - first >= 60


async def test_the_error_says_what_the_rate_is_and_how_long_to_wait(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {"max_message_rate": 1, "burst_queue": 0, **QUIET}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 1)
        await trio.sleep(48)
        told = await refusal(client, "k")
    assert told["error"] == "Too many messages: 1 per minute."
    assert told["help"] == "Wait 12 s and send again."
    assert told["retry_after_ms"] == 12_000


async def test_a_user_has_one_rate_over_all_connections(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **QUIET) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await fill(one, 30)
        await fill(two, 30, name="too")
        turns = []
        for number in range(20):
            client = (one, two)[number % 2]
            assert (await confirmed(client, f"w{number}"))["status"] == "queued"
            await trio.sleep(0.25)
            turns.append((client, f"w{number}"))
        assert (await refusal(one, "late"))["retry_after_ms"] == 55_000
        assert (await refusal(two, "late"))["retry_after_ms"] == 55_000
        # All sixty places become free at second 60, so that is everybody's turn.
        for client, key in turns:
            assert starts(await ended(client, key))[-1] == (key, 60.0)
        assert trio.current_time() == 60


async def test_turns_are_kept_in_order_over_all_connections(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 4, **QUIET}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        for number in range(4):
            await confirmed((one, two)[number % 2], f"k{number}")
            await trio.sleep(1)
        for number in range(6):
            await confirmed((one, two)[number % 2], f"w{number}")
        times = dict(starts(await ended(one, "w4")) + starts(await ended(two, "w5")))
    waited = {key: second for key, second in times.items() if key.startswith("w")}
    assert waited == {"w0": 60, "w1": 61, "w2": 62, "w3": 63, "w4": 120, "w5": 121}


async def test_other_users_have_their_own_rate(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **QUIET) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await fill(alice)
        for number in range(20):
            await confirmed(alice, f"w{number}")
        await refusal(alice, "late")
        for number in range(60):
            assert (await confirmed(bob, f"k{number}"))["status"] == "accepted"
        assert (await confirmed(bob, "k60"))["status"] == "queued"


async def test_the_rate_outlasts_a_reconnect(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}, **QUIET) as server:
        async with server.connect() as client:
            await fill(client)
        await trio.sleep(1)
        await others_come_and_go(server)
        async with server.connect() as client:
            for number in range(20):
                assert (await confirmed(client, f"w{number}"))["status"] == "queued"
            assert (await refusal(client, "late"))["retry_after_ms"] == 59_000


async def others_come_and_go(server: Server) -> None:
    for _ in range(5):
        async with server.connect("bob"):
            pass


@pytest.mark.parametrize(("second", "status"), [(59.999, "queued"), (60.0, "accepted")])
async def test_the_window_is_forgotten_after_a_minute(
    autojump_clock: MockClock, second: float, status: str
) -> None:
    async with open_server(agents={"echo": echo}, **QUIET) as server:
        async with server.connect() as client:
            await fill(client)
        await trio.sleep_until(autojump_clock.current_time() + second)
        async with server.connect() as client:
            assert (await confirmed(client, "k"))["status"] == status


async def test_what_waits_for_the_rate_waits_behind_its_thread_too(
    autojump_clock: MockClock,
) -> None:
    async def slow(run: Run) -> None:
        await trio.sleep(90)

    settings: dict[str, Any] = {"max_message_rate": 1, **QUIET}
    async with (
        open_server(agents={"slow": slow}, **settings) as server,
        server.connect() as client,
    ):
        await say(client, "a")
        await say(client, "b")  # its turn is at 60, its thread is free at 90
        assert starts(await ended(client, "b")) == [("a", 0.0), ("b", 90.0)]


async def test_a_message_that_waits_for_the_rate_can_be_stopped(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {"max_message_rate": 1, **QUIET}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 1)
        run_id = (await confirmed(client, "w"))["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        end = await client.expect("agent_completed")
        assert end["payload"] == {"run_id": run_id, "status": "cancelled", "duration_ms": 0}
        assert trio.current_time() == 0
        await trio.sleep(130)
        assert (await confirmed(client, "next"))["status"] == "accepted"


async def test_a_high_rate_has_no_upper_bound(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2_000, "burst_queue": 0, **QUIET}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        for number in range(2_000):
            assert (await confirmed(client, f"k{number}"))["status"] == "accepted"
            await ended(client, f"k{number}")
        assert (await refusal(client, "late"))["retry_after_ms"] == 60_000


async def test_a_duplicate_takes_no_turn_and_is_never_refused(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 4, "burst_queue": 2, **QUIET}
    async with (
        open_server(agents={"echo": echo}, **settings) as server,
        server.connect() as client,
    ):
        await fill(client, 4)
        for number in range(4):  # more than may wait
            assert (await confirmed(client, f"fill{number}"))["status"] == "duplicate"
        for number in range(2):
            assert (await confirmed(client, f"w{number}"))["status"] == "queued"
        assert (await confirmed(client, "fill0"))["status"] == "duplicate"
        await refusal(client, "late")


async def test_a_message_that_was_not_stored_takes_no_turn(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2, "burst_queue": 0, **QUIET}
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
        await refusal(client, "late")
