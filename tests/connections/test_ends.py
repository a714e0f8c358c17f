"""Each end of a connection: its name, close code, log line and last frames, and nothing is left."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs
from support.memory import EPOCH, Client, Server, kinds, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.errors import TransportClosed
from netra_trio.ids import UserId
from netra_trio.protocol.codes import CloseCode, EndReason, ErrorCode
from netra_trio.protocol.problem import problem
from netra_trio.stores.base import NewMessage
from netra_trio.transports.base import Transport
from netra_trio.transports.memory import MemoryTransport

ALICE = UserId("alice")


async def flood(run: Run) -> None:
    for _ in range(500):
        await run.emit("a piece of an answer that is not short at all")


@define
class Recorder:
    """A transport that notes what is written to it, and may fail."""

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


@define(eq=False)
class Scene:
    """A server with one connection, whose transport is recorded."""

    server: Server
    store: ScriptedStore
    client: Client
    recorder: Recorder

    @property
    def connection(self) -> Connection:
        """The connection, while there is one."""
        (connection,) = self.server.node._connections.values()
        return connection


async def quiet(run: Run) -> None:
    """Emit a word and wait to be stopped."""
    await run.emit("…")
    await trio.sleep_forever()


@asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[Scene]:
    """Open a connection with a run that goes on; see that nothing is left of it at the end."""
    store = ScriptedStore()
    recorders: list[Recorder] = []

    def record(transport: Transport) -> Transport:
        recorders.append(Recorder(transport))
        return recorders[-1]

    async with open_server(store=store, agents={"quiet": quiet}, resume_window_ms=0) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        client = server.start(wrap=record, **options)
        await client.expect("connection_established")
        await client.say("go")
        await client.until("partial_result")
        yield Scene(server, store, client, recorders[0])
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


# Each of these brings one end about.


async def peer_closes(on: Scene) -> None:
    on.client.line.close(1000)


async def peer_goes_away(on: Scene) -> None:
    on.client.line.close(1001)


async def peer_vanishes(on: Scene) -> None:
    on.client.line.cut()


async def peer_stops_reading(on: Scene) -> None:
    for _ in range(400):
        await on.client.send("ping", {"a": "x" * 1000})


async def host_cancels(on: Scene) -> None:
    on.client.scope.cancel()


async def hub_aborts(on: Scene) -> None:
    on.connection.abort()


async def peer_sends_too_much(on: Scene) -> None:
    await on.client.send_raw("x" * (16 * 10_240 + 1))


async def reader_fails(on: Scene) -> None:
    await on.client.send_raw("raise")


async def errand_fails(on: Scene) -> None:
    on.store.fault = RuntimeError("scripted")
    await on.client.send("auth", {"token": token()})


async def session_fails(on: Scene) -> None:
    on.store.fault = RuntimeError("scripted")
    await on.client.say("again", thread_id="other")


async def server_drains(on: Scene) -> None:
    on.server.nursery.start_soon(on.server.node.drain)


async def peer_sends_rubbish(on: Scene) -> None:
    for _ in range(5):
        await on.client.send_raw("{")


async def token_ends(on: Scene) -> None:
    await on.client.send("auth", {"token": token(expires_at=EPOCH + 30)}, "c-1")


async def user_is_disabled(on: Scene) -> None:
    await on.store.set_user_enabled(ALICE, enabled=False)
    await on.client.send("auth", {"token": token()}, "c-1")


async def peer_is_silent(on: Scene) -> None:
    await trio.sleep(70)


async def another_takes_over(on: Scene) -> None:
    on.connection.end(EndReason.TAKEN_OVER)


async def limit_is_reached(on: Scene) -> None:
    fault = problem(ErrorCode.CONNECTION_LIMIT_EXCEEDED, "…", recoverable=False)
    on.connection.end(EndReason.EVICTED, fault)


Deed = Callable[[Scene], Awaitable[None]]

# What is done, how it ends, and the last frames: errors by their code.
ENDS: list[tuple[Deed, EndReason, list[str], int | None]] = [
    (peer_closes, EndReason.PEER_CLOSED, [], 1000),
    (peer_goes_away, EndReason.PEER_CLOSED, [], 1001),
    (peer_vanishes, EndReason.PEER_LOST, [], 1006),
    (host_cancels, EndReason.ABORTED, [], 1006),
    (hub_aborts, EndReason.ABORTED, [], 1006),
    (peer_sends_too_much, EndReason.TOO_BIG, ["MESSAGE_TOO_LARGE"], 1009),
    (reader_fails, EndReason.INTERNAL, ["INTERNAL_ERROR"], 1011),
    (errand_fails, EndReason.INTERNAL, ["INTERNAL_ERROR"], 1011),
    (session_fails, EndReason.INTERNAL, ["agent_completed", "INTERNAL_ERROR"], 1011),
    (server_drains, EndReason.DRAINED, ["server_draining", "agent_completed"], 1012),
    (
        peer_sends_rubbish,
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
    (another_takes_over, EndReason.TAKEN_OVER, [], 4409),
    (limit_is_reached, EndReason.EVICTED, ["CONNECTION_LIMIT_EXCEEDED"], 4429),
]


@pytest.mark.parametrize(("deed", "reason", "last", "code"), ENDS)
async def test_an_end_has_its_code_its_line_and_its_order(
    autojump_clock: MockClock,
    deed: Deed,
    reason: EndReason,
    last: list[str],
    code: int | None,
) -> None:
    with capture_logs() as logs:
        async with scene() as on:
            await deed(on)
            frames, close_code = await on.client.rest()
    assert [f["payload"]["code"] if f["type"] == "error" else f["type"] for f in frames] == last
    assert close_code == code
    assert on.client.ended is reason or reason is EndReason.ABORTED
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["reason"] == reason.label
    assert line["frames_in"] >= 1
    if reason.close_code is not None and reason is not EndReason.PEER_CLOSED:
        assert close_code == reason.close_code
        assert on.recorder.written[-1] == f"close {int(reason.close_code)} {reason.label}"
        answered = reason is not EndReason.INTERNAL or deed is session_fails
        assert line["peer_code"] == (close_code if answered else None)
    else:
        assert line["peer_code"] == (None if reason is EndReason.ABORTED else close_code)


async def test_a_peer_that_stops_reading_is_a_send_timeout(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with scene(buffer_bytes=8000) as on:
            with pytest.raises(Exception, match="transport closed"):
                await peer_stops_reading(on)
            await on.client.done.wait()
    assert on.client.ended is EndReason.SEND_TIMEOUT
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["reason"] == "send_timeout"
    assert line["seconds"] == 5.0


async def test_a_send_timeout_is_named_even_if_the_reader_hears_first(
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

    def late(transport: Transport) -> Transport:
        assert isinstance(transport, MemoryTransport)
        transport.__class__ = Late
        return transport

    async with open_server() as server:
        client = server.start(wrap=late, buffer_bytes=1000)
        for _ in range(3):
            await client.send("ping", {"a": "x" * 900})
        await client.done.wait()
        assert client.ended is EndReason.SEND_TIMEOUT


def test_every_reason_is_tried() -> None:
    assert {reason for _, reason, *_ in ENDS} | {EndReason.SEND_TIMEOUT} == set(EndReason)


async def test_the_log_line_counts_frames_both_ways(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with scene() as on:
            await on.client.send("ping")
            await on.client.expect("pong")
            await trio.sleep(1.5)
            on.connection.end(EndReason.TAKEN_OVER, problem(ErrorCode.INTERNAL_ERROR, "…"))
            frames, _ = await on.client.rest()
    assert len(frames) == 1
    (line,) = [entry for entry in logs if entry["event"] == "connection_ended"]
    assert line["frames_in"] == 2
    assert line["frames_out"] == 1 + 3 + 1 + 1  # welcome, run, pong, last word
    assert line["seconds"] == 1.5


# The first reason stays.


async def test_the_first_reason_wins(autojump_clock: MockClock) -> None:
    async with scene() as on:
        first = problem(ErrorCode.TOKEN_EXPIRED, "first")
        on.connection.end(EndReason.TOKEN_EXPIRED, first)
        on.connection.end(EndReason.EVICTED, problem(ErrorCode.USER_DISABLED, "second"))
        frames, code = await on.client.rest()
    assert [frame["payload"]["error"] for frame in frames] == ["first"]
    assert code == 4401
    assert on.client.ended is EndReason.TOKEN_EXPIRED


async def test_a_fault_on_the_way_out_changes_nothing_the_peer_sees(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with scene() as on:
            on.store.hold()
            await on.client.send("auth", {"token": token()})
            await wait_all_tasks_blocked()
            on.connection.end(EndReason.EVICTED, problem(ErrorCode.INTERNAL_ERROR, "first"))
            await wait_all_tasks_blocked()  # closed, and the peer has not answered yet
            on.store.fault = RuntimeError("scripted")
            on.store.release()
            frames, code = await on.client.rest()
    assert len(frames) == 1
    assert code == 4429
    assert on.client.ended is EndReason.EVICTED
    assert on.recorder.written[-2:] == ["send", "close 4429 evicted"]
    assert "connection_failed" in [entry["event"] for entry in logs]


async def test_frames_after_the_end_are_not_heard(autojump_clock: MockClock) -> None:
    async with scene() as on:
        on.connection.end(EndReason.TAKEN_OVER)
        await on.client.say("too late")
        await on.client.send("ping")
        await on.client.send_raw("x" * (16 * 10_240 + 1))
        await on.client.send_raw("{")
        await wait_all_tasks_blocked()
        frames, code = await on.client.rest()
    assert frames == []
    assert code == 4409
    assert len(on.store.recorded) == 1


async def test_replies_that_wait_are_written_before_the_last_word(
    autojump_clock: MockClock,
) -> None:
    async with scene() as on:
        for n in range(20):
            await on.client.send("ping", {"n": n})
        await peer_sends_rubbish(on)
        frames, code = await on.client.rest()
    assert kinds(frames) == ["pong"] * 20 + ["error"] * 6
    assert code == 4400


# A peer that does not do its part.


async def test_a_peer_that_does_not_answer_the_close_is_left(autojump_clock: MockClock) -> None:
    async with scene() as on:
        await trio.sleep(1)
        on.connection.end(EndReason.TAKEN_OVER)
        await on.client.done.wait()
        assert trio.current_time() == 1 + CLOSE_WAIT
    assert on.client.ended is EndReason.TAKEN_OVER
    assert on.recorder.written[-1] == "close 4409 taken_over"


async def test_a_stuck_peer_is_left_after_the_send_timeout(autojump_clock: MockClock) -> None:
    async with scene(buffer_bytes=1000) as on:
        await on.client.send("ping", {"a": "x" * 900})
        await on.client.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        on.connection.end(EndReason.EVICTED)
        await on.client.done.wait()
        assert trio.current_time() == 5.0
    assert on.client.ended is EndReason.EVICTED


async def test_a_fault_with_a_peer_that_is_gone(autojump_clock: MockClock) -> None:
    async with scene() as on:
        on.recorder.fault = RuntimeError("scripted")
        await on.client.send("ping")
        await wait_all_tasks_blocked()
        assert on.client.done.is_set()
    assert on.client.ended is EndReason.INTERNAL


async def test_a_fault_on_a_line_that_is_stuck(autojump_clock: MockClock) -> None:
    async with scene(buffer_bytes=1000) as on:
        await on.client.send("ping", {"a": "x" * 900})
        await on.client.send("ping", {"a": "x" * 900})
        await wait_all_tasks_blocked()
        await on.client.send_raw("raise")
        await on.client.done.wait()
        assert trio.current_time() <= CLOSE_WAIT
    assert on.client.ended is EndReason.INTERNAL


async def test_a_peer_that_is_gone_before_the_answer(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        client = server.start()
        client.line.close(1001)
        await client.done.wait()
        assert client.ended is EndReason.PEER_CLOSED
        assert server.node.statistics()["connections"] == 0


# What comes out of serving.


async def test_no_exception_comes_out(autojump_clock: MockClock) -> None:
    class Broken(MemoryTransport):
        async def accept(self) -> None:
            raise RuntimeError("scripted")

    def broken(transport: Transport) -> Transport:
        assert isinstance(transport, MemoryTransport)
        transport.__class__ = Broken
        return transport

    async with open_server() as server:
        with capture_logs() as logs:
            client = server.start(wrap=broken)
            await client.rest()
            await client.done.wait()
        assert client.ended is EndReason.INTERNAL
        (fault,) = [entry for entry in logs if entry["event"] == "connection_failed"]
        assert fault["error_id"].startswith("err_")


async def test_the_error_id_joins_log_and_peer(autojump_clock: MockClock) -> None:
    for deed, event in ((reader_fails, "connection_failed"), (session_fails, "session_failed")):
        with capture_logs() as logs:
            async with scene() as on:
                await deed(on)
                frames, _ = await on.client.rest()
        (line,) = [entry for entry in logs if entry["event"] == event]
        payload = frames[-1]["payload"]
        assert payload["error_id"] == line["error_id"]
        assert "scripted" not in str(payload)


class _Holding(ScriptedStore):
    """A store that fails at the third message, and holds up nothing before."""

    async def record(self, message: NewMessage) -> Any:
        if len(self.recorded) == 2:
            self.fault = RuntimeError("scripted")
        return await super().record(message)


async def test_a_session_s_fault_leaves_no_waiting_run_behind(autojump_clock: MockClock) -> None:
    store = _Holding()
    async with open_server(store=store, agents={"quiet": quiet}) as server:
        client = server.start()
        await client.expect("connection_established")
        for _ in range(3):  # one runs, one waits, one fails
            await client.say("go")
        _, code = await client.rest()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert code == CloseCode.INTERNAL
        assert client.ended is EndReason.INTERNAL
        assert server.node.statistics()["sessions"] == 0
        assert set(store.ends) == set(store.recorded)
        assert server.node._users.get(ALICE, trio.current_time()).runs == {}


async def test_a_peer_that_takes_its_end_by_the_drop_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"flood": flood}) as server:
        client = server.start(buffer_bytes=300)
        await client.expect("connection_established")
        await client.say("go")
        await client.expect("message_confirmed")
        for _ in range(5):
            await client.send_raw("[]")
        ended = trio.current_time()
        while not client.done.is_set():  # a frame just before each send would time out
            with trio.move_on_after(4.9):
                await client.done.wait()
            with suppress(TransportClosed):
                await client.next()
        assert client.ended is EndReason.ERROR_LIMIT
        assert trio.current_time() - ended < 2 * 4.9 + 5.0 + CLOSE_WAIT
