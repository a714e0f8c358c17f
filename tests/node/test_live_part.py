"""The part of a node for the live page: its sessions, its runs, and what each of them waits for."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, get_type_hints

import orjson
import pytest
import trio
from support.live import ADMIN, LivePage
from support.memory import Client, Frame, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio import Run, agent
from netra_trio.errors import RetryableAgentError
from netra_trio.node import live_part
from netra_trio.protocol import admin
from netra_trio.protocol.admin import PART_RUNS, PART_SESSIONS, PART_TOOLS
from netra_trio.rooms.publisher import ROOM_EVENT_BYTES
from netra_trio.stores.base import RunEnd, StoredEnd

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 300_000, "max_message_rate": 10_000}
SECRET_TEXT = "a text that only its user may read"


async def say(client: Client, text: str = SECRET_TEXT, **payload: Any) -> str:
    """Send a message; return the id of its run, once it is confirmed."""
    await client.say(text, **payload)
    run_id: str = (await client.until("message_confirmed"))[-1]["payload"]["run_id"]
    return run_id


async def sleeps(_: Run) -> None:
    await trio.sleep_forever()


async def watch(client: Client) -> LivePage:
    """Open the live page; return it with the first part."""
    page = await LivePage.join(client)
    await page.until(lambda: page.parts)
    return page


async def state_of(page: LivePage, run_id: str) -> Frame:
    """Return the state of a run in a part that is made from now on."""
    await page.refresh()
    return await page.until(lambda: page.run(run_id))


# Waits.


async def calls_model(run: Run) -> None:
    with run.model_call():
        await trio.sleep_forever()


async def calls_tool(run: Run) -> None:
    async with run.tool("weather", city=SECRET_TEXT):
        await trio.sleep_forever()


async def calls_model_in_tool(run: Run) -> None:
    async with run.tool("research"):
        await calls_model(run)


async def emits(run: Run) -> None:
    while True:
        await run.emit("x" * 10_000)


async def thinks(run: Run) -> None:
    while True:
        await run.think("x" * 10_000)


async def asks(run: Run) -> None:
    await run.ask(SECRET_TEXT)


async def asks_approval(run: Run) -> None:
    async with run.tool("pay", approve=True, amount=SECRET_TEXT):
        raise AssertionError("not approved")


async def reads_history(run: Run) -> None:
    await trio.sleep(0.1)
    await run.history()


async def moment(_: Run) -> None:
    await trio.sleep(0.1)


async def retries(_: Run) -> None:
    raise RetryableAgentError


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (sleeps, None),
        (calls_model, "model"),
        (calls_tool, "tool"),
        (calls_model_in_tool, "model"),
        (emits, "client"),
        (thinks, "client"),
        (asks, "answer"),
        (asks_approval, "answer"),
        (reads_history, "store"),
    ],
)
async def test_what_a_run_waits_for_and_for_how_long(
    function: Callable[[Run], Awaitable[Any]], expected: str | None, autojump_clock: MockClock
) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents={"agent": function}, store=store, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
        server.connect(acknowledging=True) as client,
    ):
        page = await watch(watcher)
        run_id = await say(client)
        store.hold()
        await trio.sleep(0.5)
        run = await state_of(page, run_id)
        assert run["status"] == "running"
        assert run["waits_for"] == expected
        if expected is None:
            assert run["waits"] is None
        else:
            assert 0.4 < run["waits"] <= run["age"]


class HeldStore(ScriptedStore):
    """A store whose ends of runs also wait until `release`."""

    async def end_run(self, end: RunEnd) -> StoredEnd | None:
        await self._wait_or_fail()
        return await super().end_run(end)


async def test_a_message_and_an_end_wait_for_the_store(autojump_clock: MockClock) -> None:
    store = HeldStore()
    async with (
        open_server(agents={"agent": moment}, store=store, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
        server.connect(acknowledging=True) as client,
    ):
        page = await watch(watcher)
        store.hold()
        await client.say("hello", "k-1")
        run = await page.until(lambda: next(iter(all_runs(page)), None))
        assert (run["status"], run["attempt"], run["waits_for"]) == ("queued", 0, "store")
        store.release()
        await client.until("agent_started")
        store.hold()
        run = await page.until(lambda: waiting_for("store", page), 3)
        assert run["attempt"] == 1
        store.release()
        await client.until("agent_completed")
        await page.until(lambda: not all_runs(page))


def all_runs(page: LivePage) -> list[Frame]:
    return [run for part in page.parts.values() for run in part["runs"]]


def waiting_for(what: str, page: LivePage, status: str = "running") -> Frame | None:
    wanted = (what, status)
    runs = all_runs(page)
    return next((run for run in runs if (run["waits_for"], run["status"]) == wanted), None)


async def test_a_run_waits_for_its_next_attempt(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"agent": retries}, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
        server.connect() as client,
    ):
        page = await watch(watcher)
        await say(client)
        run = await page.until(lambda: waiting_for("retry", page))
        assert run["attempt"] in {1, 2}


async def test_a_queued_run_waits_for_its_turn(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"agent": sleeps}, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
        server.connect() as client,
    ):
        page = await watch(watcher)
        first = await say(client, thread_id="main")
        second = await say(client, thread_id="main")
        await trio.sleep(2)
        run = await state_of(page, second)
        assert (run["status"], run["waits_for"], run["deadline"]) == ("queued", "queue", None)
        assert run["waits"] == run["age"] == pytest.approx(2.5, abs=0.6)
        part = next(iter(page.parts.values()))
        assert [each["run_id"] for each in part["runs"]] == [first, second]
        assert (part["totals"]["running"], part["totals"]["queued"]) == (1, 1)
        session = page.session(client.hello["payload"]["session_id"])
        assert session is not None
        assert (session["runs_running"], session["runs_queued"]) == (1, 1)


# Shapes.


async def many_tools(run: Run) -> None:
    for number in range(PART_TOOLS + 2):
        run.nursery.start_soon(one_tool, run, f"tool_{number}")
        await trio.sleep(0.01)
    await run.think(SECRET_TEXT)
    await run.emit(SECRET_TEXT)
    await run.ask(SECRET_TEXT)


async def one_tool(run: Run, name: str) -> None:
    async with run.tool(name, argument=SECRET_TEXT):
        await trio.sleep_forever()


async def test_the_fields_are_the_documented_ones_and_have_no_content(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"busy": many_tools}, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
        server.connect(acknowledging=True) as client,
    ):
        page = await watch(watcher)
        run_id = await say(client, thread_id="main")
        await trio.sleep(15)  # until there is a sample
        run = await state_of(page, run_id)
        (part,) = page.parts.values()
        assert part.keys() == fields_of(admin.NodePart)
        assert part["now"].keys() == part["sample"].keys() == fields_of(admin.Sample)
        assert part["capacity"].keys() == fields_of(admin.Capacity)
        assert part["totals"].keys() == fields_of(admin.Totals)
        for session in part["sessions"]:
            assert session.keys() == fields_of(admin.SessionPart)
        assert run.keys() == fields_of(admin.RunPart)
        assert [tool["name"] for tool in run["tools"]] == [f"tool_{n}" for n in range(PART_TOOLS)]
        assert run["tools"][0].keys() == fields_of(admin.ToolPart)
        assert run["tools_total"] == PART_TOOLS + 2
        assert (run["agent"], run["thread_id"], run["user_id"]) == ("busy", "main", "alice")
        assert run["deadline"] is None  # a question is open
        assert run["session_id"] == client.hello["payload"]["session_id"]
        assert SECRET_TEXT not in str(page.received)


def fields_of(shape: type[Any]) -> set[str]:
    return set(get_type_hints(shape))


async def test_the_fields_of_a_session(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"agent": sleeps}, resume_window_ms=60_000, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
    ):
        page = await watch(watcher)
        async with server.connect(acknowledging=True) as client:
            session_id = client.hello["payload"]["session_id"]
            await say(client)
            await client.until("agent_started")
            session = await new_session_state(page, session_id)
            assert session["acknowledging"]
            assert session["attached"]
            assert session["window"] is None
            assert session["connections"] == 1
            assert session["log_events"] == 2  # not acknowledged
            assert session["unsent"] == 0
        await trio.sleep(10)
        session = await new_session_state(page, session_id)
        assert not session["attached"]
        assert session["connections"] == 0
        assert 48 < session["window"] < 51
        assert session["age"] == pytest.approx(60 - session["window"], abs=1.5)
        (part,) = page.parts.values()
        assert (part["totals"]["attached"], part["totals"]["detached"]) == (1, 1)
        assert part["users_by_connections"]["1"] == 1
        await trio.sleep(55)
        await page.refresh()
        assert page.session(session_id) is None


async def new_session_state(page: LivePage, session_id: str) -> Frame:
    await page.refresh()
    return await page.until(lambda: page.session(session_id))


async def test_a_run_without_a_session_is_shown(autojump_clock: MockClock) -> None:
    agents = {"agent": agent(sleeps, unattended="continue")}
    async with (
        open_server(agents=agents, resume_window_ms=1000, **QUIET) as server,
        server.connect("bob", permissions=ADMIN) as watcher,
    ):
        page = await watch(watcher)
        async with server.connect() as client:
            run_id = await say(client)
        await trio.sleep(3)
        run = await state_of(page, run_id)
        assert run["session_id"] is None
        assert run["unattended"]
        assert run["deadline"] == pytest.approx(300 - run["age"], abs=0.1)
        (part,) = page.parts.values()
        assert part["totals"]["sessions"] == 1
        assert part["totals"]["running"] == 1


# Bounds.


async def test_a_part_has_a_bounded_number_of_sessions_and_runs(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_part, "PART_SESSIONS", 3)
    monkeypatch.setattr(live_part, "PART_RUNS", 2)
    agents = {"sleeps": sleeps, "model": calls_model}
    async with open_server(agents=agents, **QUIET) as server, AsyncExitStack() as stack:

        async def connect() -> None:
            connecting = server.connect(f"user_{len(clients)}", permissions=ADMIN)
            clients.append(await stack.enter_async_context(connecting))

        clients: list[Client] = []
        for _ in range(3):
            await connect()
        page = await watch(clients[0])
        (part,) = page.parts.values()
        assert len(part["sessions"]) == 3
        assert not part["truncated"]
        await connect()
        await page.refresh()
        (part,) = page.parts.values()
        assert len(part["sessions"]) == 3
        assert part["totals"]["sessions"] == 4
        assert part["truncated"]
        # The runs that wait longest, and their sessions, come first.
        await say(clients[1])
        waits = await ask_model(clients[3])
        await trio.sleep(0.1)
        shorter = await ask_model(clients[2])
        await state_of(page, waits)
        (part,) = page.parts.values()
        assert [run["run_id"] for run in part["runs"]] == [waits, shorter]
        assert part["totals"]["running"] == 3
        users = [session["user_id"] for session in part["sessions"]]
        assert users == ["user_3", "user_2", "user_0"]


async def ask_model(client: Client) -> str:
    await client.send("agent_request", {"agent": "model", "input": "x"})
    run_id: str = (await client.until("message_confirmed"))[-1]["payload"]["run_id"]
    return run_id


async def test_the_bounds_are_those_of_the_contract() -> None:
    assert (PART_SESSIONS, PART_RUNS) == (200, 500)
    assert ROOM_EVENT_BYTES == 256 * 1024


async def test_a_part_that_is_too_large_is_cut(autojump_clock: MockClock) -> None:
    async with (
        open_server(**QUIET) as server,
        server.connect(permissions=ADMIN) as client,
    ):
        page = await watch(client)
        (part,) = page.parts.values()
        large = {**part, "runs": [{"thread_id": "x" * 10_000}] * 100}
        data = live_part.encode(large)  # type: ignore[arg-type] # of another shape
        assert len(data) <= live_part.CONTENT_BYTES
        shown = orjson.loads(data)
        assert shown["truncated"]
        assert len(shown["runs"]) == 25
        fits = live_part.encode({**part, "runs": []})  # type: ignore[typeddict-item]
        assert not orjson.loads(fits)["truncated"]
