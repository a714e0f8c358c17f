"""Runs: the events of an agent between `agent_started` and `agent_completed`, and all endings."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import orjson
import pytest
import trio
from structlog.testing import capture_logs
from support.memory import EPOCH, Client, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Agent, Run
from netra_trio.errors import RetryableAgentError, ToolError
from netra_trio.protocol.messages import HistoryMessage

SECRET_TEXT = "the-agents-own-secret"
EVENT_BYTES = 256 * 1024  # of an event
NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
INNER = {
    "agent_started",
    "agent_thinking",
    "partial_result",
    "tool_executing",
    "tool_completed",
}


Logs = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """Capture log lines instead of printing them: formatting a traceback is slow."""
    with capture_logs() as captured:
        yield captured


async def echo(run: Run) -> str:
    await run.emit(run.content)
    return run.content


async def emit_and_wait(run: Run) -> None:
    await run.emit("going on")
    await trio.sleep_forever()


async def events_of(agent: Agent, *, content: str = "hello", **settings: Any) -> list[Frame]:
    """Run an agent once and return all its frames; check that no frame follows the end."""
    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT, **settings) as server,
        server.connect() as client,
    ):
        await client.say(content, "k")
        frames = await client.until("agent_completed")
        await assert_no_frame(client)
    check_run(frames)
    return frames


async def assert_no_frame(client: Client) -> None:
    await trio.testing.wait_all_tasks_blocked()
    await client.send("ping", {"fence": 1})
    assert (await client.expect("pong"))["payload"] == {"fence": 1}


def check_run(frames: list[Frame]) -> None:
    """Check the frames of one run: order of start and end, numbers without a gap, the same key."""
    assert frames[0]["type"] == "message_confirmed"
    assert frames[1]["type"] in {"agent_started", "agent_completed"}
    assert frames[-1]["type"] == "agent_completed"
    assert all(frame["type"] in INNER for frame in frames[1:-1])
    assert {frame["payload"]["run_id"] for frame in frames} == {frames[0]["payload"]["run_id"]}
    assert {frame["correlation_id"] for frame in frames} == {"k"}
    first = frames[0]["seq"]
    assert [frame["seq"] for frame in frames] == list(range(first, first + len(frames)))


def end_of(frames: list[Frame]) -> Frame:
    payload: Frame = frames[-1]["payload"]
    return payload


def payloads(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame["payload"] for frame in frames if frame["type"] == kind]


async def test_the_log_explains_a_function_for_asyncio(
    autojump_clock: MockClock, logs: Logs
) -> None:
    async def agent(run: Run) -> None:
        await asyncio.sleep(0.1)

    assert end_of(await events_of(agent))["status"] == "failed"
    (line,) = [line for line in logs if line["event"] == "run_failed"]
    (note,) = line["exc_info"].__notes__
    assert note.startswith("agent is a function for asyncio: serve it as netra_trio.aio.asyncio_ag")


# Endings.


async def test_a_run_is_completed_with_its_result(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> dict[str, Any]:
        await run.emit("ignored")
        await trio.sleep(0.25)
        return {"answer": [1, 2.5, None, True, "é"]}

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "partial_result", "agent_completed"]
    assert end_of(frames) == {
        "run_id": frames[0]["payload"]["run_id"],
        "status": "completed",
        "duration_ms": 250,
        "result": {"answer": [1, 2.5, None, True, "é"]},
    }
    assert frames[1]["payload"] == {
        "run_id": frames[0]["payload"]["run_id"],
        "agent_name": "agent",
        "thread_id": frames[0]["payload"]["thread_id"],
        "attempt": 1,
    }


async def test_the_result_is_the_emitted_text_if_nothing_is_returned(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        for word in ("a ", "b ", "ç"):
            await run.emit(word)

    assert end_of(await events_of(agent))["result"] == "a b ç"


async def test_the_result_is_empty_if_nothing_is_emitted_or_returned(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        assert run.attempt == 1

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "agent_completed"]
    assert end_of(frames)["result"] == ""


async def test_a_false_value_is_a_result(autojump_clock: MockClock) -> None:
    values: list[Any] = [False, 0, "", [], {}]
    for value in values:

        async def agent(run: Run, value: Any = value) -> Any:
            await run.emit("text")
            return value

        assert end_of(await events_of(agent))["result"] == value


async def broken(_: Run) -> None:
    raise ValueError(SECRET_TEXT)


async def broken_after_output(run: Run) -> None:
    await run.emit("some")
    raise KeyError(SECRET_TEXT)


async def broken_group(run: Run) -> None:
    async def one() -> None:
        raise ValueError(SECRET_TEXT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(broken, run)


async def broken_child(run: Run) -> None:
    run.nursery.start_soon(broken, run)
    await trio.sleep_forever()


async def exit_process(_: Run) -> None:
    raise SystemExit(SECRET_TEXT)


class UnknownBase(BaseException):
    """An exception that `except Exception` does not catch."""


async def raise_base_exception(_: Run) -> None:
    raise UnknownBase(SECRET_TEXT)


async def unserialisable(_: Run) -> object:
    return {SECRET_TEXT: object()}


async def wrong_key(_: Run) -> object:
    return {(SECRET_TEXT,): 1}


async def no_text(_: Run) -> str:
    return f"{SECRET_TEXT} \ud800"


async def too_large_number(_: Run) -> object:
    return {SECRET_TEXT: 2**64}


async def circular(_: Run) -> object:
    turning: list[Any] = [SECRET_TEXT]
    turning.append(turning)
    return turning


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET_TEXT)


async def raise_unprintable(_: Run) -> None:
    raise Unprintable


def not_async(_: Run) -> Any:
    """Return a value: an agent that is not an async function."""
    return 5


FAILING: list[Callable[[Run], Awaitable[Any]]] = [
    broken,
    broken_after_output,
    broken_group,
    broken_child,
    exit_process,
    raise_base_exception,
    unserialisable,
    wrong_key,
    no_text,
    too_large_number,
    circular,
    raise_unprintable,
    not_async,
]


@pytest.mark.parametrize("agent", FAILING)
async def test_a_failed_run_has_an_error_id_and_no_text_of_the_exception(
    autojump_clock: MockClock, agent: Agent, logs: Logs
) -> None:
    frames = await events_of(agent)
    end = end_of(frames)
    assert end["status"] == "failed"
    assert "result" not in end
    assert end["error"]["code"] == "AGENT_ERROR"
    assert end["error"]["recoverable"] is True
    assert end["error"]["timestamp"] == EPOCH
    assert SECRET_TEXT not in str(frames)
    assert "Traceback" not in str(frames)
    (logged,) = [entry for entry in logs if entry["event"] == "run_failed"]
    assert logged["error_id"] == end["error"]["error_id"]
    assert logged["run_id"] == end["run_id"]
    assert isinstance(logged["exc_info"], BaseException)


async def test_each_failure_has_a_different_error_id(autojump_clock: MockClock) -> None:
    ids = {end_of(await events_of(broken))["error"]["error_id"] for _ in range(3)}
    assert len(ids) == 3


async def test_a_session_works_after_a_failed_run(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"broken": exit_process, "echo": echo}) as server,
        server.connect() as client,
    ):
        for _ in range(3):
            await client.say("x", agent="broken")
            assert end_of(await client.until("agent_completed"))["status"] == "failed"
        await client.say("x", agent="echo")
        assert end_of(await client.until("agent_completed"))["status"] == "completed"


@pytest.mark.parametrize(
    ("settings", "payload"),
    [({"agent_timeout_ms": 1500}, {}), ({}, {"deadline_ms": 1500})],
)
async def test_a_run_is_timed_out_at_its_deadline(
    autojump_clock: MockClock, settings: dict[str, Any], payload: dict[str, Any]
) -> None:
    async with (
        open_server(agents={"emit_and_wait": emit_and_wait}, **settings) as server,
        server.connect() as client,
    ):
        await client.say("x", "k", **payload)
        frames = await client.until("agent_completed")
        assert trio.current_time() == 1.5
    check_run(frames)
    end = end_of(frames)
    assert (end["status"], end["duration_ms"]) == ("timed_out", 1500)
    assert end["error"]["code"] == "AGENT_TIMEOUT"
    assert "1.5 s" in end["error"]["error"]
    assert end["error"]["timestamp"] == EPOCH + 1.5


@pytest.mark.parametrize(("limit", "wish", "ends"), [(2000, 1000, 1), (1000, 2000, 1)])
async def test_the_shorter_of_the_two_timeouts_is_used(
    autojump_clock: MockClock, limit: int, wish: int, ends: float
) -> None:
    async with (
        open_server(agents={"emit_and_wait": emit_and_wait}, agent_timeout_ms=limit) as server,
        server.connect() as client,
    ):
        await client.send(
            "agent_request", {"agent": "emit_and_wait", "input": "x", "deadline_ms": wish}, "k"
        )
        assert end_of(await client.until("agent_completed"))["status"] == "timed_out"
        assert trio.current_time() == ends


async def test_the_timeout_starts_when_the_run_starts(
    autojump_clock: MockClock,
) -> None:
    async def second(run: Run) -> float:
        started = trio.current_time()
        await trio.sleep(1)
        return run.deadline - started

    async with open_server(agents={"second": second}) as server, server.connect() as client:
        for _ in range(3):
            await client.say("x", deadline_ms=1250)
        for _ in range(3):
            end = end_of(await client.until("agent_completed"))
            assert (end["status"], end["result"]) == ("completed", 1.25)


async def test_a_run_that_returns_before_its_deadline_is_completed(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> str:
        await trio.sleep_until(run.deadline - 0.001)
        return "just in time"

    frames = await events_of(agent, agent_timeout_ms=1000)
    assert end_of(frames)["result"] == "just in time"


async def test_the_deadline_is_for_all_attempts_together(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        deadlines.append(run.deadline)
        await trio.sleep(0.75)
        raise RetryableAgentError

    deadlines: list[float] = []
    frames = await events_of(agent, agent_timeout_ms=1000)
    assert end_of(frames)["status"] == "timed_out"
    assert end_of(frames)["duration_ms"] == 1000
    assert 1 <= len(deadlines) <= 2
    assert set(deadlines) == {deadlines[0]}


async def test_a_run_is_interrupted_when_the_server_drains(autojump_clock: MockClock) -> None:
    async with open_server(agents={"emit_and_wait": emit_and_wait}, **NO_HEARTBEAT) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("x", "k")
        frames = await client.until("partial_result")
        await client.say("y", "waits")
        await client.until("message_confirmed")
        server.nursery.start_soon(server.node.drain)
        rest, code = await client.rest()
    assert code == 1012
    assert kinds(rest) == ["server_draining", "agent_completed", "agent_completed"]
    waiting, running = rest[1:]
    assert waiting["correlation_id"] == "waits"
    assert (waiting["payload"]["status"], waiting["payload"]["duration_ms"]) == ("interrupted", 0)
    assert waiting["timestamp"] == EPOCH
    check_run([*frames, {**running, "seq": frames[-1]["seq"] + 1}])
    assert running["payload"]["status"] == "interrupted"
    assert running["payload"]["duration_ms"] > 0


async def test_a_new_message_is_refused_while_the_server_drains(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"emit_and_wait": emit_and_wait}, **NO_HEARTBEAT) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("x", "k")
        await client.until("partial_result")
        server.nursery.start_soon(server.node.drain)
        await client.expect("server_draining")
        await client.say("y", "late")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "late"
        assert refusal["payload"]["code"] == "SERVER_DRAINING"
        assert refusal["payload"]["recoverable"] is True
        assert refusal["payload"]["retry_after_ms"] > 0


async def test_runs_are_cancelled_when_their_session_ends(autojump_clock: MockClock) -> None:
    """The history has the final status, whatever events the client has received."""
    cleaned = trio.Event()

    async def agent(run: Run) -> None:
        try:
            await run.emit("part of it")
            await trio.sleep_forever()
        finally:
            cleaned.set()

    async with open_server(agents={"agent": agent}) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("x", "k", thread_id="t")
        await client.say("y", "waits", thread_id="t")
        await client.until("partial_result")
        client.peer.cut()
        await client.done.wait()
        await cleaned.wait()
        await trio.testing.wait_all_tasks_blocked()
        async with server.connect() as again:
            await again.send("get_thread_history", {"thread_id": "t"})
            messages = (await again.expect("thread_history"))["payload"]["messages"]
    assert [message["run"]["status"] for message in messages if message["role"] == "user"] == [
        "cancelled",
        "cancelled",
    ]
    assert [m["content"] for m in messages if m["role"] == "agent"] == ["part of it"]


async def test_a_run_has_an_end_when_its_session_is_cancelled(
    autojump_clock: MockClock, logs: Logs
) -> None:
    """The nursery of the node is cancelled."""
    started = trio.Event()

    async def agent(_: Run) -> None:
        started.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        await trio.sleep_forever()

    async with open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server:
        client = server.start()
        await client.say("x", "k")
        await started.wait()
    (logged,) = [entry for entry in logs if entry["event"] == "run_ended"]
    assert logged["status"] in {"cancelled", "interrupted"}


# Stopping.


async def stop(client: Client, run_id: str) -> list[Frame]:
    await client.send("stop_agent", {"run_id": run_id})
    return await client.until("agent_completed")


async def thinking(run: Run) -> None:
    await run.think("hm", step=1, total=2)
    await trio.sleep_forever()


async def in_a_tool(run: Run) -> None:
    async with run.tool("search", query="x"):
        await trio.sleep_forever()


async def with_children(run: Run) -> None:
    for _ in range(3):
        run.nursery.start_soon(in_a_tool, run)
    await run.emit("started them")


async def backing_off(run: Run) -> None:
    await run.think("again")
    raise RetryableAgentError


async def think_forever(run: Run) -> None:
    while True:
        await run.think("hm")


async def fail_in_cleanup(run: Run) -> None:
    try:
        await emit_and_wait(run)
    finally:
        raise ValueError(SECRET_TEXT)


async def replace_cancellation(run: Run) -> None:
    try:
        await emit_and_wait(run)
    except BaseException:
        raise RetryableAgentError(SECRET_TEXT) from None


async def fail_in_cleanup_of_child(run: Run) -> None:
    run.nursery.start_soon(fail_in_cleanup, run)
    await emit_and_wait(run)


async def clean_up_slowly(run: Run) -> None:
    try:
        await emit_and_wait(run)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.25)


async def emit_in_cleanup(run: Run) -> None:
    """Emit during a cancellation: only the shielded text is sent."""
    try:
        await emit_and_wait(run)
    finally:
        with trio.CancelScope(shield=True):
            await run.emit("one more thing")
        await run.emit("and another")


STOPPED: list[Agent] = [
    emit_and_wait,
    thinking,
    in_a_tool,
    with_children,
    backing_off,
    think_forever,
    fail_in_cleanup,
    replace_cancellation,
    fail_in_cleanup_of_child,
    clean_up_slowly,
    emit_in_cleanup,
]


@pytest.mark.parametrize("acknowledging", [False, True])
@pytest.mark.parametrize("agent", STOPPED)
async def test_a_stop_ends_a_run_in_any_state(
    autojump_clock: MockClock, agent: Agent, acknowledging: bool
) -> None:
    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=acknowledging) as client,
    ):
        await client.say("x", "k")
        frames = [await client.next(), await client.next()]
        run_id = frames[0]["payload"]["run_id"]
        await trio.sleep(0.25)
        frames += await stop(client, run_id)
        await assert_no_frame(client)
        # The run has ended everywhere: its thread is free, and it cannot be stopped again.
        await client.send("stop_agent", {"run_id": run_id})
        assert (await client.error())["code"] == "RUN_NOT_FOUND"
        await client.say("x", "k2", on_busy="reject")
        assert (await client.until("message_confirmed"))[-1]["payload"]["status"] == "accepted"
    check_run(frames)
    end = end_of(frames)
    assert end["status"] == "cancelled"
    assert end["duration_ms"] == (500 if agent is clean_up_slowly else 250)
    assert "error" not in end
    assert "result" not in end
    assert SECRET_TEXT not in str(frames)


@pytest.mark.parametrize("agent", [fail_in_cleanup, replace_cancellation, fail_in_cleanup_of_child])
async def test_a_run_is_timed_out_even_if_its_cleanup_fails(
    autojump_clock: MockClock, agent: Agent, logs: Logs
) -> None:
    frames = await events_of(agent, agent_timeout_ms=1000)
    assert end_of(frames)["status"] == "timed_out"
    assert end_of(frames)["error"]["code"] == "AGENT_TIMEOUT"
    (logged,) = [entry for entry in logs if entry["event"] == "run_failed_in_cleanup"]
    assert logged["run_id"] == end_of(frames)["run_id"]
    assert isinstance(logged["exc_info"], BaseException)


async def test_an_event_emitted_in_the_cleanup_precedes_the_end(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"agent": emit_in_cleanup}) as server,
        server.connect() as client,
    ):
        await client.say("x", "k")
        frames = await client.until("partial_result")
        frames += await stop(client, frames[0]["payload"]["run_id"])
    deltas = [payload["content"] for payload in payloads(frames, "partial_result")]
    assert deltas == ["going on", "one more thing"]
    check_run(frames)


async def test_a_waiting_run_that_is_stopped_has_only_its_end(autojump_clock: MockClock) -> None:
    async with open_server(agents={"agent": emit_and_wait}) as server, server.connect() as client:
        await client.say("x", "first")
        await client.until("partial_result")
        await trio.sleep(1)
        await client.say("y", "k")
        confirmed = await client.expect("message_confirmed")
        await trio.sleep(1)
        (end,) = await stop(client, confirmed["payload"]["run_id"])
        assert end["payload"] == {
            "run_id": confirmed["payload"]["run_id"],
            "status": "cancelled",
            "duration_ms": 0,
        }
        assert end["correlation_id"] == "k"
        await assert_no_frame(client)


async def test_a_run_that_is_stopped_before_agent_started_has_only_its_end(
    autojump_clock: MockClock,
) -> None:
    """The run may start, but the log has no room for `agent_started`."""
    async with (
        open_server(
            agents={"think_forever": think_forever, "echo": echo}, **NO_HEARTBEAT
        ) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "first")
        await trio.testing.wait_all_tasks_blocked()
        await client.say("y", "k", thread_id="elsewhere", agent="echo")
        confirmed = (await client.until("message_confirmed"))[-1]
        while confirmed["correlation_id"] != "k":
            confirmed = (await client.until("message_confirmed"))[-1]
        assert confirmed["payload"]["status"] == "accepted"
        await trio.sleep(1)
        (end,) = await stop(client, confirmed["payload"]["run_id"])
        assert (end["payload"]["status"], end["payload"]["duration_ms"]) == ("cancelled", 0)
        await assert_no_frame(client)


async def test_a_second_stop_has_no_effect(autojump_clock: MockClock) -> None:
    async with open_server(agents={"agent": clean_up_slowly}) as server, server.connect() as client:
        await client.say("x", "k")
        frames = await client.until("partial_result")
        run_id = frames[0]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        await client.send("stop_agent", {"run_id": run_id})
        frames += await client.until("agent_completed")
        check_run(frames)
        await assert_no_frame(client)


async def test_a_stop_of_an_unknown_or_ended_run_is_run_not_found(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"echo": echo, "emit_and_wait": emit_and_wait}) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await alice.say("x", "k1")
        ended = (await alice.until("agent_completed"))[0]["payload"]["run_id"]
        await bob.say("x", "k2", agent="emit_and_wait")
        others = (await bob.until("partial_result"))[0]["payload"]["run_id"]
        for run_id in ("run_unknown", "x" * 5000, ended, others):
            await alice.send("stop_agent", {"run_id": run_id}, "s")
            refusal = await alice.expect("error")
            assert refusal["correlation_id"] == "s"
            assert refusal["payload"]["code"] == "RUN_NOT_FOUND"
            assert refusal["payload"]["recoverable"] is True
            assert run_id not in str(refusal)
        await assert_no_frame(bob)


async def test_another_session_of_the_user_can_stop_a_run(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"emit_and_wait": emit_and_wait}) as server,
        server.connect() as owner,
        server.connect() as other,
    ):
        await owner.say("x", "k")
        frames = await owner.until("partial_result")
        await owner.say("y", "k2")
        waiting = (await owner.expect("message_confirmed"))["payload"]["run_id"]
        for run_id in (waiting, frames[0]["payload"]["run_id"]):
            await other.send("stop_agent", {"run_id": run_id})
            end = end_of(await owner.until("agent_completed"))
            assert (end["run_id"], end["status"]) == (run_id, "cancelled")
        await assert_no_frame(other)


# Events after the end.


async def test_the_end_is_the_last_event_of_a_run(autojump_clock: MockClock) -> None:
    """Also if the agent leaks its `Run` to a task outside of the run."""
    leaked: list[Run] = []

    async def leak_run(run: Run) -> None:
        await run.emit("mine")
        leaked.append(run)

    async with open_server(agents={"leak_run": leak_run}) as server, server.connect() as client:
        await client.say("x", "k")
        check_run(await client.until("agent_completed"))
        (run,) = leaked
        with pytest.raises(trio.ClosedResourceError):
            await run.emit("too late")
        with pytest.raises(trio.ClosedResourceError):
            await run.think("too late")
        with pytest.raises(trio.ClosedResourceError):
            async with run.tool("late"):
                pass
        with pytest.raises(RuntimeError):
            run.nursery.start_soon(trio.sleep, 0)
        await assert_no_frame(client)


async def test_a_leaked_task_that_waits_for_room_sends_no_event_after_the_end(
    autojump_clock: MockClock,
) -> None:
    refused: list[int] = []

    async with (
        trio.open_nursery() as outside,
        open_server(**NO_HEARTBEAT, agents={}) as server,
    ):

        async def flood(run: Run) -> None:
            try:
                await think_forever(run)
            except trio.ClosedResourceError:
                refused.append(1)

        async def leak_run(run: Run) -> None:
            outside.start_soon(flood, run)
            await trio.sleep_forever()

        server.node._agents = {"leak_run": leak_run}
        async with server.connect(acknowledging=True) as client:
            await client.say("x", "k")
            frames = [await client.next()]
            await trio.testing.wait_all_tasks_blocked()
            frames += await stop(client, frames[0]["payload"]["run_id"])
            check_run(frames)
            await client.send("ack", {"seq": frames[-1]["seq"]})
            await assert_no_frame(client)
        assert refused == [1]


async def test_a_run_ends_when_its_child_tasks_have_ended(autojump_clock: MockClock) -> None:
    async def child(run: Run) -> None:
        await trio.sleep(1)
        await run.emit("child")

    async def parent(run: Run) -> str:
        run.nursery.start_soon(child, run)
        run.nursery.start_soon(child, run)
        return "parent"

    frames = await events_of(parent)
    assert kinds(frames[1:]) == [
        "agent_started",
        "partial_result",
        "partial_result",
        "agent_completed",
    ]
    assert end_of(frames)["result"] == "parent"
    assert end_of(frames)["duration_ms"] == 1000


async def test_a_child_task_that_fails_ends_its_siblings_and_the_run(
    autojump_clock: MockClock,
) -> None:
    cleaned = trio.Event()

    async def sibling() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.set()

    async def parent(run: Run) -> str:
        run.nursery.start_soon(sibling)
        run.nursery.start_soon(broken, run)
        return "never the result"

    frames = await events_of(parent)
    assert end_of(frames)["status"] == "failed"
    assert cleaned.is_set()


async def test_an_agent_may_cancel_its_own_nursery(autojump_clock: MockClock) -> None:
    """The emitted text is kept, and the session continues."""

    async def agent(run: Run) -> str:
        await run.emit("that is all")
        run.nursery.cancel_scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    frames = await events_of(agent)
    assert end_of(frames)["status"] == "completed"
    assert end_of(frames)["result"] == "that is all"


# Retries.


async def test_a_retryable_error_gets_three_attempts(autojump_clock: MockClock, logs: Logs) -> None:
    times: list[float] = []

    async def agent(run: Run) -> None:
        assert run.attempt == len(times) + 1
        times.append(trio.current_time())
        raise RetryableAgentError(SECRET_TEXT)

    frames = await events_of(agent)
    started = payloads(frames, "agent_started")
    assert [payload["attempt"] for payload in started] == [1, 2, 3]
    assert kinds(frames[1:]) == ["agent_started"] * 3 + ["agent_completed"]
    end = end_of(frames)
    assert end["status"] == "failed"
    assert end["error"]["code"] == "AGENT_ERROR"
    assert SECRET_TEXT not in str(frames)
    # Exponential, with jitter, and bounded.
    assert 0.5 <= times[1] - times[0] <= 1
    assert 1 <= times[2] - times[1] <= 2
    assert end["duration_ms"] == pytest.approx((times[2] - times[0]) * 1000, abs=1)
    assert [entry["attempt"] for entry in logs if entry["event"] == "run_retried"] == [1, 2]
    (failed,) = [entry for entry in logs if entry["event"] == "run_failed"]
    assert failed["error_id"] == end["error"]["error_id"]


@pytest.mark.parametrize("succeeds", [2, 3])
async def test_an_attempt_that_succeeds_completes_the_run(
    autojump_clock: MockClock, succeeds: int
) -> None:
    async def agent(run: Run) -> str:
        await run.think("attempt")
        if run.attempt < succeeds:
            raise RetryableAgentError
        await run.emit("at last")
        return f"attempt {run.attempt}"

    frames = await events_of(agent)
    assert [p["attempt"] for p in payloads(frames, "agent_started")] == list(range(1, succeeds + 1))
    assert end_of(frames)["result"] == f"attempt {succeeds}"


async def retry_in_a_child(run: Run) -> None:
    run.nursery.start_soon(backing_off, run)
    run.nursery.start_soon(backing_off, run)


async def retry_after_a_tool(run: Run) -> None:
    async with run.tool("flaky"):
        raise RetryableAgentError


@pytest.mark.parametrize("agent", [backing_off, retry_in_a_child, retry_after_a_tool])
async def test_a_run_with_thoughts_and_tool_calls_is_retried(
    autojump_clock: MockClock, agent: Agent
) -> None:
    frames = await events_of(agent)
    assert len(payloads(frames, "agent_started")) == 3


async def retry_after_output(run: Run) -> None:
    await run.emit("x")
    raise RetryableAgentError


async def retry_among_others(run: Run) -> None:
    async def one() -> None:
        raise RetryableAgentError

    async def two() -> None:
        raise ValueError

    run.nursery.start_soon(one)
    run.nursery.start_soon(two)


async def retry_after_second_output(run: Run) -> None:
    if run.attempt == 2:
        await run.emit("x")
    raise RetryableAgentError


@pytest.mark.parametrize(
    ("agent", "attempts"),
    [(retry_after_output, 1), (retry_among_others, 1), (retry_after_second_output, 2)],
)
async def test_a_run_is_not_retried_after_output_or_for_other_errors(
    autojump_clock: MockClock, agent: Agent, attempts: int
) -> None:
    frames = await events_of(agent)
    assert len(payloads(frames, "agent_started")) == attempts
    assert end_of(frames)["status"] == "failed"


# The attributes of a run.


async def test_a_run_has_the_user_and_the_message(autojump_clock: MockClock) -> None:
    seen: list[Run] = []

    async def agent(run: Run) -> None:
        seen.append(run)

    granted = frozenset({"netra:admin", "x"})
    async with (
        open_server(agents={"agent": agent}) as server,
        server.connect("bob", permissions=granted) as client,
    ):
        await client.say("  hello\n", "k", thread_id="t")
        frames = await client.until("agent_completed")
    (run,) = seen
    assert run.id == frames[0]["payload"]["run_id"]
    assert (run.user, run.permissions) == ("bob", granted)
    assert (run.thread_id, run.correlation_id) == ("t", "k")
    assert (run.content, run.input) == ("  hello\n", None)


async def test_a_run_has_the_object_of_a_request(autojump_clock: MockClock) -> None:
    seen: list[Run] = []

    async def agent(run: Run) -> None:
        seen.append(run)

    payload = {"agent": "other", "input": {"query": "é", "n": [1, None]}, "thread_id": "t"}
    async with (
        open_server(agents={"first": echo, "other": agent}) as server,
        server.connect() as client,
    ):
        await client.send("agent_request", payload)
        frames = await client.until("agent_completed")
        await client.send("get_thread_history", {"thread_id": "t"})
        history = (await client.expect("thread_history"))["payload"]["messages"]
    (run,) = seen
    assert run.input is not None
    assert {key: run.input[key] for key in payload} == payload
    assert run.content == history[0]["content"] == '{"query":"é","n":[1,null]}'
    assert frames[1]["payload"]["agent_name"] == "other"


async def test_a_run_has_the_text_of_a_request(autojump_clock: MockClock) -> None:
    seen: list[Run] = []

    async def agent(run: Run) -> None:
        seen.append(run)

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        await client.send(
            "agent_request", {"agent": "agent", "input": "hello", "deadline_ms": 5000}
        )
        await client.until("agent_completed")
    (run,) = seen
    assert run.input is not None
    assert (run.input["input"], run.input["deadline_ms"]) == ("hello", 5000)
    assert run.content == "hello"


async def test_the_first_agent_is_the_default(autojump_clock: MockClock) -> None:
    agents = {"zebra": echo, "ant": broken}
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.say("x")
        frames = await client.until("agent_completed")
        assert frames[1]["payload"]["agent_name"] == "zebra"


@pytest.mark.parametrize("kind", ["user_message", "agent_request"])
async def test_an_unknown_agent_is_not_found(autojump_clock: MockClock, kind: str) -> None:
    payload = {"agent": "nobody", "content" if kind == "user_message" else "input": "x"}
    async with open_server(agents={"echo": echo}) as server, server.connect() as client:
        await client.send(kind, payload, "k")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "k"
        assert refusal["payload"]["code"] == "AGENT_NOT_FOUND"
        await assert_no_frame(client)


async def test_the_history_of_a_run_has_the_earlier_messages(autojump_clock: MockClock) -> None:
    seen: dict[str, list[HistoryMessage]] = {}

    async def agent(run: Run) -> None:
        seen[run.content] = list(await run.history())
        await trio.sleep(1)
        await run.emit(f"about {run.content}")

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        # The second and the third message wait while the first run is active.
        for content in ("one", "two", "three"):
            await client.say(content, thread_id="t")
        await client.say("elsewhere", thread_id="u")
        for _ in range(4):
            await client.until("agent_completed")
    histories = {content: [(m.role, m.content) for m in page] for content, page in seen.items()}
    assert histories["one"] == []
    assert histories["elsewhere"] == []
    assert histories["two"] == [("user", "one"), ("agent", "about one")]
    assert sorted(histories["three"]) == [
        ("agent", "about one"),
        ("agent", "about two"),
        ("user", "one"),
        ("user", "two"),
    ]


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (4, 4), (5, 4), (100, 4)])
async def test_the_history_of_a_run_has_at_most_its_limit(
    autojump_clock: MockClock, limit: int, count: int
) -> None:
    pages: list[list[HistoryMessage]] = []

    async def agent(run: Run) -> str:
        if run.content == "look":
            pages.append(list(await run.history(limit)))
            await trio.sleep(1)
        await run.emit("answer")
        return "answer"

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        for content in ("a", "b"):
            await client.say(content)
            await client.until("agent_completed")
        await client.say("look")
        await client.until("agent_completed")
    texts = [message.content for message in pages[0]]
    assert texts == ["a", "answer", "b", "answer"][4 - count :]


async def test_the_history_of_a_run_skips_waiting_messages(autojump_clock: MockClock) -> None:
    pages: list[list[HistoryMessage]] = []
    go_on = trio.Event()

    async def agent(run: Run) -> None:
        if run.content == "look":
            await go_on.wait()
            pages.append(list(await run.history(2)))
        await run.emit("answer")

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        for content in ("a", "b"):
            await client.say(content)
            await client.until("agent_completed")
        await client.say("look")
        for number in range(20):
            await client.say(f"waits {number}")
        for _ in range(20):
            await client.until("message_confirmed")
        go_on.set()
        await client.until("agent_completed")
    assert [message.content for message in pages[0]] == ["b", "answer"]


# Text and thoughts.


@pytest.mark.parametrize("text", ["x", "é" * 70_000, "\x01" * 70_000, "😀" * 100_000, "\u2028"])
async def test_a_text_of_any_length_is_sent_unchanged(autojump_clock: MockClock, text: str) -> None:
    sizes: list[int] = []

    async def agent(run: Run) -> int:
        await run.emit(text)
        return 1

    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await client.say("x", "k")
        frames: list[Frame] = []
        while not frames or frames[-1]["type"] != "agent_completed":
            data = await client.peer.receive()
            sizes.append(len(data))
            frames.append(orjson_loads(data))
    assert "".join(p["content"] for p in payloads(frames, "partial_result")) == text
    assert max(sizes) <= EVENT_BYTES


def orjson_loads(data: bytes) -> Frame:
    frame: Frame = orjson.loads(data)
    return frame


async def test_an_empty_text_sends_no_event(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.emit("")
        await run.emit("x")
        await run.emit("")

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "partial_result", "agent_completed"]


@pytest.mark.parametrize("text", [None, b"bytes", 5, ["x"]])
async def test_emit_raises_for_a_value_that_is_not_a_string(
    autojump_clock: MockClock, text: Any
) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(TypeError):
            await run.emit(text)
        with pytest.raises(TypeError):
            await run.think(text)
        return "done"

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "agent_completed"]
    assert end_of(frames)["result"] == "done"


async def test_a_text_that_cannot_be_encoded_raises_an_error(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(ValueError, match="surrogate"):
            await run.emit("half a pair: \ud83d")
        with pytest.raises(ValueError, match="surrogate"):
            await run.think("\udc80")
        with pytest.raises(TypeError):
            async with run.tool("t", path="\udc80"):
                raise AssertionError
        with pytest.raises(ValueError, match="surrogate"):
            async with run.tool("\udc80"):
                raise AssertionError
        await run.emit("and on it goes")
        return "done"

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "partial_result", "agent_completed"]
    assert end_of(frames)["result"] == "done"


async def test_a_thought_may_have_a_step(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.think("no plan")
        await run.think("first", step=1, total=2)
        await run.think("second", step=2)

    frames = await events_of(agent)
    run_id = frames[0]["payload"]["run_id"]
    assert payloads(frames, "agent_thinking") == [
        {"run_id": run_id, "thought": "no plan"},
        {"run_id": run_id, "thought": "first", "step_number": 1, "total_steps": 2},
        {"run_id": run_id, "thought": "second", "step_number": 2},
    ]


@pytest.mark.parametrize("step", ["1", 1.5, True, 2**64, object()])
async def test_think_raises_for_an_invalid_step(autojump_clock: MockClock, step: Any) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises((TypeError, ValueError)):
            await run.think("x", step=step)
        with pytest.raises((TypeError, ValueError)):
            await run.think("x", total=step)
        return "done"

    assert end_of(await events_of(agent))["result"] == "done"


async def test_a_long_thought_is_sent_in_pieces(autojump_clock: MockClock) -> None:
    thought = "é" * 100_000

    async def agent(run: Run) -> None:
        await run.think(thought, step=1)

    confirmed = payloads(await events_of(agent), "agent_thinking")
    assert len(confirmed) > 1
    assert "".join(payload["thought"] for payload in confirmed) == thought


# Tools.


async def test_a_tool_call_that_succeeds(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with run.tool("search", query="é", n=3, name="x") as tool:
            assert tool.name == "search"
            await trio.sleep(0.25)
            tool.result = {"hits": [1, 2]}

    frames = await events_of(agent)
    (executing,) = payloads(frames, "tool_executing")
    (completed,) = payloads(frames, "tool_completed")
    same = {"run_id": executing["run_id"], "tool_call_id": executing["tool_call_id"]}
    assert executing == {
        **same,
        "tool_name": "search",
        "arguments": {"query": "é", "n": 3, "name": "x"},
    }
    assert completed == {
        **same,
        "tool_name": "search",
        "success": True,
        "result": {"hits": [1, 2]},
        "duration_ms": 250,
    }


async def test_a_tool_call_without_arguments_and_result(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with run.tool("noop"):
            pass

    frames = await events_of(agent)
    assert payloads(frames, "tool_executing")[0]["arguments"] == {}
    completed = payloads(frames, "tool_completed")[0]
    assert (completed["success"], completed["result"]) == (True, None)


async def test_the_text_of_a_tool_error_is_sent(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(ToolError):
            async with run.tool("search"):
                raise ToolError("no such page")
        return "went on"

    frames = await events_of(agent)
    (completed,) = payloads(frames, "tool_completed")
    assert (completed["success"], completed["error"]) == (False, "no such page")
    assert "result" not in completed
    assert end_of(frames)["result"] == "went on"


@pytest.mark.parametrize("error", [ValueError(SECRET_TEXT), RetryableAgentError(SECRET_TEXT)])
async def test_the_text_of_any_other_exception_of_a_tool_is_not_sent(
    autojump_clock: MockClock, error: Exception
) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(type(error)):
            async with run.tool("search"):
                raise error
        return "went on"

    frames = await events_of(agent)
    (completed,) = payloads(frames, "tool_completed")
    assert completed["success"] is False
    assert completed["error"]
    assert SECRET_TEXT not in str(frames)


async def test_a_cancelled_tool_call_sends_no_end(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> str:
        with trio.move_on_after(1):
            async with run.tool("slow"):
                await trio.sleep_forever()
        return "went on"

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "tool_executing", "agent_completed"]
    assert end_of(frames)["result"] == "went on"


async def test_concurrent_tool_calls_have_different_ids(autojump_clock: MockClock) -> None:
    async def use(run: Run, seconds: float) -> None:
        async with run.tool("wait", seconds=seconds) as tool:
            await trio.sleep(seconds)
            tool.result = seconds

    async def agent(run: Run) -> None:
        run.nursery.start_soon(use, run, 2)
        run.nursery.start_soon(use, run, 1)

    frames = await events_of(agent)
    asked = {p["tool_call_id"]: p["arguments"] for p in payloads(frames, "tool_executing")}
    answers = [(asked[p["tool_call_id"]], p["result"]) for p in payloads(frames, "tool_completed")]
    assert answers == [({"seconds": 1}, 1), ({"seconds": 2}, 2)]


async def test_arguments_and_result_of_a_tool_must_be_json(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(TypeError):
            async with run.tool("x", value=object()):
                raise AssertionError
        with pytest.raises(TypeError):
            async with run.tool("x") as tool:
                tool.result = object()
        return "went on"

    frames = await events_of(agent)
    assert end_of(frames)["result"] == "went on"


@pytest.mark.parametrize("text", ["\udc80.txt", "x" * 300_000, "\x01" * 250_000, "é" * 200_000])
async def test_a_tool_error_with_any_text_is_one_event_within_the_bounds(
    autojump_clock: MockClock, text: str
) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(ToolError):
            async with run.tool("read"):
                raise ToolError(text)
        return "went on"

    frames = await events_of(agent)
    (completed,) = payloads(frames, "tool_completed")
    assert completed["success"] is False
    assert completed["error"]
    assert size_of(completed) <= EVENT_BYTES
    if len(text) > 100:
        assert text.startswith(completed["error"])
        assert completed["truncated"] is True
    assert end_of(frames)["result"] == "went on"


def size_of(payload: Frame) -> int:
    return len(orjson.dumps(payload))


async def test_the_name_of_a_tool_at_its_limit(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with run.tool("é" * 128):
            pass

    (completed,) = payloads(await events_of(agent), "tool_completed")
    assert completed["tool_name"] == "é" * 128


@pytest.mark.parametrize("name", ["x" * 257, 5, None])
async def test_an_invalid_name_of_a_tool_raises_an_error(
    autojump_clock: MockClock, name: Any
) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises((TypeError, ValueError)):
            async with run.tool(name):
                raise AssertionError
        return "went on"

    frames = await events_of(agent)
    assert kinds(frames[1:]) == ["agent_started", "agent_completed"]


async def test_large_arguments_and_results_of_tools_are_cut(autojump_clock: MockClock) -> None:
    large = ["é" * 1000] * 200

    async def agent(run: Run) -> None:
        async with run.tool("x", value=large) as tool:
            tool.result = large

    frames = await events_of(agent)
    for kind in ("tool_executing", "tool_completed"):
        (payload,) = payloads(frames, kind)
        assert payload["truncated"] is True
        assert 240 * 1024 < size_of(payload) <= EVENT_BYTES


# Results within bounds.


@pytest.mark.parametrize("character", ["x", "é", "😀", "\x01", '"'])
@pytest.mark.parametrize("wrap", [str, list])
async def test_a_result_beyond_256_kib_is_cut_and_marked(
    autojump_clock: MockClock, character: str, wrap: type[Any]
) -> None:
    async def agent(_: Run) -> Any:
        text = character * 300_000
        return text if wrap is str else [text]

    end = end_of(await events_of(agent))
    assert end["truncated"] is True
    assert 240 * 1024 < size_of(end) <= EVENT_BYTES
    assert isinstance(end["result"], str)
    if wrap is str:
        assert set(end["result"]) == {character}


async def test_a_result_at_the_bound_is_complete_and_one_byte_more_is_cut(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> str:
        return "x" * int(run.content)

    bound = 250 * 1024 - 2  # as JSON, with its quotes; the rest is for the envelope
    whole = end_of(await events_of(agent, content=str(bound)))
    assert (len(whole["result"]), "truncated" in whole) == (bound, False)
    cut = end_of(await events_of(agent, content=str(bound + 1)))
    assert (len(cut["result"]), cut["truncated"]) == (bound, True)


async def test_the_emitted_text_is_cut_as_a_result(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        for _ in range(40):
            await run.emit("x" * 10_000)

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        await client.say("x", "k")
        frames = await client.until("agent_completed")
    assert sum(len(p["content"]) for p in payloads(frames, "partial_result")) == 400_000
    end = end_of(frames)
    assert end["truncated"] is True
    assert 240 * 1024 < len(end["result"]) <= EVENT_BYTES
