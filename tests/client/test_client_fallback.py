"""The client of an application behind something that lets no WebSocket through, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from support.announcing import Announcing
from support.doors import open_app
from support.http_host import Host, hosting
from support.memory import token, wall_clock
from support.talk import WHOLE, talk, talker
from trio.testing import MockClock

from netra_trio.agents.run import Run as AgentRun
from netra_trio.client import (
    Client,
    ConnectionRefused,
    Network,
    NoAnswer,
    OpeningRefused,
    Transport,
    connect,
)
from netra_trio.client.fallback import RETURN_SECONDS
from netra_trio.server.application import Application
from netra_trio.testing import Trace, assert_nothing_lost

NOT_AN_UPGRADE = (
    "This is a WebSocket endpoint: open it with an upgrade. Fix the request and try again."
)


async def echo(run: AgentRun) -> str:
    await run.emit(run.content)
    return run.content


@asynccontextmanager
async def hosted(
    monkeypatch: pytest.MonkeyPatch, agent: Any = echo, **options: Any
) -> AsyncIterator[tuple[Host, Application]]:
    options.setdefault("doors", ("events",))
    async with (
        open_app(agents={"talker": agent}, **options) as app,
        hosting(app, monkeypatch) as host,
    ):
        with trio.fail_after(10_000):
            yield host, app


def client_of(
    host: Host, user: str = "alice", **options: Any
) -> AbstractAsyncContextManager[Client]:
    given = {"token": token(user), "random": lambda: 0.0, "wall_clock": wall_clock}
    return connect(host.url, **{**given, **options})


async def test_a_stream_after_two_upgrades(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch) as (host, _), client_of(host) as client:
        assert client.stats.transport is Transport.SSE
        assert client.stats.errors_encountered == 2
        assert await (await client.send("hello")).text() == "hello"
        assert (client.stats.transport, client.stats.reconnections) == ("sse", 0)
    assert [target for method, target in host.requests if method == "GET"] == [
        "/ws/config",
        "/ws",
        "/ws/config",
        "/ws",
        "/ws/config",
        "/ws/events",
    ]


async def test_polls_after_a_stream_that_is_collected(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch) as (host, _):
        host.collects = True
        async with client_of(host) as client:
            assert client.stats.transport is Transport.LONG_POLL
            assert trio.current_time() == 5.0
            assert await (await client.send("hello")).text() == "hello"


# --- when a transport is changed


async def test_a_server_without_the_door(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch, doors=()) as (host, _):
        with pytest.raises(ConnectionRefused):
            async with client_of(host):
                pass
    assert [target for _, target in host.requests] == ["/ws/config", "/ws"]


async def test_the_switch_is_off(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch) as (host, _):
        with pytest.raises(ConnectionRefused):
            async with client_of(host, dialer=Network(fallback=False)):
                pass
    assert [target for _, target in host.requests] == ["/ws/config", "/ws"]


async def test_a_server_that_is_down_changes_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a refused connection nor the error of a gateway counts as a failed upgrade."""
    async with hosted(monkeypatch) as (host, _):
        network = Network()
        await network.discover("http://server.test/ws/config")
        upgrades = 0
        host.answer = lambda _: 502
        for is_down in [True, False, True, False]:
            host.is_down = is_down
            with pytest.raises(Exception, match=r"refused|HTTP status 50"):
                async with network.open(host.url, headers={}, subprotocols=("netra.v1",)):
                    pass
            upgrades += not is_down
    assert [target for _, target in host.requests].count("/ws/events") == 0
    assert [target for _, target in host.requests].count("/ws") == upgrades


