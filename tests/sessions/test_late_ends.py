"""Ends that come too late: another node took this one for gone, and ended its runs."""

from typing import Any

import pytest
import trio
from orjson import dumps
from structlog.testing import capture_logs
from support.memory import Client, Frame, kinds, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.ids import RunId
from netra_trio.protocol.messages import RunStatus
from netra_trio.sessions.run_end import SHORT_RESULT_BYTES
from netra_trio.sessions.runner import END_STORE_TIMEOUT
from netra_trio.stores.base import RunEnd, StoredEnd, interrupted
from netra_trio.stores.memory import MemoryStore


async def one_second(run: Run) -> str:
    await run.emit("part")
    await trio.sleep(1)
    return "done"


async def broken(run: Run) -> str:
    await run.emit("part")
    await trio.sleep(1)
    raise ValueError


async def start(client: Client, key: str) -> RunId:
    """Start a run, and return its id once it has emitted."""
    await client.say("hello", key)
    frames = await client.until("partial_result")
    return RunId(frames[0]["payload"]["run_id"])


@pytest.mark.parametrize("agent", [one_second, broken])
async def test_the_client_and_the_watchers_are_told_of_the_end_that_stands(
    autojump_clock: MockClock, agent: Any
) -> None:
    store = ScriptedStore()
    with capture_logs() as logs:
        await _end_late(store, agent)
    (ended,) = [line for line in logs if line["event"] == "run_ended"]
    assert ended["status"] == "interrupted"
    assert ended.get("code") is None


async def _end_late(store: ScriptedStore, agent: Any) -> None:
    async with (
        open_server(agents={"agent": agent}, store=store) as server,
        server.connect() as client,
        server.connect() as watcher,
    ):
        run_id = await start(client, "k")
        await watcher.say("hello", "k")
        assert (await watcher.expect("message_confirmed"))["payload"]["status"] == "duplicate"
        store.end_runs_of(store.owner)
        end = await client.expect("agent_completed")
        assert trio.current_time() == 1
        expected = {"run_id": run_id, "status": "interrupted", "duration_ms": 0}
        assert (end["payload"], end["correlation_id"]) == (expected, "k")
        assert (await watcher.expect("agent_completed"))["payload"] == expected
        await client.say("hello", "k")
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["message_confirmed", "agent_completed"]
        assert frames[0]["payload"]["run_status"] == "interrupted"
        assert frames[1]["payload"] == expected


async def test_an_own_end_that_is_not_stored_in_time_is_told(autojump_clock: MockClock) -> None:
    """The store does not say in time that another end stands."""

    class Slow(MemoryStore):
        async def end_run(self, end: RunEnd) -> StoredEnd | None:
            stood = await super().end_run(end)
            await trio.sleep(END_STORE_TIMEOUT + 1)
            return stood

    store = Slow()
    async with (
        open_server(agents={"agent": one_second}, store=store) as server,
        server.connect() as client,
    ):
        await start(client, "k")
        store.end_runs_of(store.owner)
        end = await client.expect("agent_completed")
        assert trio.current_time() == 1 + END_STORE_TIMEOUT
        assert (end["payload"]["status"], end["payload"]["result"]) == ("completed", "done")


@pytest.mark.parametrize(("replay_bytes", "is_short"), [(1_048_576, False), (1_024, True)])
async def test_the_end_that_stands_has_room_in_the_log(
    autojump_clock: MockClock, replay_bytes: int, is_short: bool
) -> None:
    """Another node adopted the run, and completed it with a long result."""
    result = "x" * (2 * SHORT_RESULT_BYTES)

    class Stored(MemoryStore):
        async def end_run(self, end: RunEnd) -> StoredEnd | None:
            await super().end_run(end)
            completed = {"run_id": end.run_id, "status": "completed", "result": result}
            return StoredEnd(end.run_id, RunStatus.COMPLETED, dumps(completed))

    async def fills_the_log(run: Run) -> None:
        await run.emit("y" * 2_000)
        raise ValueError

    settings: dict[str, Any] = {"replay_bytes": replay_bytes}
    async with (
        open_server(agents={"agent": fills_the_log}, store=Stored(), **settings) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("hello", "k")
        payload = (await client.until("agent_completed"))[-1]["payload"]
        assert payload["status"] == "completed"
        assert (len(payload["result"]) < len(result)) is is_short
        assert payload.get("truncated", False) is is_short


async def test_the_end_of_a_run_that_was_not_taken_over_stands(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with (
        open_server(agents={"agent": one_second}, store=store) as server,
        server.connect() as client,
    ):
        run_id = await start(client, "k")
        end: Frame = await client.expect("agent_completed")
        assert end["payload"]["status"] == "completed"
        assert await store.interrupt_run(run_id, owner=store.owner) != interrupted(run_id)
