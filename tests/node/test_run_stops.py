"""Requests in the store to stop runs: the node of a run looks for them while it has runs."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import trio
from support.memory import Server, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import RunId
from netra_trio.node.run_stops import POLL_SECONDS
from netra_trio.stores.memory import MemoryStore


class CountingStore(MemoryStore):
    """A store that counts the looks for requests, and cannot answer while `is_down`."""

    looks = 0
    is_down = False

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the requests after another one."""
        self.looks += 1
        if self.is_down:
            raise StoreUnavailable("down")
        return await super().stop_requests(after)


async def wait(run: Run) -> None:
    """Wait for a cancellation."""
    await run.emit("…")
    await trio.sleep_forever()


def serving(store: MemoryStore) -> AbstractAsyncContextManager[Server]:
    return open_server(agents={"wait": wait}, store=store, heartbeat_interval_ms=3_600_000)


async def test_a_run_is_stopped(autojump_clock: MockClock) -> None:
    store = CountingStore()
    async with (
        serving(store) as server,
        server.connect() as client,
        server.connect("bob") as other,
    ):
        await client.say("go")
        run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
        await other.say("go")
        await other.until("partial_result")
        assert await store.request_stop(run_id)
        ended = (await client.until("agent_completed"))[-1]["payload"]
        assert (ended["run_id"], ended["status"]) == (run_id, "cancelled")
        assert trio.current_time() <= 2 * POLL_SECONDS
        assert await other.sync() == []
        assert not await store.request_stop(run_id)


async def test_a_node_without_runs_does_not_look(autojump_clock: MockClock) -> None:
    store = CountingStore()
    async with (
        serving(store) as server,
        server.connect() as client,
    ):
        await trio.sleep(60)
        assert store.looks == 1  # for the number of the newest request
        await client.say("go")
        run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
        await trio.sleep(10.5 * POLL_SECONDS)
        assert store.looks in {11, 12}
        await client.send("stop_agent", {"run_id": run_id})
        await client.until("agent_completed")
        looks = store.looks
        await trio.sleep(60)
        assert store.looks <= looks + 1


async def test_a_request_while_the_store_is_down_is_found_later(
    autojump_clock: MockClock,
) -> None:
    store = CountingStore()
    store.is_down = True
    async with (
        serving(store) as server,
        server.connect() as client,
    ):
        await trio.sleep(10)
        store.is_down = False
        await trio.sleep(2 * POLL_SECONDS)
        await client.say("go")
        run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
        store.is_down = True
        await store.request_stop(run_id)
        await trio.sleep(10)
        assert await client.sync() == []
        store.is_down = False
        assert (await client.until("agent_completed"))[-1]["payload"]["status"] == "cancelled"
