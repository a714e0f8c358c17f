"""The ASGI transport and the application under a host without our extension."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from attrs import define, evolve
from structlog.testing import capture_logs
from support.memory import SECRET, token, wall_clock
from trio.testing import MockClock

from netra_trio import create_app
from netra_trio.agents.demo.echo import echo
from netra_trio.config.settings import Settings
from netra_trio.errors import MessageTooBig, SettingsError, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.server.application import Application
from netra_trio.transports.asgi import AsgiTransport

Message = dict[str, Any]


@define(eq=False)
class Call:
    """The host's side of one ASGI call, whose sends may block."""

    to_app: trio.MemorySendChannel[Message]
    inbox: trio.MemoryReceiveChannel[Message]
    outbox: trio.MemorySendChannel[Message]
    from_app: trio.MemoryReceiveChannel[Message]

    @classmethod
    def make(cls, room: int = 100) -> "Call":
        return cls(
            *trio.open_memory_channel[Message](100), *trio.open_memory_channel[Message](room)
        )

    async def receive(self) -> Message:
        return await self.inbox.receive()

    async def send(self, message: Any) -> None:
        await self.outbox.send(message)

    def transport(self, *, extras: bool = False, max_bytes: int = 100) -> AsgiTransport:
        return AsgiTransport(
            {"extensions": {"netra_trio": {}} if extras else {}},
            self.receive,
            self.send,
            subprotocol="netra.v1",
            send_timeout=5.0,
            max_bytes=max_bytes,
        )


async def test_each_frame_is_a_message_without_the_extension() -> None:
    call = Call.make()
    transport = call.transport()
    await transport.accept()
    await transport.send([b"1", BinaryFrame(b"\xff"), b"2"], ping=True)
    await transport.close(4401, "token_expired")
    sent = [call.from_app.receive_nowait() for _ in range(5)]
    assert sent == [
        {"type": "websocket.accept", "subprotocol": "netra.v1"},
        {"type": "websocket.send", "text": "1"},
        {"type": "websocket.send", "bytes": b"\xff"},
        {"type": "websocket.send", "text": "2"},
        {"type": "websocket.close", "code": 4401, "reason": "token_expired"},
    ]
    assert call.from_app.statistics().current_buffer_used == 0


async def test_the_extension_has_batches_and_pings() -> None:
    call = Call.make()
    transport = call.transport(extras=True)
    await transport.send([b"1", b"2"], ping=True)
    assert call.from_app.receive_nowait() == {"type": "netra_trio.send", "frames": [b"1", b"2"]}
    assert call.from_app.receive_nowait() == {"type": "netra_trio.ping"}


async def test_a_send_that_blocks_times_out(autojump_clock: MockClock) -> None:
    call = Call.make(room=0)
    started = trio.current_time()
    with pytest.raises(TransportClosed) as closed:
        await call.transport().send([b"1"])
    assert closed.value.timed_out
    assert trio.current_time() - started == 5.0


async def test_an_oserror_of_the_host_is_a_closed_transport() -> None:
    call = Call.make()
    transport = call.transport()

    async def broken(message: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("gone")

    transport = AsgiTransport(
        {}, call.receive, broken, subprotocol=None, send_timeout=5.0, max_bytes=100
    )
    with pytest.raises(TransportClosed):
        await transport.send([b"1"])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "websocket.receive", "text": "é" * 50}, "é" * 50),
        ({"type": "websocket.receive", "bytes": b"x" * 100}, b"x" * 100),
        ({"type": "websocket.receive", "text": None, "bytes": b""}, b""),
        ({"type": "netra_trio.alive"}, None),
    ],
)
async def test_received_messages(message: Message, expected: str | bytes | None) -> None:
    call = Call.make()
    await call.to_app.send(message)
    assert await call.transport().receive() == expected


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.receive", "text": "x" * 101},
        {"type": "websocket.receive", "text": "é" * 50 + "x"},
        {"type": "websocket.receive", "bytes": b"x" * 101},
        {"type": "netra_trio.too_big"},
    ],
)
async def test_messages_beyond_the_limit(message: Message) -> None:
    call = Call.make()
    await call.to_app.send(message)
    with pytest.raises(MessageTooBig):
        await call.transport().receive()


