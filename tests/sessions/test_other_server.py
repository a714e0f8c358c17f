"""A duplicate of a message whose run another server executes: two servers with one store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from support.memory import Client, Frame, Server, kinds, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import KeyConflict
from netra_trio.sessions.duplicates import FOLLOW_MAX_SECONDS
from netra_trio.stores.base import Duplicate, NewMessage


async def run_seconds(run: Run) -> str:
    """Run for so many seconds as the message says."""
    await trio.sleep(float(run.content))
    return "slept"


class SharedStore(ScriptedStore):
    """A store whose lookup may not find a key, or find a conflict."""

    forgets = False
    conflicts = False

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return the record of a message."""
        await self._wait_or_fail()
        if self.conflicts:
            raise KeyConflict
        return None if self.forgets else await super().find(message)


class SlowStore(SharedStore):
    """A store whose calls return a moment later than they read."""

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message, or return its record as it was two seconds before."""
        known = await super().record(message)
        if known is not None:
            await trio.sleep(2)
        return known


@asynccontextmanager
async def two_servers(store: SharedStore) -> AsyncIterator[tuple[Client, Client, Server]]:
    """Open two servers, and a client of Alice at each."""
    options: dict[str, Any] = {"agents": {"run_seconds": run_seconds}, "store": store}
    options["resume_window_ms"] = 0
    options["heartbeat_interval_ms"] = (
        3_600_000  # longer than the tests, so that no heartbeat is sent
    )
    async with (
        open_server(**options) as here,
        open_server(**options) as there,
        there.connect() as owner,
        here.connect() as asker,
    ):
        yield owner, asker, here


async def ask_twice(owner: Client, asker: Client, content: str = "60") -> Frame:
    """Send a message to one server, and again to the other; return its second confirmation."""
    await owner.say(content, "k", thread_id="t")
    await owner.until("agent_started")
    await asker.say(content, "k", thread_id="t")
    confirmed: Frame = (await asker.expect("message_confirmed"))["payload"]
    return confirmed


async def test_a_duplicate_gets_the_end_when_it_is_stored(autojump_clock: MockClock) -> None:
    async with two_servers(SharedStore()) as (owner, asker, _):
        confirmed = await ask_twice(owner, asker)
        assert (confirmed["status"], confirmed["run_status"]) == ("duplicate", "running")
        end = await asker.until("agent_completed")
        assert kinds(end) == ["agent_completed"]
        assert end[-1]["correlation_id"] == "k"
        assert end[-1]["payload"] == (await owner.until("agent_completed"))[-1]["payload"]
        assert 60 <= trio.current_time() <= 60 + FOLLOW_MAX_SECONDS


async def test_several_duplicates_get_the_end_once(autojump_clock: MockClock) -> None:
    async with two_servers(SharedStore()) as (owner, asker, _):
        await ask_twice(owner, asker)
        await asker.say("60", "k", thread_id="t")
        await asker.expect("message_confirmed")
        frames = [*await asker.until("agent_completed")]
        await trio.sleep(3 * FOLLOW_MAX_SECONDS)
        frames += await asker.sync()
        assert kinds(frames).count("agent_completed") == 1


async def test_polling_continues_after_the_store_was_unavailable(autojump_clock: MockClock) -> None:
    store = SharedStore()
    async with two_servers(store) as (owner, asker, _):
        await ask_twice(owner, asker)
        store.is_down = True
        await trio.sleep(100)
        store.is_down = False
        assert (await asker.until("agent_completed"))[-1]["payload"]["status"] == "completed"


async def test_polling_stops_if_the_message_is_not_stored_any_more(
    autojump_clock: MockClock,
) -> None:
    for fault in ("forgets", "conflicts"):  # as after a retention, or a restored backup
        store = SharedStore()
        async with two_servers(store) as (owner, asker, here):
            await ask_twice(owner, asker)
            setattr(store, fault, True)
            await trio.sleep(100)
            (session,) = here.node.sessions
            assert session._duplicates._followed == {}
            assert "agent_completed" not in kinds(await asker.sync())


async def test_polling_stops_when_the_session_ends(autojump_clock: MockClock) -> None:
    async with two_servers(SharedStore()) as (owner, asker, here):
        await ask_twice(owner, asker, "3000")
        started = trio.current_time()
        asker.peer.close()
        await asker.done.wait()
        await wait_all_tasks_blocked()
        assert here.node.statistics()["sessions"] == 0
        assert trio.current_time() - started < 1


async def test_an_end_during_the_lookup_is_sent_with_the_confirmation(
    autojump_clock: MockClock,
) -> None:
    async with two_servers(SlowStore()) as (owner, asker, _):
        confirmed = await ask_twice(owner, asker, "1")
        assert confirmed["run_status"] == "completed"
        await asker.expect("agent_completed")


async def test_a_duplicate_found_after_the_end_of_its_session_is_not_polled(
    autojump_clock: MockClock,
) -> None:
    """No task polls the store for a session that ends during the lookup."""
    async with two_servers(SlowStore()) as (owner, asker, here):
        await owner.say("3000", "k", thread_id="t")
        await owner.until("agent_started")
        await asker.say("3000", "k", thread_id="t")
        await trio.sleep(1)
        asker.peer.close()
        await asker.done.wait()
        await trio.sleep(5)
        assert here.node.statistics()["sessions"] == 0
