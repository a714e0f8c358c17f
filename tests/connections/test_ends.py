"""Each end of a connection: its reason, close code, log line and last frames; no task is left."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs
from support.memory import EPOCH, Client, Server, as_kind, kinds, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.errors import TransportClosed
from netra_trio.ids import UserId
from netra_trio.protocol.codes import CloseCode, EndReason, ErrorCode
from netra_trio.protocol.problem import problem
from netra_trio.stores.base import NewMessage
from netra_trio.transports.base import SendShared, Transport
from netra_trio.transports.memory import MemoryTransport

ALICE = UserId("alice")


async def emit_much(run: Run) -> None:
    for _ in range(500):
        await run.emit("a piece of an answer that is not short at all")


@define
class Recorder:
    """A transport that records its calls, and may fail."""

    inner: Transport
    written: list[str] = field(factory=list)
    fault: Exception | None = None

    async def accept(self) -> None:
        self.written.append("accept")
        await self.inner.accept()

    async def receive(self) -> str | bytes | None:
        data = await self.inner.receive()
        if data == "raise":
            raise RuntimeError("scripted")
        return data

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        self.written.append("send and ping" if ping else "send")
        if self.fault is not None:
            raise self.fault
        return await self.inner.send(frames, ping=ping)

    async def close(self, code: int, reason: str) -> None:
        self.written.append(f"close {code} {reason}")
        await self.inner.close(code, reason)

    @property
    def send_shared(self) -> SendShared | None:
        return self.inner.send_shared


@define(eq=False)
class Setup:
    """A server with one connection, whose transport is recorded."""

    server: Server
    store: ScriptedStore
    client: Client
    recorder: Recorder

    @property
    def connection(self) -> Connection:
        """The connection of the server."""
        (connection,) = self.server.node._connections.values()
        return connection


async def wait_forever(run: Run) -> None:
    """Emit a word and wait for a cancellation."""
    await run.emit("…")
    await trio.sleep_forever()


@asynccontextmanager
async def open_setup(**options: Any) -> AsyncIterator[Setup]:
    """Open a connection with an endless run; check at the end that no task or state is left."""
    store = ScriptedStore()
    recorders: list[Recorder] = []

    def record(transport: Transport) -> Transport:
        recorders.append(Recorder(transport))
        return recorders[-1]

    async with open_server(
        store=store, agents={"wait_forever": wait_forever}, resume_window_ms=0
    ) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        client = server.start(wrap=record, **options)
        await client.expect("connection_established")
        await client.say("go")
        await client.until("partial_result")
        yield Setup(server, store, client, recorders[0])
        await client.done.wait()
        await wait_all_tasks_blocked()
        statistics = server.node.statistics()
        assert (statistics["slots"], statistics["connections"], statistics["sessions"]) == (0, 0, 0)
        user = server.node._users.get(ALICE, trio.current_time())
        assert (user.connections, user.runs) == ([], {})
        assert list(store.ends.values()) == [1]
        assert trio.lowlevel.current_statistics().tasks_living == before
    closes = [call for call in recorders[0].written if call.startswith("close")]
    assert closes == recorders[0].written[-len(closes) :] if closes else True
    assert len(closes) <= 1


# Each of these functions causes one end.


async def peer_closes(setup: Setup) -> None:
    setup.client.peer.close(1000)


async def peer_goes_away(setup: Setup) -> None:
    setup.client.peer.close(1001)


async def peer_is_cut(setup: Setup) -> None:
    setup.client.peer.cut()


async def peer_stops_reading(setup: Setup) -> None:
    for _ in range(400):
        await setup.client.send("ping", {"a": "x" * 1000})


async def task_is_cancelled(setup: Setup) -> None:
    setup.client.scope.cancel()


async def node_aborts(setup: Setup) -> None:
    setup.connection.abort()


async def peer_sends_too_much(setup: Setup) -> None:
    await setup.client.send_raw("x" * (16 * 10_240 + 1))


async def reader_fails(setup: Setup) -> None:
    await setup.client.send_raw("raise")


async def background_request_fails(setup: Setup) -> None:
    setup.store.fault = RuntimeError("scripted")
    await setup.client.send("auth", {"token": token()})


async def session_fails(setup: Setup) -> None:
    setup.store.fault = RuntimeError("scripted")
    await setup.client.say("again", thread_id="other")


async def server_drains(setup: Setup) -> None:
    setup.server.nursery.start_soon(setup.server.node.drain)


async def peer_sends_bad_frames(setup: Setup) -> None:
    for _ in range(5):
        await setup.client.send_raw("{")


async def token_ends(setup: Setup) -> None:
    await setup.client.send("auth", {"token": token(expires_at=EPOCH + 30)}, "c-1")


async def user_is_disabled(setup: Setup) -> None:
    await setup.store.set_user_enabled(ALICE, enabled=False)
    await setup.client.send("auth", {"token": token()}, "c-1")


async def peer_is_silent(setup: Setup) -> None:
    await trio.sleep(70)


async def connection_is_taken_over(setup: Setup) -> None:
    setup.connection.end(EndReason.TAKEN_OVER)


async def limit_is_reached(setup: Setup) -> None:
    fault = problem(ErrorCode.CONNECTION_LIMIT_EXCEEDED, "…", recoverable=False)
    setup.connection.end(EndReason.EVICTED, fault)


Action = Callable[[Setup], Awaitable[None]]

# The action, the end reason, the last frames (errors by their code) and the close code.
ENDS: list[tuple[Action, EndReason, list[str], int | None]] = [
    (peer_closes, EndReason.PEER_CLOSED, [], 1000),
    (peer_goes_away, EndReason.PEER_CLOSED, [], 1001),
    (peer_is_cut, EndReason.PEER_LOST, [], 1006),
    (task_is_cancelled, EndReason.ABORTED, [], 1006),
    (node_aborts, EndReason.ABORTED, [], 1006),
    (peer_sends_too_much, EndReason.TOO_BIG, ["MESSAGE_TOO_LARGE"], 1009),
    (reader_fails, EndReason.INTERNAL, ["INTERNAL_ERROR"], 1011),
    (background_request_fails, EndReason.INTERNAL, ["INTERNAL_ERROR"], 1011),
    (session_fails, EndReason.INTERNAL, ["agent_completed", "INTERNAL_ERROR"], 1011),
    (server_drains, EndReason.DRAINED, ["server_draining", "agent_completed"], 1012),
    (
        peer_sends_bad_frames,
        EndReason.ERROR_LIMIT,
        ["JSON_PARSE_ERROR"] * 5 + ["ERROR_LIMIT_EXCEEDED"],
        4400,
    ),
    (
        token_ends,
        EndReason.TOKEN_EXPIRED,
        ["auth_ok", "auth_expiring", "TOKEN_EXPIRED"],
        4401,
    ),
    (user_is_disabled, EndReason.USER_DISABLED, ["USER_DISABLED"], 4403),
    (peer_is_silent, EndReason.HEARTBEAT_MISSED, ["heartbeat", "heartbeat"], 4408),
    (connection_is_taken_over, EndReason.TAKEN_OVER, [], 4409),
    (limit_is_reached, EndReason.EVICTED, ["CONNECTION_LIMIT_EXCEEDED"], 4429),
]


@pytest.mark.parametrize(("act", "reason", "last_frames", "code"), ENDS)
async def test_an_end_has_its_close_code_log_line_and_last_frames(
    autojump_clock: MockClock,
    act: Action,
    reason: EndReason,
    last_frames: list[str],
    code: int | None,
) -> None:
    with capture_logs() as logs:
        async with open_setup() as setup:
            await act(setup)
            frames, close_code = await setup.client.rest()
    assert [
        f["payload"]["code"] if f["type"] == "error" else f["type"] for f in frames
    ] == last_frames
    assert close_code == code
    assert setup.client.ended is reason or reason is EndReason.ABORTED
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["reason"] == reason.label
    assert line["frames_in"] >= 1
    if reason.close_code is not None and reason is not EndReason.PEER_CLOSED:
        assert close_code == reason.close_code
        assert setup.recorder.written[-1] == f"close {int(reason.close_code)} {reason.label}"
        answered = reason is not EndReason.INTERNAL or act is session_fails
        assert line["peer_code"] == (close_code if answered else None)
    else:
        assert line["peer_code"] == (None if reason is EndReason.ABORTED else close_code)


async def test_a_peer_that_does_not_read_causes_a_send_timeout(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with open_setup(buffer_bytes=8000) as setup:
            with pytest.raises(Exception, match="transport closed"):
                await peer_stops_reading(setup)
            await setup.client.done.wait()
    assert setup.client.ended is EndReason.SEND_TIMEOUT
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["reason"] == "send_timeout"
    assert line["seconds"] == 5.0


async def test_a_send_timeout_is_reported_even_if_the_reader_fails_first(
    autojump_clock: MockClock,
) -> None:
    class Late(MemoryTransport):
        async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
            try:
                return await super().send(frames, ping=ping)
            except TransportClosed:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.5)
                raise

    async with open_server() as server:
        client = server.start(wrap=as_kind(Late), buffer_bytes=1000)
        for _ in range(3):
            await client.send("ping", {"a": "x" * 900})
        await client.done.wait()
        assert client.ended is EndReason.SEND_TIMEOUT


def test_every_end_reason_is_tested() -> None:
    # FENCED needs two nodes: tests/cluster/test_zombies.py. SESSION_ENDED is an action of an
    # administrator: tests/node/test_admin_actions.py.
    elsewhere = {EndReason.SEND_TIMEOUT, EndReason.FENCED, EndReason.SESSION_ENDED}
    assert {reason for _, reason, *_ in ENDS} | elsewhere == set(EndReason)


async def test_the_log_line_counts_received_and_sent_frames(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with open_setup() as setup:
            await setup.client.send("ping")
            await setup.client.expect("pong")
            await trio.sleep(1.5)
            setup.connection.end(EndReason.TAKEN_OVER, problem(ErrorCode.INTERNAL_ERROR, "…"))
            frames, _ = await setup.client.rest()
    assert len(frames) == 1
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["frames_in"] == 2
    assert line["frames_out"] == 1 + 3 + 1 + 1  # connection_established, run, pong, final error
    assert line["seconds"] == 1.5


# Only the first end counts.


async def test_the_first_end_reason_is_used(autojump_clock: MockClock) -> None:
    async with open_setup() as setup:
        first = problem(ErrorCode.TOKEN_EXPIRED, "first")
        setup.connection.end(EndReason.TOKEN_EXPIRED, first)
        setup.connection.end(EndReason.EVICTED, problem(ErrorCode.USER_DISABLED, "second"))
        frames, code = await setup.client.rest()
    assert [frame["payload"]["error"] for frame in frames] == ["first"]
    assert code == 4401
    assert setup.client.ended is EndReason.TOKEN_EXPIRED


async def test_an_exception_after_the_end_does_not_change_the_last_frames(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with open_setup() as setup:
            setup.store.hold()
            await setup.client.send("auth", {"token": token()})
            await wait_all_tasks_blocked()
            setup.connection.end(EndReason.EVICTED, problem(ErrorCode.INTERNAL_ERROR, "first"))
            await wait_all_tasks_blocked()  # the close frame is sent, and the peer has not replied
            setup.store.fault = RuntimeError("scripted")
            setup.store.release()
            frames, code = await setup.client.rest()
    assert len(frames) == 1
    assert code == 4429
    assert setup.client.ended is EndReason.EVICTED
    assert setup.recorder.written[-2:] == ["send", "close 4429 evicted"]
    assert "connection_failed" in [entry["event"] for entry in logs]


async def test_frames_after_the_end_are_dropped(autojump_clock: MockClock) -> None:
    async with open_setup() as setup:
        setup.connection.end(EndReason.TAKEN_OVER)
        await setup.client.say("too late")
        await setup.client.send("ping")
        await setup.client.send_raw("x" * (16 * 10_240 + 1))
        await setup.client.send_raw("{")
        await wait_all_tasks_blocked()
        frames, code = await setup.client.rest()
    assert frames == []
    assert code == 4409
    assert len(setup.store.recorded) == 1


async def test_waiting_replies_are_written_before_the_final_error(
    autojump_clock: MockClock,
) -> None:
    async with open_setup() as setup:
        for n in range(20):
            await setup.client.send("ping", {"n": n})
        await peer_sends_bad_frames(setup)
        frames, code = await setup.client.rest()
    assert kinds(frames) == ["pong"] * 20 + ["error"] * 6
    assert code == 4400


# Peers that do not read or reply.


async def test_a_peer_that_does_not_reply_to_the_close_frame_is_dropped(
    autojump_clock: MockClock,
) -> None:
    async with open_setup() as setup:
        await trio.sleep(1)
        setup.connection.end(EndReason.TAKEN_OVER)
        await setup.client.done.wait()
        assert trio.current_time() == 1 + CLOSE_WAIT
    assert setup.client.ended is EndReason.TAKEN_OVER
    assert setup.recorder.written[-1] == "close 4409 taken_over"


async def test_a_peer_that_does_not_read_is_dropped_after_the_send_timeout(
    autojump_clock: MockClock,
) -> None:
    async with open_setup(buffer_bytes=1000) as setup:
        await setup.client.send("ping", {"a": "x" * 900})
        await setup.client.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        setup.connection.end(EndReason.EVICTED)
        await setup.client.done.wait()
        assert trio.current_time() == 5.0
    assert setup.client.ended is EndReason.EVICTED


async def test_an_exception_while_the_send_fails_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_setup() as setup:
        setup.recorder.fault = RuntimeError("scripted")
        await setup.client.send("ping")
        await wait_all_tasks_blocked()
        assert setup.client.done.is_set()
    assert setup.client.ended is EndReason.INTERNAL


async def test_an_exception_while_the_peer_does_not_read_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_setup(buffer_bytes=1000) as setup:
        await setup.client.send("ping", {"a": "x" * 900})
        await setup.client.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        await setup.client.send_raw("raise")
        await setup.client.done.wait()
        assert trio.current_time() <= CLOSE_WAIT
    assert setup.client.ended is EndReason.INTERNAL


async def test_a_peer_that_closes_before_the_upgrade_is_accepted(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        client = server.start()
        client.peer.close(1001)
        await client.done.wait()
        assert client.ended is EndReason.PEER_CLOSED
        assert server.node.statistics()["connections"] == 0


# Exceptions.


async def test_serve_raises_no_exception(autojump_clock: MockClock) -> None:
    class Broken(MemoryTransport):
        async def accept(self) -> None:
            raise RuntimeError("scripted")

    async with open_server() as server:
        with capture_logs() as logs:
            client = server.start(wrap=as_kind(Broken))
            await client.rest()
            await client.done.wait()
        assert client.ended is EndReason.INTERNAL
        (fault,) = [entry for entry in logs if entry["event"] == "connection_failed"]
        assert fault["error_id"].startswith("err_")


async def test_the_error_and_the_log_line_have_the_same_error_id(autojump_clock: MockClock) -> None:
    for act, event in ((reader_fails, "connection_failed"), (session_fails, "session_failed")):
        with capture_logs() as logs:
            async with open_setup() as setup:
                await act(setup)
                frames, _ = await setup.client.rest()
        (line,) = [entry for entry in logs if entry["event"] == event]
        payload = frames[-1]["payload"]
        assert payload["error_id"] == line["error_id"]
        assert "scripted" not in str(payload)


class FailingStore(ScriptedStore):
    """A store that fails at the third message."""

    async def record(self, message: NewMessage) -> Any:
        if len(self.recorded) == 2:
            self.fault = RuntimeError("scripted")
        return await super().record(message)


async def test_all_runs_end_when_a_session_fails(autojump_clock: MockClock) -> None:
    store = FailingStore()
    async with open_server(store=store, agents={"wait_forever": wait_forever}) as server:
        client = server.start()
        await client.expect("connection_established")
        for _ in range(3):  # the first runs, the second waits, the third fails
            await client.say("go")
        _, code = await client.rest()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert code == CloseCode.INTERNAL
        assert client.ended is EndReason.INTERNAL
        assert server.node.statistics()["sessions"] == 0
        assert set(store.ends) == set(store.recorded)
        assert server.node._users.get(ALICE, trio.current_time()).runs == {}


async def test_a_slow_reader_does_not_delay_the_close(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"emit_much": emit_much}) as server:
        client = server.start(buffer_bytes=300)
        await client.expect("connection_established")
        await client.say("go")
        await client.expect("message_confirmed")
        for _ in range(5):
            await client.send_raw("[]")
        ended = trio.current_time()
        while not client.done.is_set():  # reads one frame just before each send would time out
            with trio.move_on_after(4.9):
                await client.done.wait()
            with suppress(TransportClosed):
                await client.next()
        assert client.ended is EndReason.ERROR_LIMIT
        assert trio.current_time() - ended < 2 * 4.9 + 5.0 + CLOSE_WAIT
