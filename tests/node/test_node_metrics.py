"""The metrics of connections, sessions and runs, in virtual time."""

from collections import Counter
from typing import Any

import pytest
import trio
from support.memory import Client, Frame, Server, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import ToolError
from netra_trio.node.node import USERS_LISTED
from netra_trio.sessions.delivery_times import GAP_EVERY
from netra_trio.telemetry.metrics import Gauges, Histogram, Metrics

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
PAUSE = 0.3  # seconds


async def emit_after_pause(run: Run) -> None:
    await trio.sleep(PAUSE)
    await run.emit("one ")
    await run.emit("two")


async def emit_steadily(run: Run) -> None:
    for _ in range(4 * GAP_EVERY):
        await run.emit("x")
        await trio.sleep(0.04)


async def clean_up_slowly(run: Run) -> None:
    try:
        await run.emit("working")
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)


AGENTS: dict[str, Any] = {
    "emit_after_pause": emit_after_pause,
    "emit_steadily": emit_steadily,
    "clean_up_slowly": clean_up_slowly,
}


def metrics_of(server: Server) -> Metrics:
    return server.node.services.instruments.metrics


def gauges_of(server: Server) -> Gauges:
    return metrics_of(server).read_gauges()


def only(histogram: Histogram) -> float:
    assert histogram.count == 1
    return histogram.total


async def ask(client: Client, agent: str, key: str | None = None) -> list[Frame]:
    await client.say("hello", key, agent=agent)
    return await client.until("agent_completed")


