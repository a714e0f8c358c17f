"""The other sessions of a user get the changes of a thread by runs, collected for a short time."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from support.devices import call, changed, converse, devices
from support.memory import Client, Frame, Server, open_server
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import SessionId, ThreadId, UserId, unlisted_thread_id
from netra_trio.node import thread_changes
from netra_trio.node.thread_changes import COALESCE_SECONDS, PENDING_CHANGES, Change
from netra_trio.protocol.threads import ThreadChange
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.threads import StoredThread

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
ALICE = UserId("alice")


async def one_second(run: Run) -> None:
    await run.emit("part")
    await trio.sleep(1)


async def ask(run: Run) -> None:
    await run.ask("Which one?")


async def at_once(run: Run) -> None:
    await run.emit(run.content)


async def name_it(run: Run) -> str:
    return str(await run.set_title(run.content))


@pytest.fixture(autouse=True)
def exact_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_changes, "COALESCE_SPREAD", 0.0)


AGENTS = {"at_once": at_once, "one_second": one_second, "ask": ask, "name_it": name_it}


async def test_a_message_and_its_end_are_one_change(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        for number in range(3):
            await converse(one, f"hello {number}")
        told = await changed(two)
        assert trio.current_time() == COALESCE_SECONDS
        assert told["change"] == "updated"
        assert told["thread"]["runs_active"] == 0
        assert told["thread"]["unread"] == 3
        await trio.sleep(1)
        assert await two.sync() == []
        assert await one.sync() == []  # it has the events themselves


async def test_a_long_run_is_two_changes(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "hello", agent="one_second")
        assert (await changed(two))["thread"]["runs_active"] == 1
        assert (await changed(two))["thread"]["runs_active"] == 0
        assert trio.current_time() == 1 + COALESCE_SECONDS


async def test_two_threads_are_two_changes(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "a", thread_id="t")
        await converse(one, "b", thread_id="u")
        assert {(await changed(two))["thread_id"] for _ in range(2)} == {"t", "u"}
        assert trio.current_time() == COALESCE_SECONDS


async def test_opening_and_closing_a_question_are_changes(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await one.say("hello", agent="ask", thread_id="t")
        asked = (await one.until("agent_asking"))[-1]["payload"]
        assert (await changed(two))["thread"]["asks"] is True
        await trio.sleep(1)
        await two.send("answer", {"question_id": asked["question_id"], "answer": 1}, "a-1")
        told = [await two.next(), await two.next()]
        assert {frame["type"] for frame in told} == {"agent_answered", "thread_changed"}
        thread = next(each for each in told if each["type"] == "thread_changed")
        assert thread["payload"]["thread"]["asks"] is False


async def test_two_devices_that_write_at_once_get_both_changes(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "a")
        await converse(two, "b")
        assert (await changed(one))["thread"]["unread"] == 2
        assert (await changed(two))["thread"]["unread"] == 2
        await trio.sleep(1)
        assert await one.sync() == await two.sync() == []


async def test_nothing_is_read_for_a_user_with_one_session(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (one,),
        devices(server, 1, user="bob") as (bob,),
    ):
        await converse(one, "a")
        await trio.sleep(1)
        assert store.read == []
        assert await one.sync() == await bob.sync() == []


async def test_the_run_of_a_session_without_a_connection(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await one.say("hello", agent="one_second", thread_id="t")
        await one.until("partial_result")
        assert (await changed(two))["thread"]["runs_active"] == 1
        one.peer.cut()
        await one.done.wait()
        assert (await changed(two))["thread"]["runs_active"] == 0


async def test_a_session_does_not_get_changes_that_its_resume_replays(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await one.say("hello", agent="one_second", thread_id="t")
        await one.until("partial_result")
        one.peer.cut()
        await one.done.wait()
        session_id = one.hello["payload"]["session_id"]
        async with devices(server, 1, session_id=session_id) as (again,):
            await again.until("agent_completed")
            await trio.sleep(1)
            assert await again.sync() == []
            assert (await changed(two))["thread"]["unread"] == 0
            assert (await changed(two))["thread"]["unread"] == 1


# Titles by an agent.


async def test_an_agent_names_the_thread(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        title = "n" * 200
        await one.say(title, "k", agent="name_it", thread_id="t")
        told = {(frame := await one.next())["type"]: frame["payload"] for _ in range(4)}
        renamed = told["thread_changed"]
        assert (renamed["change"], renamed["thread"]["title"]) == ("renamed", title)
        assert told["agent_completed"]["result"] == "True"
        assert (await changed(two))["change"] == "renamed"
        assert trio.current_time() == 0
        assert (await changed(two))["change"] == "updated"


async def test_the_title_of_the_user_stays(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 1) as (one,):
        await converse(one, "hello")
        await call(one, "rename_thread", {"thread_id": "t", "title": "Mine"})
        await one.say("Yours", agent="name_it", thread_id="t")
        frames = await one.until("agent_completed")
        assert frames[-1]["payload"]["result"] == "False"
        assert [each["type"] for each in frames].count("thread_changed") == 0
        [thread] = (await call(one, "list_threads"))["threads"]
        assert thread["title"] == "Mine"


@pytest.mark.parametrize(
    ("title", "error"),
    [
        ("x" * 201, ValueError),
        (" \n", ValueError),
        ("", ValueError),
        ("\ud800", ValueError),
        (7, TypeError),
        (None, TypeError),
    ],
)
async def test_no_title(autojump_clock: MockClock, title: Any, error: type[Exception]) -> None:
    async def name_it(run: Run) -> str:
        with pytest.raises(error):
            await run.set_title(title)
        return "refused"

    async with (
        open_server(agents={"name_it": name_it}) as server,
        server.connect() as client,
    ):
        await client.say("hello")
        end = (await client.until("agent_completed"))[-1]
        assert end["payload"]["result"] == "refused"


async def test_a_run_that_has_ended_sets_no_title(autojump_clock: MockClock) -> None:
    runs: list[Run] = []

    async def keep(run: Run) -> None:
        runs.append(run)

    async with open_server(agents={"keep": keep}) as server, server.connect() as client:
        await converse(client, "hello")
        with pytest.raises(trio.ClosedResourceError):
            await runs[0].set_title("late")


# A client that does not read, and a store that does not answer.


class ReadingStore(MemoryStore):
    """A store that notes which threads are read.

    Attributes:
        read: The threads, in order.
        failures: How many calls fail.
        seconds: How long each call takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[ThreadId] = []
        self.failures = 0
        self.seconds = 0.0

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        self.read.append(thread_id)
        await trio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("scripted")
        return await super().get_thread(user_id, thread_id)


