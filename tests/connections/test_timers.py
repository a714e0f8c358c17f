"""Timers of a connection: heartbeats, silence, token expiry, user checks, the send timeout."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from support.memory import EPOCH, Client, Frame, kinds, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.connections.connection import CLOSE_WAIT
from netra_trio.errors import TransportClosed
from netra_trio.ids import UserId
from netra_trio.protocol.codes import EndReason

INTERVAL = 30.0  # seconds, the default
SILENCE = 2.5 * INTERVAL
SEND_TIMEOUT = 5.0  # seconds, the default
ALICE = UserId("alice")

Received = list[tuple[float, str]]


async def record_frames(client: Client, received: Received, reply: str | None = None) -> None:
    """Record each frame with its time; reply to heartbeats with a frame of type `reply`."""
    try:
        while True:
            frame = await client.next()
            received.append((trio.current_time(), frame["type"]))
            if frame["type"] == "error":
                received[-1] = (trio.current_time(), frame["payload"]["code"])
            elif frame["type"] == "heartbeat" and reply is not None:
                await client.send(reply)
    except TransportClosed as closed:
        received.append((trio.current_time(), str(closed.code)))


@asynccontextmanager
async def recording(client: Client, reply: str | None = None) -> AsyncIterator[Received]:
    """Record frames while the block runs."""
    received: Received = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record_frames, client, received, reply)
        yield received
        nursery.cancel_scope.cancel()


def without_heartbeats(received: Received) -> Received:
    return [(time, what) for time, what in received if what != "heartbeat"]


# The heartbeat.


async def test_a_heartbeat_is_a_frame_and_a_protocol_ping(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        for number in range(1, 5):
            frame = await client.expect("heartbeat")
            assert trio.current_time() == number * INTERVAL
            assert frame["payload"] == {"server_time": EPOCH + number * INTERVAL}
            assert "seq" not in frame
            await client.send("pong")
            assert client.peer.pings == number - 1  # the protocol ping follows the frame
            await client.sync()
            assert client.peer.pings == number


@pytest.mark.parametrize("interval", [50, 1_000, 3_600_000])
async def test_the_heartbeat_interval_is_a_setting(
    autojump_clock: MockClock, interval: int
) -> None:
    async with (
        open_server(heartbeat_interval_ms=interval) as server,
        server.connect() as client,
    ):
        async with recording(client, "pong") as received:
            await trio.sleep(interval / 1000 * 3.5)
        times = [time for time, _ in received]
    assert times == pytest.approx([n * interval / 1000 for n in (1, 2, 3)])


async def test_silence_ends_the_connection_after_two_and_a_half_intervals(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client, recording(client) as received:
        await client.done.wait()
    assert received == [
        (INTERVAL, "heartbeat"),
        (2 * INTERVAL, "heartbeat"),
        (SILENCE, "4408"),
    ]
    assert client.ended is EndReason.HEARTBEAT_MISSED


@pytest.mark.parametrize(
    "frame",
    ['{"type": "pong"}', '{"type": "ack", "payload": {"seq": 0}}', "{", b"binary", None],
    ids=["pong frame", "ack", "bad frame", "binary frame", "protocol pong"],
)
async def test_any_frame_counts_as_a_reply(
    autojump_clock: MockClock, frame: str | bytes | None
) -> None:
    async with open_server() as server, server.connect() as client:
        async with recording(client) as received:
            for _ in range(3):
                await trio.sleep(SILENCE - 1)
                await (client.peer.pong() if frame is None else client.send_raw(frame))
            await client.done.wait()
        last_frame = 3 * (SILENCE - 1)
    assert received[-1] == (last_frame + SILENCE, "4408")


async def test_a_client_that_replies_to_heartbeats_stays_connected(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client:
        async with recording(client, "pong") as received:
            await trio.sleep(3600)
        assert kinds_of(received) == {"heartbeat"}
        assert len(received) in {119, 120}  # the last one is due at this moment


def kinds_of(received: Received) -> set[str]:
    return {what for _, what in received}


async def test_received_frames_do_not_delay_heartbeats(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        async with recording(client) as received:
            for _ in range(10):
                await trio.sleep(7)
                await client.send("ping")
        heartbeats = [time for time, what in received if what == "heartbeat"]
    assert heartbeats == [INTERVAL, 2 * INTERVAL]


# The token.


@asynccontextmanager
async def with_token(
    seconds: float, store: ScriptedStore | None = None
) -> AsyncIterator[tuple[Client, Received]]:
    """Open a connection with a token for so many seconds, and reply to heartbeats."""
    async with (
        open_server(store=store) as server,
        server.connect(expires_at=EPOCH + seconds) as client,
        recording(client, "pong") as received,
    ):
        yield client, received


async def test_auth_expiring_is_sent_a_minute_before_the_token_expires(
    autojump_clock: MockClock,
) -> None:
    async with with_token(200) as (client, received):
        await client.done.wait()
    assert without_heartbeats(received) == [
        (140, "auth_expiring"),
        (200, "TOKEN_EXPIRED"),
        (200, "4401"),
    ]
    assert client.ended is EndReason.TOKEN_EXPIRED


@pytest.mark.parametrize("seconds", [60, 59.5, 1])
async def test_auth_expiring_is_sent_at_once_for_a_short_token(
    autojump_clock: MockClock, seconds: float
) -> None:
    async with with_token(seconds) as (client, received):
        await client.done.wait()
    assert without_heartbeats(received) == [
        (0, "auth_expiring"),
        (seconds, "TOKEN_EXPIRED"),
        (seconds, "4401"),
    ]


async def test_auth_expiring_has_the_time_of_expiry(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(expires_at=EPOCH + 5) as client:
        frame = await client.expect("auth_expiring")
        assert frame["payload"] == {"expires_at": EPOCH + 5}
        error = await client.expect("error")
        assert error["payload"]["code"] == "TOKEN_EXPIRED"
        assert error["payload"]["recoverable"] is False


@pytest.mark.parametrize("expired_for", [0, 4, 9])
async def test_a_token_accepted_within_the_leeway_ends_with_the_leeway(
    autojump_clock: MockClock, expired_for: float
) -> None:
    async with with_token(-expired_for) as (client, received):
        await client.done.wait()
    assert without_heartbeats(received) == [
        (0, "auth_expiring"),
        (10 - expired_for, "TOKEN_EXPIRED"),
        (10 - expired_for, "4401"),
    ]


async def test_a_renewal_delays_the_warning_and_the_end(autojump_clock: MockClock) -> None:
    async with with_token(100) as (client, received):
        await trio.sleep(50)
        await client.send("auth", {"token": token(expires_at=EPOCH + 300)})
        await client.done.wait()
    assert without_heartbeats(received) == [
        (40, "auth_expiring"),
        (50, "auth_ok"),
        (240, "auth_expiring"),
        (300, "TOKEN_EXPIRED"),
        (300, "4401"),
    ]


async def test_a_renewal_with_a_shorter_token_advances_the_warning_and_the_end(
    autojump_clock: MockClock,
) -> None:
    async with with_token(1000) as (client, received):
        await trio.sleep(10)
        await client.send("auth", {"token": token(expires_at=EPOCH + 100)})
        await client.done.wait()
    assert without_heartbeats(received) == [
        (10, "auth_ok"),
        (40, "auth_expiring"),
        (100, "TOKEN_EXPIRED"),
        (100, "4401"),
    ]


async def test_a_renewal_just_before_the_end_is_accepted(autojump_clock: MockClock) -> None:
    async with with_token(100) as (client, received):
        await trio.sleep(99.5)
        await client.send("auth", {"token": token(expires_at=EPOCH + 1000)})
        await trio.sleep(100)
        assert client.ended is None
    assert without_heartbeats(received) == [(40, "auth_expiring"), (99.5, "auth_ok")]


@pytest.mark.unmeasured
async def test_an_anonymous_connection_does_not_expire(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect("nobody", anonymous=True) as client:
        async with recording(client, "pong") as received:
            await trio.sleep(4 * 3600)
        assert kinds_of(received) == {"heartbeat"}


# The user.


async def test_the_user_is_checked_every_minute(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store):
        await trio.sleep(250)
    assert store.user_checks == [60, 120, 180, 240]


@pytest.mark.parametrize(
    ("removed", "code", "seconds"),
    # The store counts what disables users, and the node looks at the count each second.
    [(False, "USER_DISABLED", 61), (True, "USER_NOT_FOUND", 120)],
)
async def test_a_disabled_or_removed_user_is_disconnected(
    autojump_clock: MockClock, *, removed: bool, code: str, seconds: int
) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, received):
        await trio.sleep(60.5)  # between two looks
        if removed:
            await store.remove_user(ALICE)
        else:
            await store.set_user_enabled(ALICE, enabled=False)
        await client.done.wait()
    assert without_heartbeats(received) == [(seconds, code), (seconds, "4403")]
    assert client.ended is EndReason.USER_DISABLED


async def test_a_user_stays_connected_while_the_store_is_unavailable(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, received):
        store.is_down = True
        await store.set_user_enabled(ALICE, enabled=False)
        await trio.sleep(190.5)
        assert without_heartbeats(received) == []
        # Each second after the change, until the store answers, and each minute.
        assert store.user_checks == sorted([*range(1, 191), 60, 120, 180])
        store.is_down = False
        await client.done.wait()
    assert without_heartbeats(received) == [(191, "USER_DISABLED"), (191, "4403")]


async def test_a_store_that_does_not_answer_does_not_delay_heartbeat_and_expiry(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with with_token(150, store) as (client, received):
        store.hold()
        await client.done.wait()
    assert received == [
        (30, "heartbeat"),
        (60, "heartbeat"),
        (90, "auth_expiring"),
        (90, "heartbeat"),
        (120, "heartbeat"),
        (150, "TOKEN_EXPIRED"),
        (150, "4401"),
    ]


async def test_silence_is_detected_while_the_store_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        store.hold()
        async with recording(client) as received:
            await client.done.wait()
    assert received[-1] == (SILENCE, "4408")


async def test_the_user_check_waits_for_a_slow_store(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, received):
        await store.set_user_enabled(ALICE, enabled=False)
        store.hold()
        await trio.sleep(60 + 2)
        store.release()
        await client.done.wait()
    assert without_heartbeats(received) == [(62, "USER_DISABLED"), (62, "4403")]


# The send timeout.


async def emit_much(run: Run) -> None:
    """Emit more than the buffers hold."""
    for _ in range(100):
        await run.emit("x" * 1000)


async def test_a_peer_that_does_not_read_is_dropped_after_the_send_timeout(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"emit_much": emit_much}) as server:
        async with server.connect(buffer_bytes=4000) as client:
            await trio.sleep(1)
            await client.say("go")
            await client.done.wait()
            assert trio.current_time() == 1 + SEND_TIMEOUT
        assert client.ended is EndReason.SEND_TIMEOUT


async def test_the_send_timeout_starts_at_the_last_progress(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"emit_much": emit_much}) as server:
        async with server.connect(buffer_bytes=4000) as client:
            await client.say("go")
            for _ in range(4):
                await trio.sleep(SEND_TIMEOUT - 0.5)
                await client.next()
            last_read = trio.current_time()
            await client.done.wait()
            assert trio.current_time() == last_read + SEND_TIMEOUT
        assert client.ended is EndReason.SEND_TIMEOUT


async def test_a_peer_that_reads_slowly_but_steadily_stays_connected(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"emit_much": emit_much}) as server,
        server.connect(buffer_bytes=4000) as client,
    ):
        await client.say("go")
        frames: list[Frame] = []
        while not frames or frames[-1]["type"] != "agent_completed":
            await trio.sleep(SEND_TIMEOUT - 1)
            frames.append(await client.next())
            await client.send("pong")
        text = "".join(
            frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
        )
        assert text == "x" * 100_000
        assert frames[-1]["payload"]["result"] == text
        assert "heartbeat" in kinds(frames)


async def test_any_read_of_the_peer_counts_as_progress(
    autojump_clock: MockClock,
) -> None:
    async def small_then_large(run: Run) -> None:
        for _ in range(20):
            await run.emit("x")
        await run.emit("y" * 3500)

    async with (
        open_server(agents={"a": small_then_large}) as server,
        server.connect(buffer_bytes=4000) as client,
    ):
        await client.say("go")
        frames = []
        for _ in range(22):  # the large event waits until most of them are read
            await trio.sleep(1)
            frames.append(await client.next())
        assert kinds(frames)[-1] == "partial_result"
        assert kinds(await client.until("agent_completed"))[-2] == "partial_result"


async def test_a_peer_that_sends_and_does_not_read_is_dropped(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        async with server.connect(buffer_bytes=4000) as client:
            with suppress(TransportClosed):
                while True:  # the pongs fill the buffer, then the reader waits for the writer
                    await client.send("ping", {"a": "x" * 100})
            await client.done.wait()
            assert trio.current_time() <= SEND_TIMEOUT + CLOSE_WAIT
        assert client.ended is EndReason.SEND_TIMEOUT
