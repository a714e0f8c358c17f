"""The load generator's client: frames, counters, acknowledgements, answers."""

import asyncio
import os

import pytest
from support.deflating import RSV1, deflate

from bench.connection import ACK_EVENTS, Connection, Counters, LoadError, ResumePoint, Target
from bench.dialects import DIALECTS
from bench.frames import CLOSE, INCOMPLETE, PING, bounds, client_frame, masked, server_frame
from bench.load import Job, work

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_all_length_encodings(size: int) -> None:
    payload = bytes(size)
    data = b"before" + server_frame(payload)
    start, end = bounds(data, len(b"before"))
    assert (data[start:end], end) == (payload, len(data))
    assert bounds(data[:-1], len(b"before"))[1] == INCOMPLETE
    theirs = client_frame(payload)
    assert theirs[1] & 0x80
    assert masked(theirs[-size:] if size else b"", theirs[-size - 4 :][:4]) == payload


class Wire:
    """A transport that keeps the written frames."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        size = data[1] & 0x7F if data[1] & 0x80 else 0
        self.written.append(masked(data[6 : 6 + size], data[2:6]) if size else data)

    def close(self) -> None:
        self.is_closed = True

    abort = close


def connected(dialect: str = "netra") -> tuple[Connection, Wire, Counters]:
    counters, wire = Counters(), Wire()
    connection = Connection(DIALECTS[dialect], b"GET / HTTP/1.1\r\n\r\n", counters)
    connection.connection_made(wire)  # type: ignore[arg-type]  # the part of one that it uses
    connection.data_received(UPGRADED + server_frame(b'{"type":"connection_established"}'))
    wire.written.clear()
    return connection, wire, counters


def delta(seq: int) -> bytes:
    return server_frame(b'{"type":"partial_result","payload":{"content":"a"},"seq":%d}' % seq)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_events_are_counted_in_pieces_of_any_size(size: int) -> None:
    async def count() -> tuple[int, int, list[bytes], int]:
        connection, wire, counters = connected()
        seen: list[bytes] = []
        deltas: list[bytes] = []
        connection.on_event = lambda _connection, kind, _frame: seen.append(kind)
        connection.on_delta = lambda data, start, end: deltas.append(data[start:end])
        end = server_frame(b'{"type":"agent_completed","payload":{},"seq":41,"seq_from":40}')
        data = b"".join(delta(seq) for seq in range(1, 40)) + end
        for start in range(0, len(data), size):
            connection.data_received(data[start : start + size])
        connection.acknowledge()
        assert all(delta(seq).endswith(frame) for seq, frame in enumerate(deltas, 1))
        return counters.events, counters.numbers, [*seen, wire.written[-1]], len(deltas)

    last = b'{"type":"ack","payload":{"seq":41}}'
    assert asyncio.run(count()) == (40, 41, [b"agent_completed", last], 39)


def test_compressed_events_are_counted() -> None:
    async def count() -> tuple[int, int, list[bytes], int]:
        connection, _, counters = connected()
        seen: list[bytes] = []
        connection.on_event = lambda _connection, _kind, frame: seen.append(frame)
        event = b'{"type":"agent_completed","payload":{"result":"%s"},"seq":41}' % (b"x" * 2000)
        compressed = bytearray(server_frame(deflate(event)))
        compressed[0] |= RSV1
        connection.data_received(delta(1) + compressed)
        return counters.events, connection.seen, seen, len(event)

    events, number, (frame,), size = asyncio.run(count())
    assert (events, number, len(frame)) == (2, 41, size)


def test_a_server_that_does_not_compress_is_a_fault() -> None:
    async def fault() -> str:
        counters = Counters()
        connection = Connection(DIALECTS["netra-deflate"], b"GET / HTTP/1.1\r\n\r\n", counters)
        connection.connection_made(Wire())  # type: ignore[arg-type]  # the part that it uses
        connection.data_received(UPGRADED)
        with pytest.raises(LoadError):
            await connection.opened
        return await counters.fault

    assert asyncio.run(fault()) == "the server does not compress"


def test_events_are_acknowledged_every_32_numbers_if_the_dialect_acknowledges() -> None:
    async def acknowledged(dialect: str) -> list[bytes]:
        connection, wire, _ = connected(dialect)
        for seq in range(1, 2 * ACK_EVENTS + 2):
            connection.data_received(delta(seq))
        return wire.written

    acks = [b'{"type":"ack","payload":{"seq":%d}}' % seq for seq in (32, 64)]
    assert asyncio.run(acknowledged("netra")) == acks
    assert asyncio.run(acknowledged("plain")) == []


def test_a_resumed_connection_continues_to_count() -> None:
    async def resume() -> None:
        target = Target("127.0.0.1", 8000, DIALECTS["netra"])
        assert b"GET /ws?token=t&session_id=s-1&last_seq=7 HTTP/1.1" in target.request(
            "t", ResumePoint("s-1", 7)
        )
        counters, wire = Counters(), Wire()
        connection = Connection(target.dialect, b"GET", counters, seen=7, acknowledges=False)
        connection.connection_made(wire)  # type: ignore[arg-type]  # the part of one that it uses
        established = b'{"type":"connection_established","payload":{"session_id":"s-1"}}'
        connection.data_received(UPGRADED + server_frame(established) + delta(8) + delta(9))
        assert connection.hello == {"session_id": "s-1"}
        assert (counters.events, counters.numbers, connection.seen) == (2, 2, 9)
        wire.written.clear()
        connection.acknowledge()
        assert wire.written == []
        connection.drop()
        assert wire.is_closed
        connection.connection_lost(None)
        assert not counters.fault.done()

    asyncio.run(resume())


def test_control_frames_are_answered_and_faults_are_noted() -> None:
    async def answers() -> None:
        connection, wire, counters = connected()
        connection.data_received(server_frame(b"hi", PING))
        connection.data_received(server_frame(b'{"type":"heartbeat","payload":{}}'))
        assert wire.written == [b"hi", b'{"type":"pong","payload":{}}']
        assert counters.events == 0
        connection.data_received(server_frame(b'{"type":"error","payload":{}}'))
        assert counters.fault.result() == '{"type":"error","payload":{}}'
        connection.data_received(server_frame((4408).to_bytes(2, "big"), CLOSE))
        assert wire.is_closed

    asyncio.run(answers())


def test_a_server_that_does_not_listen_is_reported() -> None:
    job = Job(1, os.getpid(), "s" * 32, "plain", "idle", {"connections": 2, "warm_up": 0})
    with pytest.raises(LoadError, match="does not answer"):
        asyncio.run(work(job))
