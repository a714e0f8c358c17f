"""Connecting, resuming, giving up, renewing the token, closing; in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from support.scripted import URL, Peer, ScriptedNetwork, opened, wall_clock
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import (
    Client,
    ClientClosed,
    ClientError,
    ConnectionClosed,
    ConnectionRefused,
    Event,
    GaveUp,
    OpeningRefused,
    Status,
    TokenFailed,
    TokenUnavailable,
    connect,
)


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


Script = Callable[[ScriptedNetwork], Awaitable[None]]


async def play(network: ScriptedNetwork, script: Script, **options: Any) -> None:
    """Open a client against a script, and leave it at once."""
    given: dict[str, Any] = {"token": "t.o.k", "random": lambda: 1.0, "wall_clock": wall_clock}
    raised: ClientError | None = None
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(script, network)
            try:
                async with connect(URL, dialer=network, **{**given, **options}):
                    pass
            except ClientError as error:
                raised = error  # raised outside of the nursery, without a group
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


def status_of(client: Client) -> Status:
    return client.status  # a call, because a type checker narrows an attribute


async def first_of_each(client: Client, *kinds: str) -> list[Event]:
    """Return the first event of each of these types, in this order."""
    found = []
    events = client.events()
    for kind in kinds:
        async for event in events:
            if event.type == kind:
                found.append(event)
                break
    return found


async def test_the_opening(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        assert network.discoveries == ["http://server.example:8000/ws/config"]
        assert peer.url == URL
        assert peer.headers == {"Authorization": "Bearer t.o.k"}
        assert peer.subprotocols == ("netra.v2", "netra.v1")
        assert status_of(client) is Status.CONNECTED
        assert client.config["websocket_config"]["version"] == "1.0"
        assert client.stats.last_resume_verdict == "new"
        assert client.stats.connection_id == "conn_1"
        assert client.stats.connected_at == wall_clock()
    assert peer.client_closed == 1000
    assert status_of(client) is Status.DISCONNECTED
    with pytest.raises(ClientClosed):
        await client.send("hello")
    with pytest.raises(ClientClosed):
        await client.reconnect()


@pytest.mark.parametrize("code", [1001, 1006, 1011, 1012, 4408])
async def test_a_lost_connection_is_resumed(
    autojump_clock: MockClock, network: ScriptedNetwork, code: int
) -> None:
    async with opened(network) as (client, peer):
        peer.delta("a")
        peer.delta("bc", merged=2)
        await wait_all_tasks_blocked()
        peer.close(code)
        second = await network.accept()
        assert status_of(client) is Status.RECONNECTING
        assert peer.gone.is_set()
        assert second.query == {"session_id": "sess_1", "last_seq": "3"}
        second.hello("exact", last_seq=3, replayed=1)
        second.delta("d")
        assert len(network.discoveries) == 1
        events = await first_of_each(client, "disconnected", "connected", "partial_result")
        assert events[0].payload["code"] == code
        assert events[1].payload["verdict"] == "exact"
        assert events[2].seq == 4
        assert status_of(client) is Status.CONNECTED
        assert (client.stats.reconnections, client.stats.last_resume_verdict) == (1, "exact")


@pytest.mark.parametrize("code", [1000, 1005, 1009, 4400, 4401, 4403, 4409, 4429, 4999])
async def test_after_other_codes_it_waits_for_reconnect(
    autojump_clock: MockClock, network: ScriptedNetwork, code: int
) -> None:
    async with opened(network) as (client, peer):
        events = client.events()
        assert (await anext(events)).type == "connected"
        peer.close(code)
        assert (await anext(events)).payload["code"] == code
        with pytest.raises(ConnectionClosed) as caught:
            await anext(events)
        assert caught.value.code == code
        assert "t.o.k" not in str(caught.value)
        assert status_of(client) is Status.ERROR
        with pytest.raises(ConnectionClosed):
            await client.send("hello")
        with pytest.raises(ConnectionClosed):
            await client.history("main")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reconnect)
            second = await network.accept()
            assert second.query["session_id"] == "sess_1"
            second.hello("exact")
        assert status_of(client) is Status.CONNECTED
        assert (await anext(events)).type == "connected"


async def test_reconnect_while_connected(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, max_attempts=1) as (client, line):
        peer = line
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.reconnect)
                second = await network.accept()
                assert peer.gone.is_set()
                second.hello("exact")
                peer = second
        assert client.stats.reconnections == 3


async def test_reconnect_ends_a_pause(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network, random=lambda: 1.0) as (client, peer):
        peer.close(1012)
        for _ in range(8):
            (await network.accept()).ignore()
        await wait_all_tasks_blocked()
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reconnect)
            (await network.accept()).hello("exact")
            assert trio.current_time() == before
        assert status_of(client) is Status.CONNECTED


async def test_the_pauses_grow_to_thirty_seconds(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async def script(network: ScriptedNetwork) -> None:
        for _ in range(8):
            (await network.accept()).ignore()
        (await network.accept()).hello()

    await play(network, script)
    pauses = [round(b - a) for a, b in zip(network.times, network.times[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_connection_without_progress_counts_as_failed(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, random=lambda: 1.0) as (_, line):
        peer = line
        peer.close(1011)
        for _ in range(4):
            peer = await network.accept()
            peer.hello("exact")
            peer.close(1011)
        peer = await network.accept()
        assert [round(b - a) for a, b in zip(network.times, network.times[1:], strict=False)] == [
            1, 2, 4, 8, 16,
        ]  # fmt: skip
        peer.hello("exact")
        peer.delta("news")
        peer.close(1011)
        (await network.accept()).hello()
        assert round(network.times[-1] - network.times[-2]) == 1


@pytest.mark.parametrize("status", [429, 503, 502, 500])
async def test_a_temporary_refusal(
    autojump_clock: MockClock, network: ScriptedNetwork, status: int
) -> None:
    async def script(network: ScriptedNetwork) -> None:
        (await network.accept()).refuse(status, retry_after=12.0)
        (await network.accept()).hello()

    await play(network, script)
    assert network.times == [0.0, 13.0]


@pytest.mark.parametrize("status", [400, 403, 404, 301, 426])
async def test_a_final_refusal(
    autojump_clock: MockClock, network: ScriptedNetwork, status: int
) -> None:
    body = {"code": "ORIGIN_NOT_ALLOWED", "error": "Not from there.", "help": "Add it."}

    async def script(network: ScriptedNetwork) -> None:
        (await network.accept()).refuse(status, body=body)

    with pytest.raises(ConnectionRefused, match=r"Not from there\. Add it\.") as caught:
        await play(network, script)
    assert (caught.value.status, caught.value.code) == (status, "ORIGIN_NOT_ALLOWED")
    assert "t.o.k" not in str(caught.value)
    assert len(network.times) == 1


def tokens(*given: str | Exception) -> Callable[[], Awaitable[str]]:
    waiting = iter(given)

    async def get_token() -> str:
        await trio.lowlevel.checkpoint()
        token = next(waiting)
        if isinstance(token, Exception):
            raise token
        return token

    return get_token


async def test_after_401_one_attempt_with_a_new_token(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async def script(network: ScriptedNetwork) -> None:
        (await network.accept()).refuse(401)
        second = await network.accept()
        assert second.headers == {"Authorization": "Bearer new"}
        second.hello()

    await play(network, script, token=None, get_token=tokens("old", "new"))

    async def refuse(network: ScriptedNetwork) -> None:
        while True:
            (await network.accept()).refuse(401, body={"error": "Bad.", "help": "Get one."})

    network = ScriptedNetwork()
    with pytest.raises(ConnectionRefused):
        await play(network, refuse, token=None, get_token=tokens("old", "new", "newer"))
    assert len(network.times) == 2
    network = ScriptedNetwork()
    with pytest.raises(ConnectionRefused):
        await play(network, refuse)
    assert len(network.times) == 1


async def test_4401_with_a_new_token(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    get_token = tokens("old", TokenUnavailable(), OSError(), "new")
    async with opened(network, token=None, get_token=get_token) as (client, peer):
        peer.error("TOKEN_EXPIRED")
        peer.close(4401)
        second = await network.accept()
        assert second.headers == {"Authorization": "Bearer new"}
        second.hello("exact")
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED


async def test_a_token_is_renewed_in_place(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    get_token = tokens("old", TokenUnavailable(), "new")
    async with opened(network, token=None, get_token=get_token) as (client, peer):
        peer.control("auth_expiring", {"expires_at": wall_clock() + 60})
        auth = await peer.expect("auth")
        assert auth["payload"] == {"token": "new"}
        peer.control("auth_ok", {"expires_at": wall_clock() + 3600}, auth["correlation_id"])
        assert (await first_of_each(client, "auth_expiring"))[0].payload[
            "expires_at"
        ] == wall_clock() + 55
        peer.close(1006)
        assert (await network.accept()).headers == {"Authorization": "Bearer new"}


async def test_short_lived_tokens_are_renewed_with_a_pause(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    get_token = tokens(*["short"] * 5)
    async with opened(network, token=None, get_token=get_token) as (_, peer):
        asked_at = []
        for _ in range(4):
            peer.control("auth_expiring", {"expires_at": wall_clock() + 20})
            auth = await peer.expect("auth")
            asked_at.append(trio.current_time())
            peer.control("auth_ok", {"expires_at": wall_clock() + 20}, auth["correlation_id"])
        pauses = [later - earlier for earlier, later in pairwise(asked_at)]
        assert pauses == pytest.approx([5.0, 10.0, 10.0])  # at most half of what is left


async def test_get_token_fails(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async def script(network: ScriptedNetwork) -> None:
        await network.accept()

    with pytest.raises(TokenFailed, match="KeyError") as caught:
        await play(network, script, token=None, get_token=tokens(KeyError("t.o.k")))
    assert isinstance(caught.value.__cause__, KeyError)
    assert "t.o.k" not in str(caught.value)


async def test_max_attempts(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async def script(network: ScriptedNetwork) -> None:
        while True:
            (await network.accept()).ignore()

    with pytest.raises(GaveUp, match="no server") as caught:
        await play(network, script, max_attempts=3)
    assert len(network.times) == 3
    assert isinstance(caught.value, ClientError)


@pytest.mark.parametrize(
    "first",
    ['{"type": "pong"}', "no JSON", "[]", '{"type": "connection_established", "payload": {}}', ""],
)
async def test_an_invalid_first_frame(
    autojump_clock: MockClock, network: ScriptedNetwork, first: str
) -> None:
    async def script(network: ScriptedNetwork) -> None:
        peer = await network.accept()
        peer.write(first)
        peer.answered.set()

    with pytest.raises(GaveUp):
        await play(network, script, max_attempts=1)


async def test_no_first_frame(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async def script(network: ScriptedNetwork) -> None:
        (await network.accept()).answered.set()

    with pytest.raises(GaveUp, match="no connection_established within 10 s"):
        await play(network, script, max_attempts=1)


async def test_closed_before_the_first_frame(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async def script(network: ScriptedNetwork) -> None:
        peer = await network.accept()
        peer.closed = 4403
        peer.answered.set()

    with pytest.raises(ConnectionClosed):
        await play(network, script)


async def test_discovery_that_fails(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    network.config = OpeningRefused(503, retry_after=3.0)

    async def script(network: ScriptedNetwork) -> None:
        await trio.sleep(1)
        network.config = OpeningRefused(404)
        (await network.accept()).hello()

    await play(network, script)
    assert len(network.discoveries) == 2
    assert network.times == [4.0]


async def test_a_drain(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        peer.control("server_draining", {"reason": "restart", "reconnect_after_ms": 7000})
        assert await first_of_each(client, "server_draining")
        peer.close(1012)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "hello")
            second = await network.accept()
            assert network.times == [0.0, 7.0]  # there is no connection that could be replaced
            second.hello("reset", reason="unknown", session_id="sess_2")
            second.confirm(await second.expect("user_message"))


@pytest.mark.parametrize("frame", ["{", "5", '{"type": 5}', '{"type": "x", "seq": true}'])
async def test_an_invalid_frame(
    autojump_clock: MockClock, network: ScriptedNetwork, frame: str
) -> None:
    async with opened(network) as (_, peer):
        peer.write(frame)
        (await network.accept()).hello("exact")


async def test_an_unknown_type_is_delivered(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        peer.event("room_joined", {"room": "x"})
        assert (await first_of_each(client, "room_joined"))[0].payload == {"room": "x"}


@pytest.mark.parametrize(
    "url", ["nothing", "http://127.0.0.1:9/ws", "ws://127.0.0.1:port/ws", "ws:///ws"]
)
async def test_invalid_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|[Pp]ort"):
        async with connect(url, token="t.o.k"):
            pass


@pytest.mark.parametrize("token", ["a b", "t.o.k\n", "é", ""])
async def test_invalid_tokens(
    autojump_clock: MockClock, network: ScriptedNetwork, token: str
) -> None:
    if token:
        with pytest.raises(ValueError, match="token without blanks") as caught:
            async with connect(URL, token=token):
                pass
        assert token not in str(caught.value)

    async def script(network: ScriptedNetwork) -> None:
        await network.accept()

    with pytest.raises(TokenFailed, match="token without blanks"):
        await play(network, script, token=None, get_token=tokens(f"{token}\t"))


def test_in_an_asyncio_program() -> None:
    async def main() -> None:
        async with connect(URL, token="t"):
            pass

    with pytest.raises(RuntimeError, match=r"docs/client\.md, 'In an asyncio program'"):
        asyncio.run(main())


@pytest.mark.parametrize("options", [{}, {"token": "t", "get_token": tokens("t")}])
async def test_exactly_one_of_token_and_function(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token or get_token"):
        async with connect(URL, **options):
            pass


async def test_an_exception_of_the_block_is_raised_as_it_is(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    group = ExceptionGroup("several", [KeyError(), ValueError()])
    for error in (ValueError("mine"), KeyboardInterrupt(), group):
        with pytest.raises(type(error)) as caught:
            await raise_inside(network, error)
        assert caught.value is error


async def raise_inside(network: ScriptedNetwork, error: BaseException) -> None:
    async def answer() -> None:
        (await network.accept()).hello()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        try:
            async with connect(URL, dialer=network, token="t"):
                raise error  # noqa: TRY301 - the block raises it
        except BaseException as raised:
            caught = raised
    raise caught


async def test_closing_is_bounded_if_the_peer_does_not_answer(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (_, peer):
        peer.deaf = True
    assert trio.current_time() == 2.0
    assert peer.client_closed == 1000
    assert peer.gone.is_set()


async def test_cancelling_sends_a_close_frame(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    with trio.CancelScope() as scope:
        async with opened(network) as (client, peer):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert peer.client_closed == 1000
    assert status_of(client) is Status.DISCONNECTED


class _SlowToClose(ScriptedNetwork):
    """A network whose sockets must exist until a close is complete, as real ones must."""

    @asynccontextmanager
    async def open(self, url: str, **opening: Any) -> AsyncIterator[Any]:
        async with super().open(url, **opening) as socket, trio.open_nursery() as nursery:
            heard, through = trio.Event(), trio.Event()
            close = socket.close

            async def finish() -> None:
                await heard.wait()
                for _ in range(3):  # the reader of the client has got it by now
                    await trio.lowlevel.checkpoint()
                through.set()

            async def close_slowly(code: int) -> None:
                await close(code)
                heard.set()
                await through.wait()

            socket.close = close_slowly  # type: ignore[method-assign]
            nursery.start_soon(finish)
            yield socket
            nursery.cancel_scope.cancel()


async def test_the_socket_exists_until_the_close_is_complete(autojump_clock: MockClock) -> None:
    async with opened(_SlowToClose()) as (_, peer):
        pass
    assert (peer.client_closed, trio.current_time()) == (1000, 0.0)


async def life(network: ScriptedNetwork) -> AsyncIterator[Peer]:
    """Be a server that a client uses in every way."""
    peer = await network.accept()
    peer.hello()
    peer.confirm(await peer.expect("user_message"))
    peer.delta("one ")
    peer.close(1006)
    peer = await network.accept()
    peer.hello("exact", last_seq=2)
    stop = await peer.expect("stop_agent")
    peer.error("RUN_NOT_FOUND", stop["correlation_id"])
    peer.complete(status="cancelled")
    yield peer


class Clock(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left = step
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def live(network: ScriptedNetwork, scope: trio.CancelScope) -> bool:
    """Use a client in every way; return whether it was not cancelled."""

    async def serve() -> None:
        async for _ in life(network):
            pass

    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with connect(URL, dialer=network, token="t", random=lambda: 0.0) as client:
                run = await client.send("hello")
                async for event in run:
                    if event.type == "partial_result":
                        break
                await run.stop()
                async for _ in run:
                    pass
                return True
    return False


async def live_until(step: int) -> bool:
    with trio.fail_after(1000):
        scope = trio.CancelScope()
        clock = Clock(step, scope)
        trio.lowlevel.add_instrument(clock)
        try:
            return await live(ScriptedNetwork(), scope)
        finally:
            trio.lowlevel.remove_instrument(clock)


def test_cancelled_at_every_step() -> None:
    for step in range(1, 1000):
        if trio.run(live_until, step, clock=MockClock(autojump_threshold=0)):
            break
    assert 30 < step < 999