async def test_a_refusal_of_the_server_is_final(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token is refused in the same way on each transport, with the error of the server."""
    async with hosted(monkeypatch) as (host, _):
        with pytest.raises(ConnectionRefused) as caught:
            async with client_of(host, token="no.such.token"):
                pass
        assert caught.value.status == 401
        assert caught.value.code == "INVALID_TOKEN"
        # The upgrades do not get through, so it is the stream that says so.
        assert [target for _, target in host.requests][-1] == "/ws/events"


# --- loss


async def converse(host: Host, trace: Trace, **options: Any) -> Client:
    """Check that a conversation is complete."""
    async with trio.open_nursery() as nursery, client_of(host, **options) as client:
        nursery.start_soon(trace.follow, client, "alice")
        assert await talk(client) == WHOLE
    return client


def every(kind: str, n: int) -> Any:
    """Return True at each n-th thing of a kind, and no more after so many cuts."""
    seen = 0

    def cut(what: str) -> bool:
        nonlocal seen
        seen += what == kind
        return what == kind and seen % n == 0

    return cut


@pytest.mark.parametrize("n", [*range(2, 9), 13, 21, 34])
async def test_a_stream_is_cut_before_every_nth_event(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    trace = Trace()
    async with hosted(monkeypatch, trace.recording(talker)) as (host, _):
        host.cut = every("event", n)
        client = await converse(host, trace)
    assert_nothing_lost(trace)
    assert trace.announced == []
    assert client.stats.reconnections == host.cuts or client.stats.reconnections == host.cuts - 1
    assert client.stats.transport in {Transport.SSE, Transport.LONG_POLL}


@pytest.mark.parametrize("n", range(2, 8))
async def test_every_nth_answer_to_a_poll_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    trace = Trace()
    async with hosted(monkeypatch, trace.recording(talker)) as (host, _):
        host.collects = True
        host.cut = every("poll", n)
        client = await converse(host, trace)
    assert_nothing_lost(trace)
    assert trace.announced == []
    assert host.cuts > 0
    assert client.stats.transport is Transport.LONG_POLL


@pytest.mark.parametrize("collects", [False, True], ids=["sse", "long-poll"])
@pytest.mark.parametrize("n", [1, 2])
async def test_the_answer_to_every_nth_frame_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, n: int, collects: bool
) -> None:
    """The server has taken the frame: a message that is sent again starts no second run."""
    trace = Trace()
    async with hosted(monkeypatch, trace.recording(talker)) as (host, _):
        host.collects = collects
        host.cut = every("post", n)
        await converse(host, trace)
    assert_nothing_lost(trace)
    assert trace.announced == []
    assert host.cuts > 0


# --- connections that replace one another


@pytest.mark.parametrize("collects", [False, True], ids=["sse", "long-poll"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
async def test_connections_are_replaced_while_events_come(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, n: int, collects: bool
) -> None:
    """A poll of the old connection acknowledges nothing that the new one has to begin with."""
    trace = Trace()
    async with hosted(monkeypatch, trace.recording(talker)) as (host, _):
        host.collects = collects
        dialer = Announcing(Network(), is_due=lambda events: events % n == 0)
        await converse(host, trace, dialer=dialer)
        assert dialer.opened > 1
        assert dialer.most == 2
    assert_nothing_lost(trace)
    assert trace.announced == []


async def test_an_attempt_to_replace_polls_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection goes on with its polls."""
    trace = Trace()
    async with hosted(monkeypatch, trace.recording(talker)) as (host, _):
        host.collects = True
        dialer = Announcing(Network(), is_due=lambda events: events == 3)
        openings = 0

        def answer(target: str) -> int | None:
            nonlocal openings
            openings += "resume=1" in target
            return 503 if "resume=1" in target and openings == 2 else None

        host.answer = answer
        client = await converse(host, trace, dialer=dialer)
        assert openings > 2 or dialer.opened == 1
        assert client.stats.errors_encountered == 3
    assert_nothing_lost(trace)
    assert trace.announced == []


# --- the way back


async def lose(host: Host, client: Client) -> None:
    """Lose the connection, and wait for the next one."""
    before = client.stats.reconnections
    host.drop()
    for _ in range(100):
        await trio.sleep(0.1)
    assert client.stats.reconnections == before + 1


async def test_the_websocket_is_tried_again_after_five_minutes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch) as (host, _), client_of(host) as client:

        def upgrades() -> int:
            return [target.partition("?")[0] for _, target in host.requests].count("/ws")

        await lose(host, client)
        assert upgrades() == 2
        await trio.sleep(RETURN_SECONDS)
        assert upgrades() == 2
        for _ in range(2):
            await lose(host, client)
            assert upgrades() == 3
            assert client.stats.transport is Transport.SSE
            assert client.stats.last_resume_verdict == "exact"
        assert await (await client.send("hello")).text() == "hello"