async def test_the_time_to_the_first_delta_is_measured(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server, server.connect() as client:
        await ask(client, "emit_after_pause")
        metrics = metrics_of(server)
        assert only(metrics.first_delta) == pytest.approx(PAUSE)
        assert only(metrics.run_wait) == pytest.approx(0.0)
        assert only(metrics.confirmation) == pytest.approx(0.0)


async def test_the_time_of_a_waiting_message_starts_at_its_arrival(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server, server.connect() as client:
        await client.say("hello", agent="emit_after_pause")
        await ask(client, "emit_after_pause")
        await client.until("agent_completed")
        metrics = metrics_of(server)
        assert metrics.first_delta.total == pytest.approx(3 * PAUSE)
        assert metrics.run_wait.total == pytest.approx(PAUSE)


async def test_gaps_between_deltas_are_measured(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server, server.connect() as client:
        await ask(client, "emit_steadily")
        gaps = metrics_of(server).delta_gap
        assert gaps.count == 4
        assert gaps.total / gaps.count == pytest.approx(0.04)


async def test_a_gap_does_not_span_two_runs(autojump_clock: MockClock) -> None:
    async def first(run: Run) -> None:
        for _ in range(GAP_EVERY):
            await run.emit("x")

    async def second(run: Run) -> None:
        await trio.sleep(5)
        await run.emit("x")

    agents: dict[str, Any] = {"first": first, "second": second}
    async with open_server(agents=agents, **NO_HEARTBEAT) as server, server.connect() as client:
        await ask(client, "first")
        await ask(client, "second")
        assert metrics_of(server).delta_gap.count == 0


async def test_the_time_from_a_stop_to_the_end_is_measured(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server, server.connect() as client:
        await client.say("hello", agent="clean_up_slowly")
        run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        await client.send("stop_agent", {"run_id": run_id})
        await client.until("agent_completed")
        assert only(metrics_of(server).stop) == pytest.approx(0.2)


async def test_sent_frames_are_counted_by_type(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server, server.connect() as client:
        frames = await ask(client, "emit_after_pause") + await ask(client, "emit_steadily")
        await client.send("nonsense")
        frames.append(await client.expect("error"))
        gauges_of(server)
        sent = Counter(kinds(frames)) + Counter({"connection_established": 1})
        assert +Counter(metrics_of(server).sent) == sent


async def test_received_frames_are_counted_by_type(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect() as client:
        await client.send_raw("nonsense")
        await client.send_raw(b"bytes")
        await client.sync()
        metrics = metrics_of(server)
        assert +Counter(metrics.received) == {"invalid": 2, "ping": 1}
        assert metrics.processing["ping"].count == 1
        assert +Counter(metrics.errors) == {"JSON_PARSE_ERROR": 1, "INVALID_MESSAGE_TYPE": 1}
        assert metrics.recoveries["frame", "recovered"] == 1


async def test_five_bad_frames_are_counted_as_a_failed_recovery(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect() as client:
        for _ in range(5):
            await client.send_raw("nonsense")
        await client.rest()
        metrics = metrics_of(server)
        assert metrics.recoveries["frame", "failed"] == 1
        assert metrics.recoveries["frame", "recovered"] == 0
        assert metrics.errors["ERROR_LIMIT_EXCEEDED"] == 1


async def cut_connection(client: Client) -> str:
    client.peer.cut()
    await client.done.wait()
    session_id: str = client.hello["payload"]["session_id"]
    return session_id


async def open_connection(server: Server, **options: Any) -> Client:
    client = server.start(**options)
    client.hello = await client.expect("connection_established")
    return client


async def test_a_resumed_connection_is_counted_as_recovered(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server:
        client = await open_connection(server, acknowledging=True)
        await ask(client, "emit_steadily")
        session_id = await cut_connection(client)
        await trio.sleep(7)
        assert gauges_of(server).sessions == {"attached": 0, "detached": 1}
        again = await open_connection(server, acknowledging=True, session_id=session_id)
        replayed = await again.until("agent_completed")
        metrics = metrics_of(server)
        assert only(metrics.away) == pytest.approx(7)
        assert metrics.opened["exact"] == 1
        assert metrics.recoveries["connection", "recovered"] == 1
        assert metrics.merged == 4 * GAP_EVERY - 1
        assert len([frame for frame in replayed if frame["type"] == "partial_result"]) == 1


async def test_a_lost_connection_that_is_not_resumed_is_counted_as_failed(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**NO_HEARTBEAT, resume_window_ms=1000) as server:
        await cut_connection(await open_connection(server))
        await trio.sleep(2)
        metrics = metrics_of(server)
        assert metrics.recoveries["connection", "failed"] == 1
        assert metrics.sessions_ended["window_passed"] == 1


async def test_a_closed_connection_is_not_counted_as_lost(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT, resume_window_ms=1000) as server:
        async with server.connect():
            pass
        await trio.sleep(2)
        metrics = metrics_of(server)
        assert set(metrics.recoveries.values()) == {0}
        assert metrics.sessions_ended["window_passed"] == 1


async def test_no_time_is_measured_while_there_is_no_connection(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **NO_HEARTBEAT) as server:
        client = await open_connection(server, acknowledging=True)
        await client.say("hello", agent="emit_after_pause")
        await client.until("agent_started")
        session_id = await cut_connection(client)
        await trio.sleep(30)
        again = await open_connection(server, acknowledging=True, session_id=session_id)
        await again.until("agent_completed")
        assert metrics_of(server).first_delta.count == 0


async def test_a_takeover_does_not_count_as_time_without_a_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        client = await open_connection(server)
        session_id = client.hello["payload"]["session_id"]
        await open_connection(server, session_id=session_id)
        metrics = metrics_of(server)
        assert (metrics.opened["exact"], metrics.away.count) == (1, 0)


@pytest.mark.parametrize("last_seq", [0, 7])
async def test_resets_are_counted_by_reason(autojump_clock: MockClock, last_seq: int) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        session_id = "nothing"
        if last_seq:
            session_id = await cut_connection(await open_connection(server))
        await open_connection(server, session_id=session_id, last_seq=last_seq)
        verdict = "reset_ahead" if last_seq else "reset_unknown"
        assert metrics_of(server).opened[verdict] == 1


async def test_messages_beyond_a_rate_are_counted(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2, "burst_queue": 1, **NO_HEARTBEAT}
    async with open_server(**settings) as server, server.connect() as client:
        for _ in range(4):
            await client.say("hello")
        for _ in range(1001):
            await client.send("ping", {})
        for _ in range(11):
            await client.send("get_thread_history", {"thread_id": "t"})
        await trio.sleep(1)
        events = metrics_of(server).rate_events
        assert events["messages", "delayed"] == 1
        assert events["messages", "refused"] == 1
        assert events["control", "refused"] > 0


async def test_tool_calls_are_measured_by_outcome(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> None:
        async with run.tool("good"):
            await trio.sleep(1)
        try:
            async with run.tool("bad"):
                raise ToolError("no")  # noqa: TRY301 - a tool that fails
        except ToolError:
            pass
        async with run.tool("endless"):
            await trio.sleep_forever()

    async with (
        open_server(agents={"work": work}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await client.say("hello", deadline_ms=3000)
        await client.until("agent_completed")
        metrics = metrics_of(server)
        assert only(metrics.tool_duration["completed"]) == pytest.approx(1)
        assert only(metrics.tool_duration["failed"]) == pytest.approx(0)
        assert only(metrics.tool_duration["cut_off"]) == pytest.approx(2)
        assert metrics.runs_ended["work", "timed_out"] == 1
        assert metrics.errors["AGENT_TIMEOUT"] == 1


async def test_the_gauges_have_the_current_numbers(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_connections_per_user": 12, **NO_HEARTBEAT}
    async with open_server(agents=AGENTS, **settings) as server:
        for user, count in {"alice": 6, "bob": 1, "carol": 11}.items():
            for _ in range(count):
                client = await open_connection(server, user=user)
        await client.say("hello", agent="clean_up_slowly")
        await client.say("hello", agent="clean_up_slowly")
        await client.until("partial_result")
        gauges = gauges_of(server)
        assert gauges.connections == 18
        users = {"1": 1, "2": 0, "3": 0, "4": 0, "5": 0, "6-10": 1, "11+": 1}
        assert gauges.users == users
        assert gauges.runs == {"active": 1, "waiting": 1}
        assert gauges.log_events == gauges.log_events_max > 0
        assert gauges.tasks >= 18 * 3
        assert server.node.largest_users()[0] == {
            "user_id": "carol",
            "connections": 11,
            "sessions": 11,
            "runs": 2,
        }


@pytest.mark.parametrize("count", [USERS_LISTED, USERS_LISTED + 1])
async def test_at_most_a_hundred_users_are_listed(autojump_clock: MockClock, count: int) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        for number in range(count):
            await open_connection(server, user=f"user-{number}")
        await open_connection(server, user="user-7")
        users = server.node.largest_users()
        assert len(users) == USERS_LISTED
        assert users[0]["user_id"] == "user-7"
