"""The drain: the frames that clients get, and its time limit, which no peer or agent can exceed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.memory import Client, Frame, Server, as_kind, kinds, open_server
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.errors import TransportClosed
from netra_trio.ids import RunId
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.problem import Refused
from netra_trio.sessions.runner import END_STORE_TIMEOUT
from netra_trio.stores.base import RunEnd
from netra_trio.transports.memory import MemoryTransport

TIMEOUT = 8.0  # seconds, the default
GRACE = 6.0  # of it for runs
CONNECTING = 2.0  # of it for a client to connect to another node


async def wait_forever(run: Run) -> None:
    """Emit a word and wait for a cancellation."""
    await run.emit("…")
    await trio.sleep_forever()


async def two_seconds(run: Run) -> str:
    """Work for two seconds."""
    await run.emit("a")
    await trio.sleep(2)
    await run.emit("b")
    return "ab"


async def ignore_cancellation(run: Run) -> None:
    """Run for a long time, shielded from cancellation."""
    await run.emit("…")
    with trio.CancelScope(shield=True):
        await trio.sleep(1000)


async def emit_forever(run: Run) -> None:
    """Emit more than the log and the buffers hold."""
    while True:
        await run.emit("x" * 1000)


AGENTS = {
    "wait_forever": wait_forever,
    "two_seconds": two_seconds,
    "ignore_cancellation": ignore_cancellation,
    "emit_forever": emit_forever,
}


@asynccontextmanager
async def draining(server: Server, **options: Any) -> AsyncIterator[list[float]]:
    """Drain while the block runs; yield a list that gets the duration at the end."""
    durations: list[float] = []

    async def drain() -> None:
        begun = trio.current_time()
        await server.node.drain(**options)
        durations.append(trio.current_time() - begun)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await wait_all_tasks_blocked()
        yield durations


async def start_run(client: Client, agent: str, **payload: Any) -> RunId:
    """Start a run and return its id."""
    await client.say("go", agent=agent, **payload)
    return RunId((await client.until("partial_result"))[-1]["payload"]["run_id"])


def outcomes(frames: list[Frame]) -> list[str]:
    """Return the types of frames; the status instead of `agent_completed`."""
    return [f["payload"]["status"] if f["type"] == "agent_completed" else f["type"] for f in frames]


# The frames that clients get.


async def test_an_idle_connection_is_closed_at_once(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        client = server.start()
        await client.expect("connection_established")
        async with draining(server) as durations:
            frames, code = await client.rest()
        assert durations == [0]
        assert client.ended is EndReason.DRAINED
        assert server.node.capacity.is_draining
    assert code == 1012
    assert kinds(frames) == ["server_draining"]
    assert frames[0]["payload"] == {"reason": "restart", "reconnect_after_ms": 1000}


async def test_server_draining_has_the_reason(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        server.nursery.start_soon(server.node.drain, "new version")
        assert (await client.expect("server_draining"))["payload"]["reason"] == "new version"


async def test_an_empty_server_is_drained_at_once(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        async with draining(server) as durations:
            pass
        assert durations == [0]


async def test_a_run_may_finish_within_the_grace_period(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        await start_run(client, "two_seconds")
        async with draining(server) as durations:
            frames, code = await client.rest()
        assert durations == [2]
    assert outcomes(frames) == ["server_draining", "partial_result", "completed"]
    assert code == 1012


async def test_a_run_is_interrupted_after_the_grace_period(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        await start_run(client, "wait_forever")
        async with draining(server) as durations:
            frames, code = await client.rest()
        assert durations == [GRACE]
    assert outcomes(frames) == ["server_draining", "interrupted"]
    assert frames[-1]["payload"]["duration_ms"] == GRACE * 1000
    assert code == 1012


async def test_waiting_runs_end_at_once(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store) as server,
        server.connect() as client,
    ):
        active = await start_run(client, "two_seconds")
        for _ in range(3):
            await client.say("go")
            assert (await client.expect("message_confirmed"))["payload"]["status"] == "queued"
        async with draining(server):
            frames, code = await client.rest()
    assert outcomes(frames) == [
        "server_draining",
        "interrupted",
        "interrupted",
        "interrupted",
        "partial_result",
        "completed",
    ]
    waiting = [f["payload"] for f in frames if f["payload"].get("status") == "interrupted"]
    assert [end["duration_ms"] for end in waiting] == [0, 0, 0]
    assert frames[1]["timestamp"] == frames[0]["timestamp"]
    assert store.statuses[active] is RunStatus.COMPLETED
    assert store.started == [active]
    assert code == 1012


async def test_a_new_message_is_refused_and_its_key_stays_unused(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store) as server,
        server.connect() as client,
    ):
        await start_run(client, "two_seconds")
        async with draining(server):
            await client.expect("server_draining")
            await client.say("more", "key")
            error = await client.expect("error")
            assert error["payload"]["code"] == "SERVER_DRAINING"
            assert error["payload"]["recoverable"] is True
            assert error["payload"]["retry_after_ms"] > 0
            assert error["correlation_id"] == "key"
            await client.send("ping")  # control frames still work
            await client.expect("pong")
            await client.rest()
        assert len(store.recorded) == 1
    async with open_server(store=store) as server, server.connect() as client:
        await client.say("more", "key")
        assert (await client.expect("message_confirmed"))["payload"]["status"] == "accepted"


async def test_a_run_can_be_stopped_during_a_drain(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        run_id = await start_run(client, "wait_forever")
        async with draining(server) as durations:
            await client.expect("server_draining")
            await trio.sleep(1)
            await client.send("stop_agent", {"run_id": run_id})
            frames, _ = await client.rest()
        assert durations == [1]
    assert outcomes(frames) == ["cancelled"]


async def test_events_are_sent_before_the_close_frame(autojump_clock: MockClock) -> None:
    async def burst(run: Run) -> None:
        await run.emit("…")
        await trio.sleep(1)
        for n in range(300):
            await run.emit(f"{n} ".ljust(1000))  # more than fits into one write

    async with (
        open_server(agents={"burst": burst}) as server,
        server.connect(buffer_bytes=4000) as client,
    ):
        await start_run(client, "burst")
        async with draining(server) as durations:
            frames = [await client.expect("server_draining")]
            while frames[-1]["type"] != "agent_completed":  # slower than the server, but steady
                await trio.sleep(0.01)
                frames.append(await client.next())
            _, code = await client.rest()
        assert 0 < durations[0] < TIMEOUT
    assert code == 1012
    assert [f["seq"] for f in frames[1:]] == list(range(4, 4 + 301))
    assert frames[-1]["payload"]["status"] == "completed"


async def test_an_upgrade_in_progress_is_drained(
    autojump_clock: MockClock,
) -> None:
    answer = trio.Event()

    class Slow(MemoryTransport):
        async def accept(self) -> None:
            await answer.wait()

    async with open_server() as server:
        client = server.start(wrap=as_kind(Slow))
        await wait_all_tasks_blocked()
        async with draining(server):
            answer.set()
            frames, code = await client.rest()
    assert kinds(frames) == ["connection_established", "server_draining"]
    assert code == 1012


async def test_new_connections_are_refused(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        await start_run(client, "wait_forever")
        async with draining(server):
            late = server.start("bob")
            await late.done.wait()
            assert late.refused is not None
            assert late.refused.problem.code is ErrorCode.SERVER_DRAINING
            assert late.refused.problem.retry_after_ms == 1000
            for check in (server.node.capacity.check_open, server.node.capacity.check_room):
                with pytest.raises(Refused):
                    check()
            await client.rest()
        with pytest.raises(Refused):
            server.node.capacity.check_open()


async def test_a_connection_that_has_a_slot_already_is_refused(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        with server.node.capacity.connection_slot():
            async with draining(server):
                pass
            late = server.start()
            await late.done.wait()
        assert late.refused is not None
        assert late.refused.problem.code is ErrorCode.SERVER_DRAINING


# Where other nodes accept the clients.


async def test_clients_are_told_different_times(autojump_clock: MockClock) -> None:
    async with open_server(users=tuple(f"u{n}" for n in range(50))) as server:
        clients = [server.start(f"u{number}") for number in range(50)]
        for client in clients:
            await client.expect("connection_established")
        async with draining(server, has_peers=True) as durations:
            told = [(await client.expect("server_draining"))["payload"] for client in clients]
            waits = [each["reconnect_after_ms"] for each in told]
            assert all(type(wait) is int and 0 <= wait <= TIMEOUT * 500 for wait in waits)
            assert len(set(waits)) > 25
            for wait, client in sorted(zip(waits, clients, strict=True), key=lambda each: each[0]):
                await trio.sleep_until(wait / 1000)
                assert client.ended is None
                client.peer.close(1000)  # it is connected elsewhere
        assert durations == [max(waits) / 1000]


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0), (1.0, 4000)])
async def test_the_shortest_and_the_longest_time(
    autojump_clock: MockClock, chance: float, wait: int
) -> None:
    async with open_server() as server, server.connect() as client:
        async with draining(server, has_peers=True, random=lambda: chance) as durations:
            frame = await client.expect("server_draining")
            assert frame["payload"]["reconnect_after_ms"] == wait
            frames, code = await client.rest()
        assert (frames, code) == ([], 1012)
        assert durations == [wait / 1000 + CONNECTING]  # for a client that stays
        assert durations <= [GRACE]


async def test_a_client_that_leaves_for_another_node(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        client = server.start()
        await client.expect("connection_established")
        async with draining(server, has_peers=True, random=lambda: 1.0) as durations:
            await trio.sleep(3)
            client.peer.close(1000)
        assert durations == [3]


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 3.0), (0.5, 4.0)])
async def test_a_run_of_a_client_that_stays(
    autojump_clock: MockClock, chance: float, seconds: float
) -> None:
    async def three_seconds(run: Run) -> None:
        await run.emit("a")
        await trio.sleep(3)

    async with (
        open_server(agents={"three_seconds": three_seconds}) as server,
        server.connect() as client,
    ):
        await start_run(client, "three_seconds")
        async with draining(server, has_peers=True, random=lambda: chance) as durations:
            frames, code = await client.rest()
        assert durations == [seconds]
    assert outcomes(frames) == ["server_draining", "completed"]
    assert code == 1012


async def test_a_run_is_interrupted_whatever_its_client_does(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        await start_run(client, "wait_forever")
        async with draining(server, has_peers=True) as durations:
            frames, code = await client.rest()
        assert durations == [GRACE]
    assert outcomes(frames) == ["server_draining", "interrupted"]
    assert code == 1012


# The time limit.


async def never_reads(server: Server, send_timeout: float) -> Client:
    """Start a run that emits much, for a client that does not read."""
    client = server.start(buffer_bytes=4000, send_timeout=send_timeout)
    await client.expect("connection_established")
    await client.say("go", agent="emit_forever")
    return client


async def never_reads_replies(server: Server, send_timeout: float) -> Client:
    """Fill the buffer and the control channel with replies that are not read; start a run."""
    client = server.start(buffer_bytes=100_000, send_timeout=send_timeout)
    await client.expect("connection_established")
    await start_run(client, "wait_forever")
    with trio.move_on_after(0.5):
        while True:
            await client.send("ping", {"a": "x" * 900})
    return client


async def never_acknowledges(server: Server, send_timeout: float) -> Client:
    """Fill the log, so that the agent waits for room."""
    client = server.start(acknowledging=True, send_timeout=send_timeout)
    await client.expect("connection_established")
    await client.say("go", agent="emit_forever")
    server.nursery.start_soon(client.rest)
    return client


async def never_replies_to_the_close_frame(server: Server, send_timeout: float) -> Client:
    """Open a client that does not read, and so does not reply to the close frame."""
    client = server.start(send_timeout=send_timeout)
    await client.expect("connection_established")
    return client


async def never_ends_its_run(server: Server, send_timeout: float) -> Client:
    """Start a run that is shielded from cancellation."""
    client = server.start(send_timeout=send_timeout)
    await client.expect("connection_established")
    await start_run(client, "ignore_cancellation")
    server.nursery.start_soon(client.rest)
    return client


async def reads_slowly(server: Server, send_timeout: float) -> Client:
    """Read just fast enough to avoid the send timeout."""

    async def read() -> None:
        with suppress(TransportClosed):
            while True:
                await trio.sleep(4.5)
                await client.next()

    client = await never_reads(server, send_timeout)
    server.nursery.start_soon(read)
    return client


@pytest.mark.parametrize("send_timeout", [5.0, 600.0])
@pytest.mark.parametrize(
    "open_bad_client",
    [
        never_reads,
        never_reads_replies,
        never_acknowledges,
        never_replies_to_the_close_frame,
        never_ends_its_run,
        reads_slowly,
    ],
)
async def test_a_drain_ends_in_time_with_any_client(
    autojump_clock: MockClock,
    open_bad_client: Callable[[Server, float], Awaitable[Client]],
    send_timeout: float,
) -> None:
    store = ScriptedStore()
    async with open_server(agents=AGENTS, store=store) as server:
        client = await open_bad_client(server, send_timeout)
        others = [server.start("bob") for _ in range(3)]
        for other in others:
            await other.expect("connection_established")
        async with draining(server) as durations:
            pass
        assert durations[0] <= TIMEOUT
        await client.done.wait()
        for other in others:
            assert (await other.rest())[1] == 1012
        await wait_all_tasks_blocked()
        if open_bad_client is never_ends_its_run:
            assert store.ends.total() == 1  # stored while the run is still running
            await trio.sleep(1000)  # the run returns later, which changes nothing
        statistics = server.node.statistics()
        assert (statistics["connections"], statistics["sessions"]) == (0, 0)
        assert set(store.ends) == set(store.recorded)
        assert set(store.ends.values()) <= {1}
        send_timed_out = send_timeout < GRACE and open_bad_client in {
            never_reads,
            never_reads_replies,
        }
        if not send_timed_out:
            assert set(store.statuses.values()) <= {RunStatus.INTERRUPTED}


async def test_a_drain_timeout_of_zero_ends_everything_at_once(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(agents=AGENTS, store=store, drain_timeout_ms=0) as server:
        client = server.start()
        await client.expect("connection_established")
        run_id = await start_run(client, "wait_forever")
        async with draining(server) as durations:
            pass
        assert durations == [0]
        await client.rest()
        await wait_all_tasks_blocked()
        assert store.statuses == {run_id: RunStatus.INTERRUPTED}


# More than one call.


async def test_a_second_call_waits_for_the_first(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server, server.connect() as client:
        await start_run(client, "two_seconds")
        async with draining(server) as first:
            await trio.sleep(0.5)
            async with draining(server) as second:
                frames, _ = await client.rest()
        assert first == [2]
        assert second == [1.5]
        await server.node.drain()
    assert kinds(frames).count("server_draining") == 1


async def test_a_second_call_returns_after_the_first_was_cancelled(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with open_server(agents=AGENTS, store=store) as server, server.connect() as client:
        run_id = await start_run(client, "wait_forever")
        with trio.move_on_after(1):
            await server.node.drain()
        with trio.fail_after(1):
            await server.node.drain()
        await client.rest()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert server.node.statistics()["sessions"] == 0
        assert store.statuses == {run_id: RunStatus.INTERRUPTED}


async def test_a_drain_is_logged(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server:
        stuck = await never_reads(server, 600.0)
        server.start("bob")
        await wait_all_tasks_blocked()
        with capture_logs() as logs:
            await server.node.drain()
            await stuck.done.wait()
        await trio.sleep(1000)
    lines = [entry for entry in logs if entry["event"] in {"draining", "drained"}]
    assert lines[0]["connections"] == 2
    assert lines[0]["seconds"] == TIMEOUT
    assert lines[1]["aborted"] == 1


async def test_a_drain_ends_in_time_with_many_uncancellable_runs_and_a_blocked_store(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()

    async def ignore_cancellation(run: Run) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    async with open_server(
        agents={"ignore_cancellation": ignore_cancellation}, store=store
    ) as server:
        client = server.start()
        await client.expect("connection_established")
        for number in range(8):
            await client.say("go", thread_id=f"t{number}")
            await client.until("agent_started")
        store.hold()
        started = trio.current_time()
        await server.node.drain()
        assert trio.current_time() - started <= TIMEOUT + END_STORE_TIMEOUT
        frames, code = await client.rest()
        assert kinds(frames).count("agent_completed") == 8
        assert code == 1012
        store.release()


class BlockedStore(ScriptedStore):
    """A store whose `end_run` never returns."""

    async def end_run(self, end: RunEnd) -> None:
        """Record the end, and wait forever."""
        await super().end_run(end)
        await trio.sleep_forever()


@pytest.mark.parametrize("agent", ["wait_forever", "ignore_cancellation"])
@pytest.mark.parametrize("timeout_ms", [300, 1500, 8000])
async def test_an_end_is_sent_in_time_if_it_cannot_be_stored(
    autojump_clock: MockClock, agent: str, timeout_ms: int
) -> None:
    async with (
        open_server(agents=AGENTS, store=BlockedStore(), drain_timeout_ms=timeout_ms) as server,
        server.connect() as client,
    ):
        await start_run(client, agent)
        await client.say("waits behind it", agent=agent)
        await client.until("message_confirmed")
        started = trio.current_time()
        await server.node.drain()
        assert trio.current_time() - started <= timeout_ms / 1000
        frames, code = await client.rest()
        assert kinds(frames).count("agent_completed") == 2
        assert code == 1012


async def test_closing_the_node_takes_no_time(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS) as server:
        async with server.connect() as client:
            await start_run(client, "wait_forever")
        left = trio.current_time()
    assert trio.current_time() == left
