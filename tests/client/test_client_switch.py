"""The next connection is opened before a draining server closes the present one; scripted."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from support.scripted import Peer, ScriptedNetwork, opened, wall_clock
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import (
    Client,
    ConnectionClosed,
    Event,
    Run,
    Status,
    TokenUnavailable,
    connect,
)
from netra_trio.client import session as session_module

REFUSAL = {"code": "SERVER_DRAINING", "error": "It is about to restart.", "help": "Wait."}


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


def drain(peer: Peer, milliseconds: int = 2000) -> None:
    peer.control("server_draining", {"reason": "restart", "reconnect_after_ms": milliseconds})


def status_of(client: Client) -> Status:
    return client.status  # a call, because a type checker narrows an attribute


async def delivered(client: Client) -> list[Event]:
    """Return the events that were delivered and not taken."""
    await wait_all_tasks_blocked()
    events: list[Event] = []
    while (event := client.session.feed.pop()) is not None:
        events.append(event)
    return events


async def texts(client: Client) -> str:
    found = await delivered(client)
    return "".join(e.payload["content"] for e in found if e.type == "partial_result")


async def start(client: Client, peer: Peer, key: str = "c-1") -> Run:
    """Send a message, and confirm it."""
    runs: list[Run] = []

    async def send() -> None:
        runs.append(await client.send("hello", correlation_id=key))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        peer.confirm(await peer.expect("user_message"))
    return runs[0]


async def test_the_new_socket_is_open_before_the_old_one_is_closed(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        old.delta("a")
        drain(old)
        old.delta("b")
        new = await network.accept()
        assert network.times == [0.0, 2.0]
        assert new.query == {"session_id": "sess_1", "last_seq": "2"}
        old.delta("c")
        old.control("heartbeat", {"server_time": wall_clock()})
        await old.expect("pong")
        assert await texts(client) == "ab"
        assert status_of(client) is Status.CONNECTED
        new.hello("exact", last_seq=2, replayed=1)
        new.delta("cd", merged=2)
        found = await delivered(client)
        assert [(event.type, event.seq) for event in found] == [
            ("connected", None), ("partial_result", 4),
        ]  # fmt: skip
        assert status_of(client) is Status.CONNECTED
        assert (client.stats.reconnections, client.stats.last_resume_verdict) == (1, "exact")
        assert client.stats.errors_encountered == 0
        assert old.client_closed == 1000
        assert old.gone.is_set()
        assert not new.gone.is_set()
        old.delta("x")
        new.delta("e")
        assert await texts(client) == "e"
    assert new.client_closed == 1000


async def test_nothing_above_last_seq_is_acknowledged_on_the_old_socket(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (_, old):
        for _ in range(5):
            old.delta("a")
        drain(old, 0)
        new = await network.accept()
        last = int(new.query["last_seq"])
        for _ in range(100):
            old.delta("b")
        await trio.sleep(5)
        assert max(old.acks()) <= last
        new.hello("exact", last_seq=last, replayed=105 - last)
        await trio.sleep(1)
        assert max(old.acks()) <= last


async def test_unanswered_frames_are_sent_again_on_the_new_socket(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, "one")
        first = await old.expect("user_message")
        drain(old)
        nursery.start_soon(client.send, "two")
        nursery.start_soon(client.history, "main")
        asked = await old.expect("get_thread_history")
        new = await network.accept()
        old.confirm(first)  # held back, as it comes after the upgrade request
        await wait_all_tasks_blocked()
        new.hello("exact", replayed=1)
        assert await new.expect("get_thread_history") == asked
        new.confirm(first)
        second = await new.expect("user_message")
        assert second["payload"]["content"] == "two"
        new.confirm(second, "run_2")
        page = {"thread_id": "main", "messages": [], "has_more": False}
        new.control("thread_history", page, asked["correlation_id"])
        assert not [frame for frame in old.received if frame["type"] == "user_message"]


@pytest.mark.parametrize("is_answered", [True, False], ids=["503", "no answer"])
async def test_a_refused_attempt_changes_nothing(
    autojump_clock: MockClock, network: ScriptedNetwork, is_answered: bool
) -> None:
    async with opened(network, random=lambda: 1.0, max_attempts=1) as (client, old):
        run = await start(client, old)
        old.delta("a")
        drain(old, 1000)
        for pause in (1, 2, 4):
            new = await network.accept()
            old.delta("b")
            await wait_all_tasks_blocked()
            if is_answered:
                new.refuse(503, retry_after=1.0, body=REFUSAL)
            else:
                new.ignore()
            old.delta("c")
            before = trio.current_time()
            await trio.sleep(pause + is_answered - 0.01)
            assert network.times[-1] == before
        old.complete()
        assert await run.text() == "a" + "bc" * 3
        assert status_of(client) is Status.CONNECTED
        assert client.stats.errors_encountered == client.stats.reconnections == 0
        assert [e.type for e in await delivered(client) if e.seq is None] == [
            "connected", "server_draining",
        ]  # fmt: skip
        await network.accept()
        assert [round(b - a) for a, b in zip(network.times, network.times[1:], strict=False)] == [
            1, *(pause + is_answered for pause in (1, 2, 4)),
        ]  # fmt: skip


async def test_after_refusals_and_the_close_follows_the_ordinary_reconnection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, old):
        drain(old, 1000)
        (await network.accept()).refuse(503, retry_after=1.0, body=REFUSAL)
        old.delta("a")
        await wait_all_tasks_blocked()
        old.close(1012)
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.RECONNECTING
        new = await network.accept()
        assert network.times == [0.0, 1.0, 2.0]  # the first pause of a back-off
        assert new.query["last_seq"] == "1"
        new.hello("exact", last_seq=1)
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED
        drain(new, 0)
        await network.accept()
        assert network.times[-1] == 2.0


async def test_the_old_socket_is_closed_before_the_first_frame(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        old.delta("a")
        drain(old, 0)
        new = await network.accept()
        old.delta("b")
        await wait_all_tasks_blocked()
        old.close(1012)
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.RECONNECTING
        assert await texts(client) == "a"
        await trio.sleep(3)
        new.hello("exact", last_seq=int(new.query["last_seq"]), replayed=1)
        new.delta("b")
        assert await texts(client) == "b"
        assert status_of(client) is Status.CONNECTED
        assert len(network.times) == 2
        new.close(1006)
        third = await network.accept()
        assert third.query["last_seq"] == "2"


@pytest.mark.parametrize("is_answered", [True, False], ids=["503", "no answer"])
async def test_the_old_socket_is_closed_and_then_the_attempt_fails(
    autojump_clock: MockClock, network: ScriptedNetwork, is_answered: bool
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, old):
        drain(old, 0)
        new = await network.accept()
        old.delta("a")
        await wait_all_tasks_blocked()
        old.close(1012)
        await wait_all_tasks_blocked()
        if is_answered:
            new.refuse(503, body=REFUSAL)
        else:
            new.hello("exact")
            new.sent.clear()
            new.close(1012)  # before the first frame
        third = await network.accept()
        assert third.query["last_seq"] == "0"
        assert trio.current_time() == 2
        third.hello("exact", replayed=1)
        third.delta("a")
        assert await texts(client) == "a"


async def test_the_old_socket_is_taken_over_before_the_first_frame(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old, 0)
        new = await network.accept()
        old.close(4409)
        await trio.sleep(1)
        assert status_of(client) is Status.CONNECTED
        new.hello("exact")
        assert "disconnected" not in [event.type for event in await delivered(client)]
        assert status_of(client) is Status.CONNECTED
        assert client.stats.errors_encountered == 0


@pytest.mark.parametrize("is_later", [True, False], ids=["later", "meanwhile"])
async def test_an_attempt_without_an_answer_may_have_taken_the_session_over(
    autojump_clock: MockClock, network: ScriptedNetwork, is_later: bool
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, old):
        drain(old, 0)
        new = await network.accept()
        if is_later:
            new.ignore()
            await wait_all_tasks_blocked()
        old.close(4409)
        await wait_all_tasks_blocked()
        new.ignore()
        last = await network.accept()
        last.hello("exact")
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED
        last.close(4409)
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.ERROR


@pytest.mark.parametrize("is_later", [True, False], ids=["later", "meanwhile"])
async def test_a_refused_attempt_has_not_taken_the_session_over(
    autojump_clock: MockClock, network: ScriptedNetwork, is_later: bool
) -> None:
    async with opened(network, random=lambda: 1.0) as (client, old):
        drain(old, 0)
        new = await network.accept()
        if is_later:
            new.refuse(503, body=REFUSAL)
            await wait_all_tasks_blocked()
        old.close(4409)
        await wait_all_tasks_blocked()
        new.refuse(503, body=REFUSAL)
        await trio.sleep(60)
        assert status_of(client) is Status.ERROR
        with pytest.raises(ConnectionClosed) as caught:
            await client.send("hello")
        assert caught.value.code == 4409
        assert len(network.times) == 2


async def test_a_final_close_ends_the_attempt(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old, 0)
        new = await network.accept()
        old.close(4403)
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.ERROR
        assert new.gone.is_set()


async def test_an_expired_token_ends_the_attempt(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    given = iter(["old", "new"])

    async def get_token() -> str:
        await trio.lowlevel.checkpoint()
        return next(given)

    async with opened(network, token=None, get_token=get_token) as (_, old):
        drain(old, 0)
        new = await network.accept()
        old.error("TOKEN_EXPIRED")
        await wait_all_tasks_blocked()
        old.close(1006)
        third = await network.accept()
        assert new.gone.is_set()
        assert third.headers == {"Authorization": "Bearer new"}


@pytest.mark.parametrize("verdict", ["reset", "new"])
async def test_a_server_without_the_session_is_left_while_a_run_is_not_over(
    autojump_clock: MockClock, network: ScriptedNetwork, verdict: str
) -> None:
    async with opened(network) as (client, old):
        run = await start(client, old)
        drain(old, 0)
        new = await network.accept()
        old.delta("a")
        await wait_all_tasks_blocked()
        new.hello(verdict, reason="unknown", session_id="sess_2")
        await wait_all_tasks_blocked()
        assert new.client_closed == 1000
        old.delta("b")
        old.complete()
        assert await run.text() == "ab"
        await trio.sleep(60)
        assert len(network.times) == 2
        old.close(1012)
        third = await network.accept()
        third.hello("reset", reason="unknown", session_id="sess_2")
        kinds = [event.type for event in await delivered(client)]
        assert kinds[-3:] == ["disconnected", "connected", "reset"]


async def test_a_reset_is_told_if_no_run_is_lost(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old), trio.open_nursery() as nursery:
        drain(old, 0)
        new = await network.accept()
        old.delta("of a run of another client")
        nursery.start_soon(client.send, "hello")
        await wait_all_tasks_blocked()
        new.hello("reset", reason="unknown", session_id="sess_2")
        kinds = [event.type for event in await delivered(client)]
        assert kinds == ["connected", "server_draining", "connected", "reset"]
        assert old.gone.is_set()
        assert status_of(client) is Status.CONNECTED
        new.confirm(await new.expect("user_message"))


async def test_a_gap_is_told(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, old):
        run = await start(client, old)
        drain(old, 0)
        new = await network.accept()
        old.delta("lost")
        listed = {"run_id": "run_1", "status": "running", "content": "all so far"}
        new.hello("gap", last_seq=7, runs=[listed])
        new.delta("!")
        new.complete()
        events = [event async for event in run]
        assert [event.type for event in events] == ["gap", "partial_result", "agent_completed"]
        assert events[0].payload["content"] == "all so far"


async def test_a_slow_upgrade(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network, random=lambda: 0.0) as (client, old):
        drain(old, 0)
        new = await network.accept()
        for _ in range(9):
            await trio.sleep(1)
            old.delta("a")
        new.answered.set()  # the upgrade is answered; its first frame does not come in time
        await trio.sleep(9)
        assert await texts(client) == ""
        again = await network.accept()
        assert trio.current_time() == 19
        assert again.query["last_seq"] == "9"
        assert await texts(client) == "a" * 9
        again.write("not JSON")
        again.answered.set()
        third = await network.accept()
        third.hello("exact", last_seq=9)
        await wait_all_tasks_blocked()
        assert client.stats.reconnections == 1


async def test_reconnect_during_an_attempt(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, max_attempts=1) as (client, old):
        drain(old, 0)
        new = await network.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reconnect)
            third = await network.accept()
            assert new.gone.is_set()
            assert old.gone.is_set()
            third.hello("exact")
        assert status_of(client) is Status.CONNECTED


async def test_leaving_during_an_attempt(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (_, old):
        drain(old, 0)
        new = await network.accept()
    assert old.client_closed == 1000
    assert new.gone.is_set()


async def test_a_first_frame_that_comes_while_the_client_is_left(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async def answer(old: Peer, new: Peer) -> None:
        while old.client_closed is None:
            await old.waiting.park()
        new.hello("exact")

    async with trio.open_nursery() as nursery:
        async with opened(network) as (client, old):
            old.deaf = True
            drain(old, 0)
            new = await network.accept()
            nursery.start_soon(answer, old, new)
        assert client.stats.reconnections == 0
        assert new.gone.is_set()


Give = Callable[[], Awaitable[str]]


def failing(failure: Exception) -> Give:
    """Return a function that gives a token, then fails, and then gives another one."""
    answers: list[str | Exception] = ["old", failure, "new"]

    async def get_token() -> str:
        await trio.lowlevel.checkpoint()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return get_token


@pytest.mark.parametrize("failure", [TokenUnavailable(), ValueError()], ids=["none now", "fails"])
async def test_a_token_that_cannot_be_had(
    autojump_clock: MockClock, network: ScriptedNetwork, failure: Exception
) -> None:
    is_final = isinstance(failure, ValueError)
    async with opened(network, token=None, get_token=failing(failure)) as (client, old):
        drain(old, 0)
        new = await network.accept()
        new.refuse(401)  # then the next token
        if is_final:
            await trio.sleep(60)
            assert len(network.times) == 2
            old.close(1012)
        new = await network.accept()
        assert new.headers == {"Authorization": "Bearer new"}
        new.hello("exact")
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED


async def test_a_server_that_drains_every_connection_at_once_drives_no_loop(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, random=lambda: 1.0) as (_, line):
        drain(line, 0)
        for _ in range(6):
            peer = await network.accept()
            peer.hello("exact")
            drain(peer, 0)
        pauses = [round(b - a) for a, b in zip(network.times, network.times[1:], strict=False)]
        assert pauses == [0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("limit", ["HELD_EVENTS", "HELD_BYTES"])
async def test_a_server_that_sends_without_end_is_dropped(
    autojump_clock: MockClock,
    network: ScriptedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    async with opened(network) as (client, old):
        old.delta("a")
        await wait_all_tasks_blocked()
        size = len(old.sent) or len(_delta_text(old))
        monkeypatch.setattr(session_module, limit, 3 * (1 if limit == "HELD_EVENTS" else size))
        drain(old, 0)
        new = await network.accept()
        for _ in range(3):
            old.delta("b")
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED
        old.delta("b")
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.RECONNECTING
        new.hello("exact", last_seq=1, replayed=4)
        new.delta("bbbb", merged=4)
        assert await texts(client) == "abbbb"


def _delta_text(peer: Peer) -> str:
    peer.delta("b")
    return peer.sent.pop()


async def test_a_held_event_that_is_no_event(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, old):
        drain(old, 0)
        new = await network.accept()
        old.event("message_confirmed", {"run_id": "run_1"})
        await wait_all_tasks_blocked()
        assert status_of(client) is Status.CONNECTED
        new.refuse(503, body=REFUSAL)
        await network.accept()
        assert old.gone.is_set()
        assert status_of(client) is Status.RECONNECTING


async def test_cancelling_during_a_switch(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    given: dict[str, Any] = {"token": "t.o.k", "random": lambda: 0.0, "wall_clock": wall_clock}
    peers: list[Peer] = []

    async def serve() -> None:
        peers.append(await network.accept())
        peers[0].hello()
        drain(peers[0], 0)
        peers.append(await network.accept())

    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with connect("ws://server.example:8000/ws", dialer=network, **given):
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert peers[0].client_closed == 1000
    assert all(peer.gone.is_set() for peer in peers)
