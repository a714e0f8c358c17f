"""What agents raise, what a store fails to say, what a peer does not read: nobody else knows."""

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
from netra_trio.stores.base import HISTORY_PAGE_BYTES, Duplicate, NewMessage
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.timeout import STORE_SECONDS


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")

    __repr__ = __str__


async def interrupts(run: Run) -> None:
    raise KeyboardInterrupt


async def unprintable(run: Run) -> None:
    raise UnprintableError


async def deep(run: Run) -> None:
    error: Exception = ValueError("at the bottom")
    for _ in range(3000):
        error = ExceptionGroup("and around it", [error])
    raise error


async def takes_it(run: Run) -> str:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return "not me"


@pytest.mark.parametrize("agent", [interrupts, unprintable, deep])
async def test_whatever_an_agent_raises_ends_its_run_alone(
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


async def test_an_agent_that_takes_its_cancellation_is_cancelled(autojump_clock: MockClock) -> None:
    async with open_server(agents={"agent": takes_it}) as server, server.connect() as client:
        await client.say("go")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        assert (await client.expect("agent_completed"))["payload"]["status"] == "cancelled"


async def test_a_deadline_that_passed_is_not_renamed_by_a_stop(autojump_clock: MockClock) -> None:
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


class Slow(MemoryStore):
    """A store that looks, and tells what it saw a moment later."""

    seconds = 0.0

    async def find(self, message: NewMessage) -> Duplicate | None:
        known = await super().find(message)
        await trio.sleep(self.seconds)
        return known


async def test_a_run_that_ends_while_the_store_answers_has_its_end_told(
    autojump_clock: MockClock,
) -> None:
    async def second(run: Run) -> None:
        await trio.sleep(float(run.content))

    store = Slow()
    async with (
        open_server(agents={"second": second}, store=store) as server,
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


async def test_a_store_that_does_not_answer_is_unavailable(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(agents={"echo": echo}, store=store) as server, server.connect() as one:
        store.hold()
        await one.say("hello", "k")
        assert (await one.error())["code"] == "SERVICE_UNAVAILABLE"
        assert trio.current_time() == STORE_SECONDS
        await one.send("get_thread_history", {"thread_id": "t"})
        assert (await one.error())["code"] == "SERVICE_UNAVAILABLE"
        store.release()


async def test_history_does_not_stand_in_the_way_of_a_token(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(agents={"echo": echo}, store=store) as server, server.connect() as one:
        store.hold()
        for _ in range(10):
            await one.send("get_thread_history", {"thread_id": "t"})
        for hours in (1, 2):
            await one.send("auth", {"token": token(expires_at=EPOCH + hours * 3600)})
        await wait_all_tasks_blocked()
        store.release()
        told = [await one.next() for _ in range(12)]
        renewed = [f["payload"]["expires_at"] for f in told if f["type"] == "auth_ok"]
        assert renewed == [EPOCH + 3600, EPOCH + 7200]


class Bulky(MemoryStore):
    """A store with a thread of large answers, full of what JSON escapes."""

    async def history(
        self, *_thread: object, **_page: object
    ) -> tuple[Sequence[HistoryMessage], bool]:
        texts = ["\x01" * 20_000] * 5
        return [
            HistoryMessage(MessageId(f"m{n}"), "agent", text, 0.0) for n, text in enumerate(texts)
        ], False


async def test_a_page_of_history_is_bounded_as_it_is_written(autojump_clock: MockClock) -> None:
    async with open_server(store=Bulky()) as server, server.connect() as client:
        await client.send("get_thread_history", {"thread_id": "t"})
        data = await client.line.receive()
        page = orjson.loads(data)["payload"]
        assert len(data) <= HISTORY_PAGE_BYTES + 200
        assert [message["message_id"] for message in page["messages"]] == ["m3", "m4"]
        assert page["has_more"] is True


async def test_replies_that_are_not_read_are_bounded_and_time_goes_on(
    autojump_clock: MockClock,
) -> None:
    """A peer that asks and does not read fills its channels; its token ends all the same."""
    async with open_server(store=Bulky(), heartbeat_interval_ms=3_600_000) as server:
        client = server.start(expires_at=EPOCH + 100, buffer_bytes=300, send_timeout=10_000.0)
        await client.expect("connection_established")
        for _ in range(100):
            with trio.move_on_after(0.1):  # in the end the server reads no more of it either
                await client.send("get_thread_history", {"thread_id": "t"})
        connection = next(iter(server.node._connections.values()))
        waiting = connection.outgoing.statistics()
        assert 0 < waiting["control"] <= CONTROL_FRAMES
        assert 0 < waiting["large"] <= BACKGROUND_REQUESTS
        await trio.sleep_until(101)
        assert connection.reason is EndReason.TOKEN_EXPIRED
        client.line.cut()
        await client.done.wait()


async def test_a_connection_on_its_way_out_evicts_nobody(autojump_clock: MockClock) -> None:
    async with (
        open_server(max_connections_per_user=2) as server,
        server.connect() as healthy,
    ):
        leaving = server.start()
        await leaving.expect("connection_established")
        for _ in range(5):
            await leaving.send_raw("[]")
        await wait_all_tasks_blocked()  # it has been told to go, and does not read
        async with server.connect():
            await healthy.send("ping", {})
            await healthy.expect("pong")
