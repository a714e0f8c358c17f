"""A thread is deleted while it is used: runs end first, later writes and old keys are refused."""

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.devices import changed, devices, history, threads
from support.memory import Client, Frame, Server, kinds, open_server
from support.threads import shielded
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.ids import RunId, ThreadId, UserId, new_node_id
from netra_trio.node.user_threads import POLL_SECONDS, STOP_SECONDS
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores import memory_data
from netra_trio.stores.memory import MemoryStore

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def work(run: Run) -> None:
    await run.emit("working")
    await trio.sleep(60)


async def at_once(run: Run) -> None:
    await run.emit(run.content)


async def ask(run: Run) -> None:
    await run.ask("Which one?")


async def clean_up(run: Run) -> None:
    """Need two seconds to end."""
    await run.emit("working")
    try:
        await trio.sleep(60)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.5)


AGENTS = {
    "work": work,
    "shielded": shielded,
    "at_once": at_once,
    "ask": ask,
    "clean_up": clean_up,
}


async def start(client: Client, agent: str, key: str | None = None, thread_id: str = "t") -> Frame:
    """Start a run, and return the payload of its confirmation."""
    await client.say(agent, key, agent=agent, thread_id=thread_id)
    frames = await client.until("agent_asking" if agent == "ask" else "partial_result")
    confirmed: Frame = next(each for each in frames if each["type"] == "message_confirmed")
    payload: Frame = confirmed["payload"]
    return payload


async def delete(client: Client) -> None:
    await client.send("delete_thread", {"thread_id": "t"}, "d-1")


async def deleted(client: Client) -> list[Frame]:
    """Return the frames before the reply to `delete`."""
    frames = [await client.next()]
    while frames[-1].get("correlation_id") != "d-1":
        frames.append(await client.next())
    assert frames.pop()["payload"] == {"thread_id": "t", "change": "deleted"}
    return frames


def store_of(server: Server) -> MemoryStore:
    store = server.node.services.store.store  # type: ignore[attr-defined]
    assert isinstance(store, MemoryStore)
    return store