async def test_what_worked_is_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(monkeypatch) as (host, _):
        host.collects = True
        async with client_of(host) as client:
            await trio.sleep(RETURN_SECONDS)
            for _ in range(3):
                await lose(host, client)
            assert client.stats.transport is Transport.LONG_POLL
        streams = [t for _, t in host.requests if t.startswith("/ws/events") and "wait" not in t]
        assert len(streams) == 1


async def test_a_token_is_renewed_on_a_stream(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    async def get_token() -> str:
        await trio.lowlevel.checkpoint()
        made.append(trio.current_time())
        return token(expires_at=wall_clock() + 120)

    async with (
        hosted(monkeypatch) as (host, _),
        client_of(host, token=None, get_token=get_token) as client,
    ):
        await trio.sleep(1000)
        assert (client.stats.reconnections, client.stats.transport) == (0, "sse")
        assert await (await client.send("hello")).text() == "hello"
    assert len(made) > 8


async def test_the_server_goes_and_comes_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        hosted(monkeypatch) as (host, _),
        client_of(host, random=lambda: 0.5) as client,
    ):
        host.is_down = True
        host.drop()
        await trio.sleep(60)
        host.is_down = False
        await trio.sleep(60)
        assert (client.stats.reconnections, client.stats.transport) == (1, "sse")
        assert await (await client.send("hello")).text() == "hello"


# --- failures that something explains


async def attempts(host: Host, network: Network, times: int = 4) -> list[str]:
    """Return the texts of failed attempts."""
    texts: list[str] = []
    for _ in range(times):
        try:
            async with network.open(host.url, headers={}, subprotocols=("netra.v1",)):
                raise AssertionError("it opened")
        except (NoAnswer, OpeningRefused) as error:
            texts.append(f"{type(error).__name__}: {error}")
    return texts


async def test_the_door_was_closed_meanwhile(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is that of the WebSocket, as of a server without the door."""
    network = Network()
    async with hosted(monkeypatch) as (host, _):
        await network.discover("http://server.test/ws/config")
    async with hosted(monkeypatch, doors=()) as (host, _):
        texts = await attempts(host, network)
    assert texts == ["OpeningRefused: refused with HTTP status 426"] * 4


async def test_the_discovery_document_does_not_come_either(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any) -> None:
        await trio.sleep_forever()

    async with hosted(monkeypatch) as (host, app):
        network = Network()
        await network.discover("http://server.test/ws/config")
        host.app = silent
        with trio.fail_after(100):
            texts = await attempts(host, network)
        # The handshake takes 10 seconds, and the document 5.
        assert trio.current_time() == 60.0
        assert texts == ["NoAnswer: no answer within 10 s"] * 4
        host.app = app
        assert await attempts(host, network, 1) == ["NoAnswer: " + NOT_AN_UPGRADE]


async def test_an_error_of_the_block_is_raised_as_it_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, headers = Network(), {"Authorization": f"Bearer {token()}"}

    async def fail() -> None:
        async with network.open(host.url, headers=headers, subprotocols=()) as socket:
            assert "connection_established" in await socket.receive()
            raise NoAnswer("of the block")

    async with hosted(monkeypatch) as (host, _):
        await network.discover("http://server.test/ws/config")
        await attempts(host, network, 2)
        with pytest.raises(NoAnswer, match="of the block"):
            await fail()
