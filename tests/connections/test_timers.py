"""What time does to a connection: beats, silence, the token's end, the user, the send timeout."""

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

Heard = list[tuple[float, str]]


async def listen(client: Client, heard: Heard, answer: str | None = None) -> None:
    """Note when each frame came; answer every heartbeat, if so wished."""
    try:
        while True:
            frame = await client.next()
            heard.append((trio.current_time(), frame["type"]))
            if frame["type"] == "error":
                heard[-1] = (trio.current_time(), frame["payload"]["code"])
            elif frame["type"] == "heartbeat" and answer is not None:
                await client.send(answer)
    except TransportClosed as closed:
        heard.append((trio.current_time(), str(closed.code)))


@asynccontextmanager
async def listening(client: Client, answer: str | None = None) -> AsyncIterator[Heard]:
    """Listen while the block runs."""
    heard: Heard = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, client, heard, answer)
        yield heard
        nursery.cancel_scope.cancel()


def without_beats(heard: Heard) -> Heard:
    return [(time, what) for time, what in heard if what != "heartbeat"]


# The heartbeat.


async def test_a_beat_is_a_frame_and_a_protocol_ping(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        for beat in range(1, 5):
            frame = await client.expect("heartbeat")
            assert trio.current_time() == beat * INTERVAL
            assert frame["payload"] == {"server_time": EPOCH + beat * INTERVAL}
            assert "seq" not in frame
            await client.send("pong")
            assert client.line.pings == beat - 1  # it comes right behind
            await client.sync()
            assert client.line.pings == beat


@pytest.mark.parametrize("interval", [50, 1_000, 3_600_000])
async def test_the_interval_can_be_set(autojump_clock: MockClock, interval: int) -> None:
    async with (
        open_server(heartbeat_interval_ms=interval) as server,
        server.connect() as client,
    ):
        async with listening(client, "pong") as heard:
            await trio.sleep(interval / 1000 * 3.5)
        times = [time for time, _ in heard]
    assert times == pytest.approx([n * interval / 1000 for n in (1, 2, 3)])


async def test_silence_ends_it_after_exactly_two_and_a_half_intervals(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client, listening(client) as heard:
        await client.done.wait()
    assert heard == [
        (INTERVAL, "heartbeat"),
        (2 * INTERVAL, "heartbeat"),
        (SILENCE, "4408"),
    ]
    assert client.ended is EndReason.HEARTBEAT_MISSED


@pytest.mark.parametrize(
    "sign",
    ['{"type": "pong"}', '{"type": "ack", "payload": {"seq": 0}}', "{", b"binary", None],
    ids=["pong frame", "ack", "bad frame", "binary frame", "protocol pong"],
)
async def test_any_frame_is_a_sign_of_life(
    autojump_clock: MockClock, sign: str | bytes | None
) -> None:
    async with open_server() as server, server.connect() as client:
        async with listening(client) as heard:
            for _ in range(3):
                await trio.sleep(SILENCE - 1)
                await (client.line.pong() if sign is None else client.send_raw(sign))
            await client.done.wait()
        last_sign = 3 * (SILENCE - 1)
    assert heard[-1] == (last_sign + SILENCE, "4408")


async def test_a_client_that_answers_heartbeats_stays(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        async with listening(client, "pong") as heard:
            await trio.sleep(3600)
        assert kinds_of(heard) == {"heartbeat"}
        assert len(heard) in {119, 120}  # the last one is due right now


def kinds_of(heard: Heard) -> set[str]:
    return {what for _, what in heard}


async def test_messages_do_not_shift_the_beat(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        async with listening(client) as heard:
            for _ in range(10):
                await trio.sleep(7)
                await client.send("ping")
        beats = [time for time, what in heard if what == "heartbeat"]
    assert beats == [INTERVAL, 2 * INTERVAL]


# The token.


@asynccontextmanager
async def with_token(
    life: float, store: ScriptedStore | None = None
) -> AsyncIterator[tuple[Client, Heard]]:
    """Open a connection whose token ends in `life` seconds, with a client that answers beats."""
    async with (
        open_server(store=store) as server,
        server.connect(expires_at=EPOCH + life) as client,
        listening(client, "pong") as heard,
    ):
        yield client, heard


async def test_a_warning_comes_a_minute_before_and_the_end_on_time(
    autojump_clock: MockClock,
) -> None:
    async with with_token(200) as (client, heard):
        await client.done.wait()
    assert without_beats(heard) == [
        (140, "auth_expiring"),
        (200, "TOKEN_EXPIRED"),
        (200, "4401"),
    ]
    assert client.ended is EndReason.TOKEN_EXPIRED


@pytest.mark.parametrize("life", [60, 59.5, 1])
async def test_a_short_token_is_warned_of_at_once(autojump_clock: MockClock, life: float) -> None:
    async with with_token(life) as (client, heard):
        await client.done.wait()
    assert without_beats(heard) == [
        (0, "auth_expiring"),
        (life, "TOKEN_EXPIRED"),
        (life, "4401"),
    ]


async def test_the_warning_says_when(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(expires_at=EPOCH + 5) as client:
        frame = await client.expect("auth_expiring")
        assert frame["payload"] == {"expires_at": EPOCH + 5}
        error = await client.expect("error")
        assert error["payload"]["code"] == "TOKEN_EXPIRED"
        assert error["payload"]["recoverable"] is False


@pytest.mark.parametrize("ago", [0, 4, 9])
async def test_a_token_let_in_within_the_leeway_ends_with_it(
    autojump_clock: MockClock, ago: float
) -> None:
    async with with_token(-ago) as (client, heard):
        await client.done.wait()
    assert without_beats(heard) == [
        (0, "auth_expiring"),
        (10 - ago, "TOKEN_EXPIRED"),
        (10 - ago, "4401"),
    ]


async def test_a_renewal_moves_warning_and_end(autojump_clock: MockClock) -> None:
    async with with_token(100) as (client, heard):
        await trio.sleep(50)
        await client.send("auth", {"token": token(expires_at=EPOCH + 300)})
        await client.done.wait()
    assert without_beats(heard) == [
        (40, "auth_expiring"),
        (50, "auth_ok"),
        (240, "auth_expiring"),
        (300, "TOKEN_EXPIRED"),
        (300, "4401"),
    ]


async def test_a_renewal_by_a_shorter_token_moves_them_too(autojump_clock: MockClock) -> None:
    async with with_token(1000) as (client, heard):
        await trio.sleep(10)
        await client.send("auth", {"token": token(expires_at=EPOCH + 100)})
        await client.done.wait()
    assert without_beats(heard) == [
        (10, "auth_ok"),
        (40, "auth_expiring"),
        (100, "TOKEN_EXPIRED"),
        (100, "4401"),
    ]


async def test_a_renewal_at_the_last_moment_holds(autojump_clock: MockClock) -> None:
    async with with_token(100) as (client, heard):
        await trio.sleep(99.5)
        await client.send("auth", {"token": token(expires_at=EPOCH + 1000)})
        await trio.sleep(100)
        assert client.ended is None
    assert without_beats(heard) == [(40, "auth_expiring"), (99.5, "auth_ok")]


async def test_an_anonymous_connection_has_no_end(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect("nobody", anonymous=True) as client:
        async with listening(client, "pong") as heard:
            await trio.sleep(24 * 3600)
        assert kinds_of(heard) == {"heartbeat"}


# The user.


async def test_the_user_is_looked_at_every_minute(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store):
        await trio.sleep(250)
    assert store.looks == [60, 120, 180, 240]


@pytest.mark.parametrize(("removed", "code"), [(False, "USER_DISABLED"), (True, "USER_NOT_FOUND")])
async def test_a_user_who_may_no_longer_be_here_goes(
    autojump_clock: MockClock, *, removed: bool, code: str
) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, heard):
        await trio.sleep(61)
        if removed:
            await store.remove_user(ALICE)
        else:
            await store.set_user_enabled(ALICE, enabled=False)
        await client.done.wait()
    assert without_beats(heard) == [(120, code), (120, "4403")]
    assert client.ended is EndReason.USER_DISABLED


async def test_a_user_stays_while_the_store_is_down(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, heard):
        store.is_down = True
        await store.set_user_enabled(ALICE, enabled=False)
        await trio.sleep(190)
        assert without_beats(heard) == []
        assert store.looks == [60, 120, 180]
        store.is_down = False
        await client.done.wait()
    assert without_beats(heard) == [(240, "USER_DISABLED"), (240, "4403")]


async def test_a_store_that_does_not_answer_stops_no_other_clock(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with with_token(150, store) as (client, heard):
        store.hold()
        await client.done.wait()
    assert heard == [
        (30, "heartbeat"),
        (60, "heartbeat"),
        (90, "auth_expiring"),
        (90, "heartbeat"),
        (120, "heartbeat"),
        (150, "TOKEN_EXPIRED"),
        (150, "4401"),
    ]


async def test_silence_is_noticed_while_the_store_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        store.hold()
        async with listening(client) as heard:
            await client.done.wait()
    assert heard[-1] == (SILENCE, "4408")


async def test_a_slow_store_is_waited_for(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with with_token(1e6, store) as (client, heard):
        await store.set_user_enabled(ALICE, enabled=False)
        store.hold()
        await trio.sleep(60 + 2)
        store.release()
        await client.done.wait()
    assert without_beats(heard) == [(62, "USER_DISABLED"), (62, "4403")]


# The send timeout.


async def flood(run: Run) -> None:
    """Say more than any buffer holds."""
    for _ in range(100):
        await run.emit("x" * 1000)


async def test_a_peer_that_stops_reading_is_given_up(autojump_clock: MockClock) -> None:
    async with open_server(agents={"flood": flood}) as server:
        async with server.connect(buffer_bytes=4000) as client:
            await trio.sleep(1)
            await client.say("go")
            await client.done.wait()
            assert trio.current_time() == 1 + SEND_TIMEOUT
        assert client.ended is EndReason.SEND_TIMEOUT


async def test_a_peer_that_stops_reading_later_is_given_up_later(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"flood": flood}) as server:
        async with server.connect(buffer_bytes=4000) as client:
            await client.say("go")
            for _ in range(4):
                await trio.sleep(SEND_TIMEOUT - 0.5)
                await client.next()
            last_read = trio.current_time()
            await client.done.wait()
            assert trio.current_time() == last_read + SEND_TIMEOUT
        assert client.ended is EndReason.SEND_TIMEOUT


async def test_a_peer_that_reads_slowly_but_steadily_is_kept(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"flood": flood}) as server,
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


async def test_progress_is_what_the_peer_takes_not_what_a_frame_needs(
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
        for _ in range(22):  # the large one has to wait for most of them
            await trio.sleep(1)
            frames.append(await client.next())
        assert kinds(frames)[-1] == "partial_result"
        assert kinds(await client.until("agent_completed"))[-2] == "partial_result"


async def test_a_peer_that_only_sends_is_given_up_too(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        async with server.connect(buffer_bytes=4000) as client:
            with suppress(TransportClosed):
                while True:  # its pongs fill the line, then the reader waits for the writer
                    await client.send("ping", {"a": "x" * 100})
            await client.done.wait()
            assert trio.current_time() <= SEND_TIMEOUT + CLOSE_WAIT
        assert client.ended is EndReason.SEND_TIMEOUT
