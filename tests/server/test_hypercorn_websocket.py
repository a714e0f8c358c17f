"""WebSockets that Hypercorn serves as we patch it, on real sockets: sends, messages, closing."""

from typing import Any

import pytest
import trio
import trio.testing
from support.stock_host import (
    BINARY,
    CLOSE,
    LIMIT,
    MASK,
    PING,
    PONG,
    QUIET,
    TEXT,
    Flood,
    Message,
    Receive,
    Recorder,
    Send,
    accept,
    bystander,
    close_frame,
    echo,
    frame,
    names,
    next_of,
    serving,
    upgrade,
)
from trio.testing import MockClock

from netra_trio.errors import TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.server.hypercorn.writer import SocketWriter

# --- sends


async def test_a_peer_that_never_reads_is_given_up() -> None:
    flood = Flood()
    async with serving(flood, send_timeout=0.3) as server, bystander(server):
        peer = await server.upgraded()
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert flood.error.timed_out
        assert flood.last == {"type": "websocket.disconnect", "code": 1006}
        await peer.stream.aclose()


async def test_a_slow_reader_is_not_given_up(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = QUIET
    total = 40 * 200_000

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": b"x" * total})
        await send({"type": "websocket.close"})

    async with serving(sends, send_timeout=0.5) as server:
        peer = await server.upgraded()
        start = trio.current_time()
        seen = len(peer.buffer)
        while data := await peer.more():
            seen += len(data)
            peer.buffer = b""
            await trio.sleep(0.01)
        assert seen == total + 10 + 4
        assert trio.current_time() - start > 0.5


async def test_a_loop_of_sends_ends_when_the_peer_is_lost() -> None:
    flood = Flood()
    async with serving(flood) as server, bystander(server):
        peer = await server.upgraded()
        await peer.stream.aclose()
        await flood.ended.wait()
        assert isinstance(flood.error, TransportClosed)
        assert not flood.error.timed_out
        assert flood.last["code"] == 1006


async def test_sends_after_the_end_do_not_block_the_loop() -> None:
    async def stubborn(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        while True:
            try:
                await send({"type": "websocket.send", "text": "x"})
            except TransportClosed:
                gone.set()

    gone = trio.Event()
    async with serving(stubborn) as server, bystander(server) as talk:
        peer = await server.upgraded()
        await peer.stream.aclose()
        await gone.wait()
        await talk()


async def test_cancelling_in_mid_send_aborts_the_connection() -> None:
    flood = Flood()
    async with serving(flood) as server, bystander(server):
        peer = await server.upgraded()
        await trio.testing.wait_all_tasks_blocked(0.1)
        flood.scope.cancel()
        await flood.ended.wait()
        assert flood.scope.cancelled_caught
        assert flood.error is None
        assert flood.last["code"] == 1006
        await peer.to_the_end()


async def test_cancelling_before_a_send_keeps_the_connection() -> None:
    async def cancelled(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        with trio.CancelScope() as scope:
            scope.cancel()
            await send({"type": "websocket.send", "text": "never"})
        await send({"type": "websocket.send", "text": "then"})
        await receive()

    async with serving(cancelled) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (TEXT, b"then")
        await peer.stream.aclose()


async def test_cancelling_at_the_send_lock_keeps_the_connection() -> None:
    async def cancelled(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        for _ in range(20):  # the order of tasks is random
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, {"type": "websocket.send", "text": "never"})
                await trio.lowlevel.checkpoint()  # it holds the lock, and no byte is out
                nursery.cancel_scope.cancel()
        await send({"type": "websocket.send", "text": "then"})
        await receive()

    async with serving(cancelled) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (TEXT, b"then")
        await peer.stream.aclose()


async def test_a_batch_is_one_write_of_separate_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [b'{"n":1}', '{"text":"é"}'.encode(), b'"' + b"x" * 300 + b'"', b"y" * 70_000]
    frames += [BinaryFrame(b"\xff\x00"), b"after"]
    writes: list[int] = []
    write = SocketWriter.write

    async def counted(self: SocketWriter, data: bytes) -> None:
        writes.append(len(data))
        await write(self, data)

    monkeypatch.setattr(SocketWriter, "write", counted)

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        writes.clear()
        await send({"type": "netra_trio.send", "frames": frames})
        await send({"type": "netra_trio.send", "frames": []})
        await receive()

    async with serving(sends) as server:
        peer = await server.upgraded()
        kinds = [BINARY if isinstance(item, BinaryFrame) else TEXT for item in frames]
        received = [await peer.frame() for _ in frames]
        assert received == list(zip(kinds, frames, strict=True))
        assert len(writes) == 1
        await peer.stream.aclose()


# --- messages


async def test_frames_behind_the_handshake_wait_for_the_answer() -> None:
    go = trio.Event()
    recorder = Recorder()

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await go.wait()
        await recorder(scope, receive, send)

    async with serving(slow) as server:
        peer = await server.peer()
        texts = [f"{n}".encode() * 10 for n in range(100)]
        early = b"".join(frame(TEXT, text) for text in texts)
        await peer.stream.send_all(upgrade() + early[:-7])
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        await peer.head()
        await peer.stream.send_all(early[-7:])
        for text in texts:
            assert (await recorder.got.receive())["text"] == text.decode()
        await peer.stream.aclose()


AT_LIMIT = b"x" * LIMIT
AT_LIMIT_WIDE = ("é" * (LIMIT // 2)).encode()
AT_LIMIT_4 = ("\N{GRINNING FACE}" * (LIMIT // 4)).encode()


@pytest.mark.parametrize("payload", [AT_LIMIT, AT_LIMIT_WIDE, AT_LIMIT_4])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("piece", [10_000, 333, 1])
async def test_a_message_at_the_limit_arrives_and_one_byte_more_does_not(
    payload: bytes, opcode: int, piece: int
) -> None:
    def fragments(data: bytes) -> bytes:
        cuts = range(0, len(data), piece)
        return b"".join(
            frame(
                opcode if start == 0 else 0,
                data[start : start + piece],
                final=start + piece >= len(data),
            )
            for start in cuts
        )

    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(fragments(payload))
        message = await next_of(recorder, "websocket.receive")
        assert message["text" if opcode == TEXT else "bytes"] == (
            payload.decode() if opcode == TEXT else payload
        )
        await peer.stream.send_all(fragments(payload + b"!") + fragments(b"dropped"))
        assert await next_of(recorder, "netra_trio.too_big")
        assert await peer.frame() == (CLOSE, (1009).to_bytes(2, "big"))
        await peer.stream.send_all(fragments(payload) + close_frame(1009))
        assert await recorder.got.receive() == {"type": "websocket.disconnect", "code": 1009}


async def test_a_huge_message_is_rejected_before_its_end() -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        peer = await server.upgraded()
        head = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + MASK
        await peer.stream.send_all(head)
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                while True:
                    await peer.stream.send_all(bytes(100_000))

            nursery.start_soon(pour)
            assert await peer.frame() == (CLOSE, (1009).to_bytes(2, "big"))
            nursery.cancel_scope.cancel()
        assert names([await recorder.got.receive()]) == ["netra_trio.too_big"]
        await peer.stream.aclose()
        assert (await recorder.got.receive())["code"] == 1006


async def test_unread_messages_do_not_block_the_close() -> None:
    async def leaves(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()

    go = trio.Event()
    async with serving(leaves) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"x") * 1000 + frame(PING) * 10)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        assert await peer.frame() == (CLOSE, (1011).to_bytes(2, "big"))
        assert await peer.to_the_end() == b""


async def test_pings_and_pongs_show_that_the_peer_is_alive() -> None:
    recorder = Recorder()

    async def pings(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await send(message)
            if message["type"] == "websocket.accept":
                await send({"type": "netra_trio.ping"})

        await recorder(scope, receive, sending)

    async with serving(pings) as server:
        peer = await server.upgraded()
        assert await peer.frame() == (PING, b"")
        await peer.stream.send_all(frame(PONG))
        assert await recorder.got.receive() == {"type": "netra_trio.alive"}
        await peer.stream.send_all(frame(PING, b"still there?"))
        assert await peer.frame() == (PONG, b"still there?")
        assert await recorder.got.receive() == {"type": "netra_trio.alive"}
        await peer.stream.aclose()


# --- closing


@pytest.mark.parametrize("code", [1000, 1001, 1012, 3000, 4999, None])
async def test_the_application_gets_the_peers_close_code(code: int | None) -> None:
    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"last") + close_frame(code))
        assert await peer.frame() == (CLOSE, b"" if code is None else code.to_bytes(2, "big"))
        assert await peer.to_the_end() == b""
        assert (await recorder.got.receive())["text"] == "last"
        end = await recorder.got.receive()
        assert end == {"type": "websocket.disconnect", "code": 1005 if code is None else code}


async def test_a_lost_connection_is_1006() -> None:
    recorder = Recorder()
    async with serving(recorder) as server:
        peer = await server.upgraded()
        await peer.stream.aclose()
        assert (await recorder.got.receive())["code"] == 1006


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(3), 1002),
        (frame(0, b"x"), 1002),
        (frame(PING, b"x", final=False), 1002),
        (b"\xc1\x81" + MASK + b"x", 1002),
        (frame(CLOSE, b"x"), 1002),
        (close_frame(1005), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
async def test_a_protocol_error_is_closed_with_its_code(data: bytes, code: int) -> None:
    recorder = Recorder()
    async with serving(recorder) as server, bystander(server):
        peer = await server.upgraded()
        await peer.stream.send_all(data + b"\xff" * 1000)
        assert await peer.frame() == (CLOSE, code.to_bytes(2, "big"))
        assert await peer.to_the_end() == b""
        assert await recorder.got.receive() == {"type": "websocket.disconnect", "code": code}


async def test_the_application_closes_and_gets_the_reply() -> None:
    told: list[Any] = []

    async def closes(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 4409, "reason": "taken over"})
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except TransportClosed as error:
            told.append(error.code)
        while (message := await receive())["type"] != "websocket.disconnect":
            told.append(message["text"])
        told.append(message["code"])
        try:
            await send({"type": "websocket.close"})
        except TransportClosed as error:
            told.append(error.code)
        done.set()

    done = trio.Event()
    async with serving(closes) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"go"))
        assert await peer.frame() == (CLOSE, (4409).to_bytes(2, "big") + b"taken over")
        await peer.stream.send_all(frame(TEXT, b"crossing") + close_frame(4409))
        assert await peer.to_the_end() == b""
        await done.wait()
    assert told == [None, "crossing", 4409, 4409]


async def test_a_close_arrives_with_unread_input() -> None:
    async def closes(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await go.wait()
        await send({"type": "websocket.close", "code": 4429})

    go = trio.Event()
    async with serving(closes) as server:
        peer = await server.upgraded()
        await peer.stream.send_all(frame(TEXT, b"x" * 500) * 300)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        assert await peer.frame() == (CLOSE, (4429).to_bytes(2, "big"))
        assert await peer.to_the_end() == b""


async def test_the_application_is_told_of_the_hosts_shutdown() -> None:
    async def drains(scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await scope["extensions"]["netra_trio"]["terminated"]()
        await send({"type": "websocket.close", "code": 1012})
        await receive()

    async with serving(drains) as server:
        idle = await server.peer()
        peer = await server.upgraded()
        server.stop.set()
        assert await peer.frame() == (CLOSE, (1012).to_bytes(2, "big"))
        await peer.stream.send_all(close_frame(1012))
        assert await peer.to_the_end() == b""
        assert await idle.to_the_end() == b""
        assert server.config.graceful_timeout >= 1.5


async def test_the_graceful_timeout_covers_the_drain() -> None:
    async with serving(echo, graceful_timeout=0.1) as server, bystander(server):
        assert server.config.graceful_timeout == 1.5