class SlowStore(MemoryStore):
    """A store whose next reads of a thread take these seconds to return."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        stored = await super().get_thread(user_id, thread_id)
        if self.delays:
            await trio.sleep(self.delays.pop(0))
        return stored


def tell(server: Server, thread_id: str, change: ThreadChange) -> None:
    """Tell all sessions that a thread has changed."""
    server.node._threads.publish(ALICE, ThreadId(thread_id), change, excluded=SessionId("none"))


async def fill(client: Client) -> None:
    """Let the server send replies that the client does not read, until it has no room."""
    for number in range(2000):
        await client.send("ping", {"text": "x" * 900}, str(number))
        await wait_all_tasks_blocked()


async def read_all(client: Client) -> Sequence[Frame]:
    """Return the `thread_changed` frames that wait for a client."""
    frames: list[Frame] = []
    while True:
        with trio.move_on_after(2) as scope:
            frames.append(await client.next())
        if scope.cancelled_caught:
            return [frame["payload"] for frame in frames if frame["type"] == "thread_changed"]


async def test_a_failed_read_of_the_store_is_repeated(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 2) as (one, two),
    ):
        store.failures = 2
        await converse(one, "hello")
        assert (await changed(two))["change"] == "updated"
        assert trio.current_time() == 2 + COALESCE_SECONDS


@pytest.mark.parametrize("delays", [[1.0, 0.0], [0.0, 1.0]], ids=["reply", "other session"])
async def test_the_last_frame_has_the_last_title_though_a_read_before_it_is_slow(
    delays: list[float], autojump_clock: MockClock
) -> None:
    store = SlowStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 2) as (one, two),
    ):
        await converse(one, "hello")
        await changed(two)
        store.delays = list(delays)
        await two.send("rename_thread", {"thread_id": "t", "title": "Two"}, "two")
        await trio.sleep(0.5)
        await one.send("rename_thread", {"thread_id": "t", "title": "One"}, "one")
        for client in (one, two):
            titles = [each["thread"]["title"] for each in await read_all(client)]
            assert titles[-1] == "One"
        assert not server.node._threads._changes._reads


async def test_a_change_during_a_failure_is_sent_once(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (one,),
    ):
        await converse(one, "hello")
        for first, second, expected in (
            (ThreadChange.UPDATED, ThreadChange.RENAMED, ["renamed"]),
            (ThreadChange.RENAMED, ThreadChange.UPDATED, ["renamed"]),
            (ThreadChange.UPDATED, ThreadChange.DELETED, ["deleted"]),
            (ThreadChange.DELETED, ThreadChange.UPDATED, ["deleted", "updated"]),
        ):
            store.failures = 1
            tell(server, "t", first)
            await trio.sleep(0.5)
            tell(server, "t", second)
            assert [each["change"] for each in await read_all(one)] == expected


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_thread_that_is_deleted_while_it_is_read(
    autojump_clock: MockClock, failures: int
) -> None:
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (one,),
    ):
        await converse(one, "hello")
        store.failures, store.seconds = failures, 0.5
        tell(server, "t", ThreadChange.UPDATED)
        await trio.sleep(0.2)
        await store.delete_thread(ALICE, ThreadId("t"))
        tell(server, "t", ThreadChange.DELETED)
        assert [each["change"] for each in await read_all(one)] == ["deleted"]


async def test_a_user_that_leaves_while_a_thread_is_read(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with open_server(agents=AGENTS, store=store, **QUIET) as server:
        async with devices(server, 1) as (one,):
            await converse(one, "hello")
            store.seconds = 0.5
            tell(server, "t", ThreadChange.UPDATED)
            await wait_all_tasks_blocked()
        await trio.sleep(1)
        for user_id in (ALICE, UserId("never here")):
            server.node._threads._changes.deliver(
                Change(user_id, ThreadId("t"), ThreadChange.DELETED)
            )
        await trio.sleep(1)
        assert store.read == ["t"]


async def test_a_client_that_does_not_read_gets_changes_later(autojump_clock: MockClock) -> None:
    """The other one gets it at once, and both get the newest one."""
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, send_timeout_ms=3_600_000, **QUIET) as server,
        devices(server, 1, buffer_bytes=1024) as (slow,),
        devices(server, 1) as (quick,),
    ):
        await converse(quick, "hello")
        await slow.until("thread_changed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, slow)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        for change in (ThreadChange.UPDATED, ThreadChange.RENAMED, ThreadChange.UPDATED):
            tell(server, "t", change)
            assert (await changed(quick))["change"] == change
        tell(server, "gone", ThreadChange.DELETED)
        assert (await changed(quick))["thread_id"] == "gone"
        await trio.sleep(1)
        told = await read_all(slow)
        assert [(each["thread_id"], each["change"]) for each in told] == [
            ("t", "renamed"),
            ("gone", "deleted"),
        ]
        assert await quick.sync() == []


async def test_pending_changes_of_a_client_are_bounded(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with (
        open_server(agents=AGENTS, store=store, **QUIET) as server,
        devices(server, 1) as (one,),
    ):
        for number in range(PENDING_CHANGES + 2):
            tell(server, f"t{number}", ThreadChange.DELETED)
        told = await read_all(one)
        assert [each["thread_id"] for each in told] == [
            f"t{number}" for number in range(2, PENDING_CHANGES + 2)
        ]


async def test_a_client_that_leaves_is_forgotten(autojump_clock: MockClock) -> None:
    store = ReadingStore()
    async with open_server(agents=AGENTS, store=store, **QUIET) as server:
        async with devices(server, 2) as (one, two):
            await converse(one, "hello")
            await changed(two)
            store.failures = 1
            tell(server, "t", ThreadChange.UPDATED)
            await wait_all_tasks_blocked()
            two.peer.cut()
            await two.done.wait()
            await trio.sleep(2)
            assert (await changed(one))["change"] == "updated"
        changes = server.node._threads._changes
        assert not changes._pending
        assert not changes._sending
        assert not changes._noted


def test_changes_of_one_thread_are_merged() -> None:
    def change(kind: ThreadChange, excluded: str | None) -> Change:
        session_id = None if excluded is None else SessionId(excluded)
        return Change(ALICE, ThreadId("t"), kind, session_id)

    updated, renamed = ThreadChange.UPDATED, ThreadChange.RENAMED
    assert change(updated, "a").merged(change(updated, "a")) == change(updated, "a")
    assert change(updated, "a").merged(change(updated, "b")) == change(updated, None)
    assert change(renamed, "a").merged(change(updated, "a")) == change(renamed, "a")
    assert change(updated, None).merged(change(renamed, "a")) == change(renamed, None)


async def test_a_thread_that_is_not_listed_has_no_changes(autojump_clock: MockClock) -> None:
    thread_id = unlisted_thread_id("k")
    async with open_server(agents=AGENTS, **QUIET) as server, devices(server, 2) as (one, two):
        await converse(one, "a title", agent="name_it", thread_id=thread_id)
        await trio.sleep(1)
        assert await two.sync() == []
        server.node.services.threads.publish(
            ALICE, thread_id, ThreadChange.UPDATED, excluded=SessionId("other")
        )
        await trio.sleep(1)
        assert await two.sync() == []
