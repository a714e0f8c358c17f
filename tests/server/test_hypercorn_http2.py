"""HTTP/2 that Hypercorn serves as we patch it, with a client by hand: streams are independent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from hyperframe.frame import (
    DataFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.http2 import Http2Client
from support.stock_host import (
    CLOSE,
    PING,
    TEXT,
    Flood,
    Handler,
    Message,
    Receive,
    Recorder,
    Send,
    Server,
    accept,
    bystander,
    close_frame,
    echo,
    frame,
    next_of,
    serving,
)

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn import http2

ECHO = b"\x81\x05hello"  # what `/echo` answers to HELLO
HELLO = frame(TEXT, b"hello")


@asynccontextmanager
async def connected(handler: Handler, **settings: Any) -> AsyncIterator[tuple[Server, Http2Client]]:
    """Open one HTTP/2 connection to a host; leave it when the block ends."""
    async with serving(handler, **settings) as server:
        client = Http2Client((await server.peer()).stream)
        await client.start()
        yield server, client
        await client.stream.aclose()


async def talks(client: Http2Client, stream_id: int) -> None:
    """Check that the echo on this stream answers."""
    before = len(client.data[stream_id])
    await client.send(stream_id, HELLO)
    await client.until(lambda: len(client.data[stream_id]) >= before + len(ECHO))
    assert client.data[stream_id][before:] == ECHO


async def test_http2() -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        client = Http2Client((await server.peer()).stream)
        await client.start()
        await client.open_websocket(1)
        assert client.statuses[1] == 200
        await client.send(1, HELLO + frame(PING, b"p") + close_frame(4000))
        await client.until(lambda: 1 in client.ended)
        assert client.data[1] == b"\x8a\x01p\x88\x02" + (4000).to_bytes(2, "big")
        assert (await recorder.got.receive())["text"] == "hello"
        assert (await next_of(recorder, "websocket.disconnect"))["code"] == 4000
        await client.stream.aclose()


async def test_an_http2_peer_without_a_window_is_given_up() -> None:
    flood = Flood()
    async with serving(flood, send_timeout=0.3) as server, bystander(server):
        client = Http2Client((await server.peer()).stream, window=0)
        await client.start()
        await client.open_websocket(1)
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        await client.stream.aclose()


# --- late frames


async def closes(_scope: Message, receive: Receive, send: Send) -> None:
    """Close after the first message, and return without waiting for the reply."""
    await accept(receive, send)
    await receive()
    await send({"type": "websocket.close", "code": 4400})


LATE = {
    "a pong": frame(10, b"late"),
    "a close": close_frame(4400),
    "much data": frame(TEXT, b"x" * 60_000),
}


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("name", LATE)
async def test_late_frames_of_an_ended_websocket_do_not_affect_others(name: str, end: bool) -> None:
    async with connected(closes) as (_, client):
        await client.open_websocket(1, "/echo")
        await client.open_websocket(3)
        await client.send(3, HELLO)
        await client.until(lambda: 3 in client.ended)
        assert client.data[3][:2] == bytes([0x80 | CLOSE, 2])
        await client.until(lambda: 3 in client.resets)
        assert client.resets[3] == ErrorCodes.NO_ERROR
        for _ in range(3):  # as if the reset had not arrived yet
            for at in range(0, len(LATE[name]), 16_384):
                late = DataFrame(3, LATE[name][at : at + 16_384])
                await client.stream.send_all(late.serialize())
            await talks(client, 1)
        if end:
            await client.stream.send_all(DataFrame(3, flags=["END_STREAM"]).serialize())
            await client.stream.send_all(WindowUpdateFrame(3, window_increment=1000).serialize())
            await client.stream.send_all(RstStreamFrame(3).serialize())
        await talks(client, 1)
        await client.open_websocket(5, "/echo")
        await talks(client, 5)


async def test_frames_for_an_ended_stream_give_their_bytes_back() -> None:
    """Each round sends more than a window; a leak would stop the client after the first one."""
    async with connected(closes) as (_, client):
        await client.open_websocket(1, "/echo")
        for stream_id in range(3, 13, 2):
            await client.open_websocket(stream_id)
            await client.send(stream_id, HELLO)
            size = client.core.local_flow_control_window(stream_id)
            client.core.send_data(stream_id, b"\x88\x80")  # the rest of a frame, of any length
            for at in range(2, size - 16_384, 16_384):
                client.core.send_data(stream_id, b"x" * 16_384)
                del at
            await client.flush()
            await client.until(lambda n=stream_id: n in client.resets)  # type: ignore[misc]
            await talks(client, 1)


async def test_a_request_answered_before_its_body_is_reset_without_an_error() -> None:
    async def early(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async with connected(early) as (_, client):
        await client.open_websocket(1, "/echo")
        for stream_id in (3, 5, 7):
            await client.ask(stream_id, "/raw", method="POST", end=False)
            for _ in range(2):
                client.core.send_data(stream_id, b"x" * 16_384)
            await client.flush()
            await client.until(lambda n=stream_id: n in client.resets)  # type: ignore[misc]
            assert client.statuses[stream_id] == 401
            assert client.data[stream_id] == b"no"
            assert client.resets[stream_id] == ErrorCodes.NO_ERROR
            await talks(client, 1)


async def test_a_body_that_is_not_read_does_not_block_other_streams() -> None:
    async def waits(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive, send
        await go.wait()

    go = trio.Event()
    async with connected(waits) as (_, client):
        await client.open_websocket(1, "/echo")
        await client.ask(3, "/raw", method="POST", end=False)
        for _ in range(30):
            client.core.send_data(3, b"x" * 1000)
        await client.flush()
        await talks(client, 1)
        go.set()
        await client.until(lambda: 3 in client.statuses)
        assert client.statuses[3] == 500


async def test_a_stream_given_up_for_the_send_timeout_is_reset() -> None:
    flood = Flood()
    async with serving(flood, send_timeout=0.3) as server:
        client = Http2Client((await server.peer()).stream, window=0)
        await client.start()
        await client.open_websocket(1, "/echo")
        client.core.increment_flow_control_window(1000, 1)
        await client.flush()
        await talks(client, 1)
        await client.open_websocket(3)
        await client.until(lambda: 3 in client.resets)
        assert client.resets[3] == ErrorCodes.CANCEL
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        await client.stream.send_all(WindowUpdateFrame(3, window_increment=1000).serialize())
        await talks(client, 1)
        await client.stream.aclose()


async def test_an_exception_ends_only_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(echo) as (_, client):
        await client.open_websocket(1, "/echo")
        for stream_id, fields in (
            (3, [(":method", "CONNECT"), (":authority", "a:1")]),
            (5, [(":method", "GET"), (":path", "/\xff"), (":scheme", "http"), (":authority", "a")]),
        ):
            client.core.config.validate_outbound_headers = False
            client.core.send_headers(stream_id, fields, end_stream=True)
            await client.flush()
            await client.until(lambda n=stream_id: n in client.statuses)  # type: ignore[misc]
            assert client.statuses[stream_id] == 400
        await talks(client, 1)
    assert "closed after" not in caplog.text


async def test_an_answer_without_connection_specific_headers() -> None:
    async def answers(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        headers = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"x-a", b"b")]
        await send({"type": "http.response.start", "status": 426, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})

    async with connected(answers) as (_, client):
        await client.ask(1, "/raw")
        await client.until(lambda: 1 in client.ended)
        assert client.statuses[1] == 426


async def test_cancelling_in_mid_send_resets_only_its_stream() -> None:
    """The client opens a window for a part of the frame, so the send is in the middle of it."""
    flood = Flood()
    async with serving(flood) as server:
        client = Http2Client((await server.peer()).stream, window=0)
        await client.start()
        for stream_id, path in ((1, "/echo"), (3, "/ws")):
            await client.open_websocket(stream_id, path)
            client.core.increment_flow_control_window(1000, stream_id)
            await client.flush()
        await client.until(lambda: len(client.data[3]) == 1000)
        flood.scope.cancel()
        await flood.ended.wait()
        assert flood.last["code"] == 1006
        await client.until(lambda: 3 in client.resets)
        assert client.resets[3] == ErrorCodes.CANCEL
        await talks(client, 1)
        await client.stream.aclose()


# --- floods


def resets(client: Http2Client, first: int, count: int) -> bytes:
    """Return this many requests, each reset at once."""
    data = b""
    for stream_id in range(first, first + 2 * count, 2):
        fields = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
        client.core.send_headers(stream_id, fields, end_stream=True)
        client.core.reset_stream(stream_id)
        data += client.core.data_to_send()
    return data


async def test_resets_at_the_limit_are_accepted_and_one_more_ends_the_connection() -> None:
    async with serving(echo) as server, bystander(server) as talk:
        client = Http2Client((await server.peer()).stream)
        await client.start()
        await client.stream.send_all(resets(client, 1, http2.RESET_BURST))
        await client.ask(1 + 2 * http2.RESET_BURST, "/")
        await client.until(lambda: 1 + 2 * http2.RESET_BURST in client.statuses)
        await client.stream.send_all(resets(client, 3 + 2 * http2.RESET_BURST, 100))
        await client.to_the_end()
        assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        await talk()


async def test_applications_of_reset_streams_count_as_requests_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, wait_started = trio.open_memory_channel[str](100)
    go = trio.Event()

    async def waits(scope: Message, receive: Receive, send: Send) -> None:
        del receive, send
        await started.send(scope["path"])
        await go.wait()

    monkeypatch.setattr(http2, "REQUESTS", 10)
    async with connected(waits) as (_, client):
        for n in range(10):
            await client.ask(2 * n + 1, "/raw")
            await wait_started.receive()
            client.core.reset_stream(2 * n + 1)
            await client.flush()
        await client.ask(21, "/raw")
        await client.until(lambda: 21 in client.resets)
        assert client.resets[21] == ErrorCodes.REFUSED_STREAM
        assert wait_started.statistics().current_buffer_used == 0
        go.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.ask(23, "/")
        await client.until(lambda: 23 in client.statuses)


SMALL_FRAMES = {
    "pings": PingFrame(0, opaque_data=b"12345678").serialize(),
    "settings": SettingsFrame(0).serialize(),
    "priorities": PriorityFrame(1001, depends_on=3, stream_weight=5).serialize(),
    "resets of unknown streams": RstStreamFrame(1).serialize(),
    "unknown frames": b"\x00\x00\x00\xfa\x00\x00\x00\x00\x01",
    "empty data": b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",
}


@pytest.mark.parametrize("name", SMALL_FRAMES)
async def test_a_flood_of_small_frames_slows_down_only_its_connection(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the burst the flood is handled at the rate, so most of it stays unread."""
    handled = 0
    on_frame = http2.Http2Connection._on_frame

    async def counted(self: http2.Http2Connection, raw: Any) -> None:
        nonlocal handled
        handled += 1
        await on_frame(self, raw)

    monkeypatch.setattr(http2.Http2Connection, "_on_frame", counted)
    async with serving(echo) as server, bystander(server) as talk:
        client = Http2Client((await server.peer()).stream)
        await client.start()
        await client.open_websocket(1, "/echo")
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while await client.stream.receive_some(65_536):
                    pass

            async def write() -> None:
                while True:
                    await client.stream.send_all(SMALL_FRAMES[name] * 1000)

            nursery.start_soon(read)
            nursery.start_soon(write)
            begun = trio.current_time()
            while trio.current_time() - begun < 1.5:
                await talk()
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        seconds = trio.current_time() - begun
        most = 1000 + 200 * seconds + 100  # the burst, the rate, and what one read holds
        assert handled < most
        await client.stream.aclose()


async def test_a_flood_is_handled_with_turns_for_others_between() -> None:
    """Between two frames of other connections' floods the scheduler runs the other tasks."""
    async with serving(echo) as server:
        clients = [Http2Client((await server.peer()).stream) for _ in range(5)]
        for client in clients:
            await client.start()
        passes = 0

        async def count() -> None:
            nonlocal passes
            while True:
                await trio.lowlevel.checkpoint()
                passes += 1

        async with trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(count)
            for client in clients:
                await client.stream.send_all(resets(client, 1, http2.RESET_BURST))
            for client in clients:
                await client.ask(1 + 2 * http2.RESET_BURST, "/")
                await client.until(lambda c=client: c.statuses)  # type: ignore[misc]
            nursery.cancel_scope.cancel()
        frames = 5 * 2 * http2.RESET_BURST
        assert passes >= frames / http2.FRAMES_IN_A_ROW
        for client in clients:
            await client.stream.aclose()