async def test_a_disconnect_is_raised_again() -> None:
    call = Call.make()
    transport = call.transport()
    await call.to_app.send({"type": "websocket.disconnect", "code": 1001})
    for _ in range(2):
        with pytest.raises(TransportClosed) as closed:
            await transport.receive()
        assert closed.value.code == 1001


@asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[trio.Nursery]:
    call = Call.make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, {"type": "lifespan"}, call.receive, call.send)
        await call.to_app.send({"type": "lifespan.startup"})
        assert await call.from_app.receive() == {"type": "lifespan.startup.complete"}
        yield nursery
        await call.to_app.send({"type": "lifespan.shutdown"})
        assert await call.from_app.receive() == {"type": "lifespan.shutdown.complete"}


def make_app(**settings: Any) -> Application:
    chosen = evolve(Settings(), jwt_secret_key=SECRET, **settings)
    return create_app(agents={"echo": echo}, settings=chosen, wall_clock=wall_clock)


def websocket_scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": "/ws",
        "query_string": f"token={token()}".encode(),
        "headers": [(b"host", b"localhost")],
        "subprotocols": [],
        "client": ("127.0.0.1", 50_000),
        **more,
    }


async def test_a_conversation_without_the_extension(autojump_clock: MockClock) -> None:
    app, call = make_app(), Call.make()
    async with lifespan(app) as nursery:
        nursery.start_soon(app, websocket_scope(), call.receive, call.send)
        await call.to_app.send({"type": "websocket.connect"})
        assert await call.from_app.receive() == {"type": "websocket.accept", "subprotocol": None}
        text = '{"type": "user_message", "payload": {"content": "hi"}}'
        await call.to_app.send({"type": "websocket.receive", "text": text})
        kinds = []
        while "agent_completed" not in kinds:
            kinds.append(orjson.loads((await call.from_app.receive())["text"])["type"])
        await call.to_app.send({"type": "websocket.disconnect", "code": 1000})
    assert kinds == [
        "connection_established",
        "message_confirmed",
        "agent_started",
        "partial_result",
        "agent_completed",
    ]
    assert app.statistics() == {}


async def test_a_rejected_upgrade_is_an_http_answer(autojump_clock: MockClock) -> None:
    app, call = make_app(), Call.make()
    async with lifespan(app) as nursery:
        nursery.start_soon(app, websocket_scope(query_string=b""), call.receive, call.send)
        await call.to_app.send({"type": "websocket.connect"})
        start = await call.from_app.receive()
        body = orjson.loads((await call.from_app.receive())["body"])
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert body["code"] == body["payload"]["code"] == "AUTH_REQUIRED"


async def test_the_end_of_the_lifespan_drains(autojump_clock: MockClock) -> None:
    app, call, terminated = make_app(), Call.make(), trio.Event()
    extras = {"netra_trio": {"terminated": terminated.wait}}
    async with lifespan(app) as nursery:
        nursery.start_soon(app, websocket_scope(extensions=extras), call.receive, call.send)
        await call.to_app.send({"type": "websocket.connect"})
        assert (await call.from_app.receive())["type"] == "websocket.accept"
        assert (await call.from_app.receive())["type"] == "netra_trio.send"
        terminated.set()
        frames = (await call.from_app.receive())["frames"]
        assert orjson.loads(frames[0])["type"] == "server_draining"
        assert (await call.from_app.receive())["code"] == 1012


async def test_a_call_without_a_lifespan_fails() -> None:
    call = Call.make()
    with pytest.raises(RuntimeError, match="lifespan"):
        await make_app()(websocket_scope(), call.receive, call.send)


def test_an_application_needs_agents_and_a_secret() -> None:
    with pytest.raises(ValueError, match="at least one"):
        create_app(agents={})
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY"):
        create_app(settings=Settings())


async def test_a_failed_server_is_logged(autojump_clock: MockClock) -> None:
    app, call = make_app(), Call.make()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("scripted")

    with capture_logs() as logs, pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, {"type": "lifespan"}, call.receive, call.send)
            await call.to_app.send({"type": "lifespan.startup"})
            await call.from_app.receive()
            extras = {"netra_trio": {"terminated": fail}}
            nursery.start_soon(app, websocket_scope(extensions=extras), call.receive, call.send)
            await trio.sleep_forever()
    assert "server_failed" in {entry["event"] for entry in logs}
