"""A message whose run another server has at work: two servers on one store."""

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


async def seconds(run: Run) -> str:
    """Take as long as the message says."""
    await trio.sleep(float(run.content))
    return "slept"


class Shared(ScriptedStore):
    """A store that may forget a key, or have it mean something else."""

    forgets = False
    conflicts = False

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return what is known."""
        await self._be_asked()
        if self.conflicts:
            raise KeyConflict
        return None if self.forgets else await super().find(message)


class Slow(Shared):
    """A store that looks, and tells what it saw a moment later."""

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message, or return what is known, two seconds old."""
        known = await super().record(message)
        if known is not None:
            await trio.sleep(2)
        return known


@asynccontextmanager
async def two_servers(store: Shared) -> AsyncIterator[tuple[Client, Client, Server]]:
    """Open two servers, and a client of Alice at each."""
    options: dict[str, Any] = {"agents": {"seconds": seconds}, "store": store}
    options["resume_window_ms"] = 0
    options["heartbeat_interval_ms"] = 3_600_000  # nobody here says more than has to be said
    async with (
        open_server(**options) as here,
        open_server(**options) as there,
        there.connect() as owner,
        here.connect() as asker,
    ):
        yield owner, asker, here


async def ask_twice(owner: Client, asker: Client, content: str = "60") -> Frame:
    """Start a run at one server, and send its message to the other; return what that confirms."""
    await owner.say(content, "k", thread_id="t")
    await owner.until("agent_started")
    await asker.say(content, "k", thread_id="t")
    confirmed: Frame = (await asker.expect("message_confirmed"))["payload"]
    return confirmed


async def test_its_end_is_told_when_it_is_there(autojump_clock: MockClock) -> None:
    async with two_servers(Shared()) as (owner, asker, _):
        confirmed = await ask_twice(owner, asker)
        assert (confirmed["status"], confirmed["run_status"]) == ("duplicate", "running")
        end = await asker.until("agent_completed")
        assert kinds(end) == ["agent_completed"]
        assert end[-1]["correlation_id"] == "k"
        assert end[-1]["payload"] == (await owner.until("agent_completed"))[-1]["payload"]
        assert 60 <= trio.current_time() <= 60 + FOLLOW_MAX_SECONDS


async def test_it_is_told_once_however_often_it_is_asked_for(autojump_clock: MockClock) -> None:
    async with two_servers(Shared()) as (owner, asker, _):
        await ask_twice(owner, asker)
        await asker.say("60", "k", thread_id="t")
        await asker.expect("message_confirmed")
        frames = [*await asker.until("agent_completed")]
        await trio.sleep(3 * FOLLOW_MAX_SECONDS)
        frames += await asker.sync()
        assert kinds(frames).count("agent_completed") == 1


async def test_a_store_that_is_down_is_asked_again(autojump_clock: MockClock) -> None:
    store = Shared()
    async with two_servers(store) as (owner, asker, _):
        await ask_twice(owner, asker)
        store.is_down = True
        await trio.sleep(100)
        store.is_down = False
        assert (await asker.until("agent_completed"))[-1]["payload"]["status"] == "completed"


async def test_what_is_not_known_any_more_is_not_waited_for(autojump_clock: MockClock) -> None:
    for fault in ("forgets", "conflicts"):  # after a retention, or a backup
        store = Shared()
        async with two_servers(store) as (owner, asker, here):
            await ask_twice(owner, asker)
            setattr(store, fault, True)
            await trio.sleep(100)
            (session,) = here.node.sessions
            assert session._duplicates._followed == {}
            assert "agent_completed" not in kinds(await asker.sync())


async def test_leaving_ends_the_waiting(autojump_clock: MockClock) -> None:
    async with two_servers(Shared()) as (owner, asker, here):
        await ask_twice(owner, asker, "3000")
        started = trio.current_time()
        asker.line.close()
        await asker.done.wait()
        await wait_all_tasks_blocked()
        assert here.node.statistics()["sessions"] == 0
        assert trio.current_time() - started < 1


async def test_an_end_between_two_looks_is_told_with_the_confirmation(
    autojump_clock: MockClock,
) -> None:
    async with two_servers(Slow()) as (owner, asker, _):
        confirmed = await ask_twice(owner, asker, "1")
        assert confirmed["run_status"] == "completed"
        await asker.expect("agent_completed")


async def test_a_duplicate_that_is_found_after_the_end_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    """Whoever leaves while the store answers does not leave somebody behind who goes on asking."""
    async with two_servers(Slow()) as (owner, asker, here):
        await owner.say("3000", "k", thread_id="t")
        await owner.until("agent_started")
        await asker.say("3000", "k", thread_id="t")
        await trio.sleep(1)
        asker.line.close()
        await asker.done.wait()
        await trio.sleep(5)
        assert here.node.statistics()["sessions"] == 0