@pytest.mark.parametrize(
    ("agent", "seconds", "is_abandoned"),
    [("work", 0, False), ("ask", 0, False), ("clean_up", 1.5, False), ("shielded", 2.75, True)],
)
async def test_a_run_ends_before_its_thread_is_deleted(
    autojump_clock: MockClock, agent: str, seconds: float, is_abandoned: bool
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        started = await start(one, agent, "k")
        waits = await start_waiting(one)
        await trio.sleep(0.25)
        await two.sync()
        begin = trio.current_time()
        await delete(two)
        await deleted(two)
        assert seconds <= trio.current_time() - begin <= seconds + 2 * POLL_SECONDS
        ends = {
            frame["payload"]["run_id"]: frame["payload"]
            for frame in await one.sync()
            if frame["type"] == "agent_completed"
        }
        assert set(ends) == {started["run_id"], waits["run_id"]}
        assert {end["status"] for end in ends.values()} == {"cancelled"}
        assert ends[started["run_id"]].get("abandoned", False) is is_abandoned
        assert await threads(one) == []
        await trio.sleep(60)
        assert await threads(one) == []  # nothing has been stored later
        assert await store_of(server).unfinished_runs(UserId("alice")) == []


async def start_waiting(client: Client) -> Frame:
    await client.say("waits", thread_id="t")
    confirmed: Frame = (await client.until("message_confirmed"))[-1]["payload"]
    assert confirmed["status"] == "queued"
    return confirmed


async def test_other_threads_go_on(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await start(one, "work", thread_id="t")
        await start(one, "work", thread_id="u")
        await delete(one)
        assert kinds(await deleted(one)) == ["agent_completed"]
        [thread] = await threads(one)
        assert (thread["thread_id"], thread["runs_active"]) == ("u", 1)


async def test_a_run_whose_end_is_not_stored_is_waited_for_five_seconds(
    autojump_clock: MockClock,
) -> None:
    class NeverEnding(MemoryStore):
        async def end_run(self, end: Any) -> None:
            self.late = end
            await trio.sleep_forever()

    async with (
        open_server(agents=AGENTS, store=NeverEnding(), **QUIET) as server,
        devices(server, 1) as (one,),
    ):
        await start(one, "work", "k")
        begin = trio.current_time()
        await delete(one)
        await deleted(one)
        assert trio.current_time() - begin == STOP_SECONDS
        assert await threads(one) == []
        # The end comes later, and changes nothing.
        store = store_of(server)
        assert isinstance(store, NeverEnding)
        await MemoryStore.end_run(store, store.late)
        assert await threads(one) == []


async def test_a_message_during_the_deletion_is_stopped_too(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await start(one, "clean_up")
        await delete(one)
        await trio.sleep(0.5)
        await one.say("work", agent="work", thread_id="t")
        frames = await deleted(one)
        statuses = [each["payload"]["status"] for each in frames if "status" in each["payload"]]
        assert statuses.count("cancelled") == 2
        assert await threads(one) == []


async def test_a_message_after_the_deletion_begins_the_thread_again(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await one.say("first", "k", agent="at_once", thread_id="t")
        await one.until("agent_completed")
        await delete(one)
        await deleted(one)
        await one.say("second", "l", agent="at_once", thread_id="t")
        await one.until("agent_completed")
        assert [message["content"] for message in await history(one)] == ["second", "second"]
        await trio.sleep(1)
        told = [frame["payload"] for frame in await two.sync()]
        assert [each["change"] for each in told] == ["deleted", "updated"]
        assert told[1]["thread"]["title"] == "second"


async def test_a_key_of_a_deleted_thread_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A day of heartbeats takes long; tests/stores/test_memory_threads.py waits for it.
    monkeypatch.setattr(memory_data, "DELETED_KEY_SECONDS", 600.0)
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await one.say("first", "k", agent="at_once", thread_id="t")
        await one.until("agent_completed")
        await delete(one)
        await deleted(one)
        for client in (one, two):
            await client.say("first", "k", agent="at_once", thread_id="t")
            frames = await client.until("error")
            assert frames[-1]["correlation_id"] == "k"
            assert frames[-1]["payload"]["code"] == "THREAD_NOT_FOUND"
            assert frames[-1]["payload"]["recoverable"] is True
            # With other content it is a conflict, as the key of any other message.
            await client.say("first", "k", agent="at_once", thread_id="u")
            assert (await client.until("error"))[-1]["payload"]["code"] == "VALIDATION_ERROR"
        assert await threads(one) == []
        await trio.sleep(601)
        async with devices(server, 1) as (later,):
            await later.say("first", "k", agent="at_once", thread_id="t")
            confirmed = await later.expect("message_confirmed")
            assert confirmed["payload"]["status"] == "accepted"


async def test_a_duplicate_that_waits_for_an_end_elsewhere(autojump_clock: MockClock) -> None:
    """The thread is deleted on the other server: nothing follows, and its place is free again."""
    store = MemoryStore()
    other_store = store.for_node(new_node_id())
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        open_server(agents=AGENTS, store=other_store, users=(), **QUIET) as other,
        devices(server, 1) as (one,),
        devices(other, 1) as (elsewhere,),
    ):
        await start(one, "work", "k")
        await elsewhere.say("work", "k", agent="work", thread_id="t")
        confirmed = (await elsewhere.expect("message_confirmed"))["payload"]
        assert confirmed["status"] == "duplicate"
        await delete(one)
        await deleted(one)
        await trio.sleep(30)
        assert await elsewhere.sync() == []
        [session] = other.node.sessions
        assert session.events._log._reserved_count == 0


async def test_the_end_of_a_run_of_a_deleted_thread_is_still_sent(
    autojump_clock: MockClock,
) -> None:
    """To its own session, which shows it until the deletion is reported."""
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        started = await start(one, "work", "k")
        await trio.sleep(1)
        await two.sync()
        await delete(two)
        end = await one.expect("agent_completed")
        assert end["payload"]["run_id"] == started["run_id"]
        assert (await changed(one))["change"] == "deleted"


async def test_two_devices_delete_at_once(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await start(one, "clean_up")
        await trio.sleep(1)
        await two.sync()
        await delete(one)
        await delete(two)
        replies = [
            frame
            for client in (one, two)
            for frame in await until_reply(client)
            if frame.get("correlation_id") == "d-1"
        ]
        assert sorted(each["type"] for each in replies) == ["error", "thread_changed"]
        assert (
            next(each["payload"]["code"] for each in replies if each["type"] == "error")
            == "THREAD_NOT_FOUND"
        )


async def until_reply(client: Client) -> list[Frame]:
    frames = [await client.next()]
    while frames[-1].get("correlation_id") != "d-1":
        frames.append(await client.next())
    return frames


async def test_the_room_of_the_thread_is_forgotten(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await start(one, "work")
        broker = server.node.services.broker
        room = thread_room(UserId("alice"), ThreadId("t"))
        limits = server.node.services.publisher.limits
        before = await broker.publish(room, b"x", limits=limits)
        await delete(one)
        await deleted(one)
        after = await broker.publish(room, b"x", limits=limits)
        assert (after.offset, after.epoch != before.epoch) == (1, True)


async def test_a_run_that_is_only_in_the_store(autojump_clock: MockClock) -> None:
    """A server without a broker cannot stop the runs of another one: it waits, then deletes."""
    store = MemoryStore()
    other_store = store.for_node(new_node_id())
    with capture_logs():
        async with (
            open_server(agents=AGENTS, store=store, **QUIET) as server,
            open_server(agents=AGENTS, store=other_store, users=(), **QUIET) as other,
            devices(server, 1) as (one,),
            devices(other, 1) as (elsewhere,),
        ):
            started = await start(one, "work", "k")
            begin = trio.current_time()
            await delete(elsewhere)
            await deleted(elsewhere)
            assert trio.current_time() - begin == STOP_SECONDS
            await one.send("stop_agent", {"run_id": started["run_id"]})
            await one.until("agent_completed")
            assert await threads(one) == []
            await wait_all_tasks_blocked()
            assert await store.find_run(UserId("alice"), RunId(started["run_id"])) is None
