"""Faults of agents, stores and peers that affect only their own run or connection."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
import trio
from structlog.testing import capture_logs
from support.memory import EPOCH, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Run
from netra_trio.connections.dispatch import BACKGROUND_REQUESTS
from netra_trio.connections.outgoing import CONTROL_FRAMES
from netra_trio.ids import MessageId
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.base import Duplicate, NewMessage
from netra_trio.stores.bounds import HISTORY_PAGE_BYTES
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.timeout import STORE_SECONDS


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")

    __repr__ = __str__


async def keyboard_interrupt(run: Run) -> None:
    raise KeyboardInterrupt


async def unprintable(run: Run) -> None:
    raise UnprintableError


async def nested_groups(run: Run) -> None:
    error: Exception = ValueError("at the bottom")
    for _ in range(3000):
        error = ExceptionGroup("and around it", [error])
    raise error


async def takes_it(run: Run) -> str:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return "not me"


@pytest.mark.parametrize("agent", [keyboard_interrupt, unprintable, nested_groups])
async def test_an_unusual_exception_of_an_agent_ends_only_its_run(
    autojump_clock: MockClock, agent: Any
) -> None:
    agents = {"agent": agent, "echo": echo}
    async with (
        open_server(agents=agents) as server,
        server.connect() as client,
        server.connect("bob") as other,
    ):
        with capture_logs() as logs:
            await client.say("go")
            end = (await client.until("agent_completed"))[-1]["payload"]
        assert end["status"] == "failed"
        assert end["error"]["code"] == "AGENT_ERROR"
        assert end["error"]["error_id"] in {entry.get("error_id") for entry in logs}
        await client.say("hello", agent="echo")
        assert (await client.until("agent_completed"))[-1]["payload"]["status"] == "completed"
        await other.say("hello", agent="echo")
        assert (await other.until("agent_completed"))[-1]["payload"]["status"] == "completed"


async def test_an_agent_that_catches_its_cancellation_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"agent": takes_it}) as server, server.connect() as client:
        await client.say("go")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        assert (await client.expect("agent_completed"))["payload"]["status"] == "cancelled"


async def test_a_stop_after_the_deadline_does_not_change_the_status(
    autojump_clock: MockClock,
) -> None:
    async def slow_to_end(run: Run) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.5)

    async with open_server(agents={"agent": slow_to_end}) as server, server.connect() as client:
        await client.say("go", deadline_ms=1000)
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await trio.sleep(1.5)
        await client.send("stop_agent", {"run_id": run_id})
        end = (await client.expect("agent_completed"))["payload"]
        assert (end["status"], end["error"]["code"]) == ("timed_out", "AGENT_TIMEOUT")
        assert "abandoned" not in end


class SlowStore(MemoryStore):
    """A store whose lookup returns a moment later than it reads."""

    seconds = 0.0

    async def find(self, message: NewMessage) -> Duplicate | None:
        known = await super().find(message)
        await trio.sleep(self.seconds)
        return known


async def test_a_duplicate_gets_the_end_of_a_run_that_ends_while_the_store_answers(
    autojump_clock: MockClock,
) -> None:
    async def one_second(run: Run) -> None:
        await trio.sleep(float(run.content))

    store = SlowStore()
    async with (
        open_server(agents={"one_second": one_second}, store=store) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await one.say("1", "k", thread_id="t")
        await two.say("9", thread_id="t")
        await two.until("agent_started")
        store.seconds = 2
        await two.say("1", "k", thread_id="t", on_busy="reject")
        assert (await two.expect("message_confirmed"))["payload"]["run_status"] == "completed"
        assert (await two.expect("agent_completed"))["correlation_id"] == "k"


async def test_a_message_is_refused_if_the_store_does_not_answer(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(agents={"echo": echo}, store=store) as server, server.connect() as one:
        store.hold()
        await one.say("hello", "k")
        assert (await one.error())["code"] == "SERVICE_UNAVAILABLE"
        assert trio.current_time() == STORE_SECONDS
        await one.send("get_thread_history", {"thread_id": "t"})
        assert (await one.error())["code"] == "SERVICE_UNAVAILABLE"
        store.release()


async def test_history_requests_do_not_delay_a_token_renewal(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(agents={"echo": echo}, store=store) as server, server.connect() as one:
        store.hold()
        for _ in range(10):
            await one.send("get_thread_history", {"thread_id": "t"})
        for hours in (1, 2):
            await one.send("auth", {"token": token(expires_at=EPOCH + hours * 3600)})
        await wait_all_tasks_blocked()
        store.release()
        replies = [await one.next() for _ in range(12)]
        renewed = [f["payload"]["expires_at"] for f in replies if f["type"] == "auth_ok"]
        assert renewed == [EPOCH + 3600, EPOCH + 7200]


class LargeStore(MemoryStore):
    """A store with a thread of large messages, of characters that JSON escapes."""

    async def history(
        self, *_thread: object, **_page: object
    ) -> tuple[Sequence[HistoryMessage], bool]:
        texts = ["\x01" * 20_000] * 5
        return [
            HistoryMessage(MessageId(f"m{n}"), "agent", text, 0.0) for n, text in enumerate(texts)
        ], False


async def test_a_page_of_history_is_bounded_by_its_encoded_size(autojump_clock: MockClock) -> None:
    async with open_server(store=LargeStore()) as server, server.connect() as client:
        await client.send("get_thread_history", {"thread_id": "t"})
        data = await client.peer.receive()
        page = orjson.loads(data)["payload"]
        assert len(data) <= HISTORY_PAGE_BYTES + 200
        assert [message["message_id"] for message in page["messages"]] == ["m3", "m4"]
        assert page["has_more"] is True


async def test_unread_replies_are_bounded_and_do_not_delay_the_token_expiry(
    autojump_clock: MockClock,
) -> None:
    """A peer that sends pings and does not read fills its channels; its token still expires."""
    async with open_server(store=LargeStore(), heartbeat_interval_ms=3_600_000) as server:
        client = server.start(expires_at=EPOCH + 100, buffer_bytes=300, send_timeout=10_000.0)
        await client.expect("connection_established")
        for _ in range(100):
            with trio.move_on_after(0.1):  # the server stops reading when the channels are full
                await client.send("get_thread_history", {"thread_id": "t"})
        connection = next(iter(server.node._connections.values()))
        waiting = connection.outgoing.statistics()
        assert 0 < waiting["control"] <= CONTROL_FRAMES
        assert 0 < waiting["large"] <= BACKGROUND_REQUESTS
        await trio.sleep_until(101)
        assert connection.reason is EndReason.TOKEN_EXPIRED
        client.peer.cut()
        await client.done.wait()


async def test_a_connection_that_is_ending_does_not_count_for_the_limit(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(max_connections_per_user=2) as server,
        server.connect() as healthy,
    ):
        leaving = server.start()
        await leaving.expect("connection_established")
        for _ in range(5):
            await leaving.send_raw("[]")
        await wait_all_tasks_blocked()  # it is ending, and the client does not read
        async with server.connect():
            await healthy.send("ping", {})
            await healthy.expect("pong")
