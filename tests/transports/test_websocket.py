"""The WebSocket over a byte stream, in bytes of RFC 6455: errors, limits, closing."""

import tracemalloc
from collections import deque
from collections.abc import Iterable, Iterator

import pytest
import trio
from attrs import field, frozen
from support.wire import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    MASK,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    raw_frame,
    server_frames,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.transports.byte_stream import LINGER
from netra_trio.transports.websocket import WebSocketTransport

LIMIT = 300  # bytes of a message
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
PROTOCOL_ERROR, NO_STATUS, ABNORMAL, INVALID_DATA = 1002, 1005, 1006, 1007
TOO_BIG = -1  # in an outcome: `MessageTooBig` was raised; the connection closes


class Tape:
    """A byte stream that plays the peer's reads, then ends, and keeps the writes."""

    def __init__(self, pieces: Iterable[bytes], *, stays: bool = False) -> None:
        self.pieces = deque(piece for piece in pieces if piece)
        self.out = b""
        self.ended = False
        self.is_cut = False
        self.gate: trio.Event | None = None  # writes wait for it
        self._stays = stays

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.is_cut:
            raise TransportClosed
        if self.pieces:
            return self.pieces.popleft()
        if self._stays:
            await trio.sleep_forever()
        return b""

    async def write(self, data: bytes) -> bool:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_cut:
            raise TransportClosed
        self.out += data
        return False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended = True

    def abort(self) -> None:
        self.is_cut = True


@frozen
class Outcome:
    """The received messages, the code of the end, and the written frames."""

    messages: list[str | bytes]
    code: int | None
    out: list[tuple[int, bytes]] = field(factory=list)


def transport_on(tape: Tape, before: bytes = b"") -> WebSocketTransport:
    return WebSocketTransport(tape, response=ANSWER, max_bytes=LIMIT, before=before)


async def play(*pieces: bytes, before: bytes = b"") -> Outcome:
    """Receive these reads to the end."""
    tape = Tape(pieces)
    messages, code, too_big = await drain(transport_on(tape, before))
    return Outcome(messages, TOO_BIG if too_big else code, list(server_frames(tape.out)))


async def drain(transport: WebSocketTransport) -> tuple[list[str | bytes], int | None, int]:
    """Return the messages up to the end, its code, and how often one was too big."""
    messages: list[str | bytes] = []
    too_big = 0
    while True:
        try:
            message = await transport.receive()
        except MessageTooBig:
            too_big += 1
        except TransportClosed as closed:
            return messages, closed.code, too_big
        else:
            if message is not None:
                messages.append(message)


def splits(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes as two reads, split at every place."""
    for at in range(1, len(raw) + 1):
        yield raw[:at], raw[at:]


def closes(code: int) -> list[tuple[int, bytes]]:
    """Return the frames written for a close of our own."""
    return [(CLOSE, code.to_bytes(2, "big"))]


# --- protocol errors

RESERVED_BITS = {
    f"bits {bits:03b}": raw_frame(FIN | bits << 4 | TEXT, b"x") for bits in range(1, 8)
}
RESERVED_OPCODES = {
    f"opcode {opcode}": raw_frame(FIN | opcode, b"x")
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
}
UNMASKED = {
    f"unmasked {opcode}": raw_frame(FIN | opcode, b"", masked=False)
    for opcode in (TEXT, BINARY, CLOSE, PING, PONG)
}
BAD_CONTROL = {
    **{f"half a {opcode}": raw_frame(opcode, b"\x03\xe8") for opcode in (CLOSE, PING, PONG)},
    **{f"126 bytes of {opcode}": raw_frame(FIN | opcode, b"x" * 126) for opcode in (PING, PONG)},
    "126 bytes of close": close_frame(1000, b"x" * 124),
    "close with one byte": client_frame(CLOSE, b"\x03"),
}
BAD_SEQUENCE = {
    "continuation of nothing": client_frame(CONT, b"x"),
    "half a continuation of nothing": client_frame(CONT, b"x", final=False),
    "continuation behind a whole": client_frame(TEXT, b"") + client_frame(CONT, b"x"),
    **{
        f"{second} inside {first}": client_frame(first, b"x", final=False)
        + client_frame(second, b"y")
        for first in (TEXT, BINARY)
        for second in (TEXT, BINARY)
    },
}
BAD_CODES = {
    f"close {code}": close_frame(code)
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
}
ILLEGAL = {
    **RESERVED_BITS,
    **RESERVED_OPCODES,
    **UNMASKED,
    **BAD_CONTROL,
    **BAD_SEQUENCE,
    **BAD_CODES,
}


@pytest.mark.parametrize("name", ILLEGAL)
async def test_a_protocol_error_closes_with_1002_however_it_is_split(name: str) -> None:
    raw = client_frame(TEXT, b"before") + ILLEGAL[name]
    told: list[str | bytes]
    told = ["before", ""] if name == "continuation behind a whole" else ["before"]
    for pieces in splits(raw):
        assert await play(*pieces) == Outcome(told, PROTOCOL_ERROR, closes(PROTOCOL_ERROR))


@pytest.mark.parametrize("name", ["bits 100", "opcode 3", "unmasked 1", "close 999"])
async def test_a_protocol_error_closes_in_single_bytes_and_with_more_behind(name: str) -> None:
    raw = ILLEGAL[name]
    behind = client_frame(TEXT, b"behind") + client_frame(PING, b"p") + b"\xff" * 50
    expected = Outcome([], PROTOCOL_ERROR, closes(PROTOCOL_ERROR))
    assert await play(*[bytes([byte]) for byte in raw + behind]) == expected
    assert await play(raw + behind) == expected
    assert await play(before=raw + behind) == expected


BAD_TEXT = {
    "a continuation byte": b"\x80",
    "overlong": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond the last": b"\xf4\x90\x80\x80",
    "no byte of it": b"\xff",
    "cut short": b"ok \xe2\x82",
    "cut short of four": b"\xf0\x9f\x98",
    "in the middle": b"good \xc3\x28 good",
}


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT)
async def test_invalid_utf_8_closes_with_1007_however_it_is_split(text: bytes) -> None:
    expected = Outcome([], INVALID_DATA, closes(INVALID_DATA))
    for pieces in splits(client_frame(TEXT, text)):
        assert await play(*pieces) == expected
    for at in range(len(text) + 1):
        first = client_frame(TEXT, text[:at], final=False)
        last = client_frame(CONT, text[at:])
        assert await play(first + client_frame(PONG) + last) == expected
        for pieces in splits(first + last):
            assert await play(*pieces) == expected
    assert (await play(client_frame(BINARY, text))).messages == [text]


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT)
async def test_an_invalid_utf_8_reason_closes_with_1007(text: bytes) -> None:
    for pieces in splits(close_frame(1000, text)):
        assert await play(*pieces) == Outcome([], INVALID_DATA, closes(INVALID_DATA))


async def test_nothing_is_received_behind_invalid_utf_8(autojump_clock: MockClock) -> None:
    tape = Tape([client_frame(TEXT, b"\xff") + client_frame(TEXT, b"behind")], stays=True)
    transport = transport_on(tape)
    with trio.move_on_after(LINGER / 2) as scope:  # while it reads on
        await transport.receive()
    assert scope.cancelled_caught
    tape.pieces.append(client_frame(TEXT, b"later"))
    with trio.fail_after(5), pytest.raises(TransportClosed):
        await transport.receive()
    assert list(server_frames(tape.out)) == closes(INVALID_DATA)


async def test_a_character_may_be_split_over_frames_and_reads() -> None:
    text = "héllo 日本語 😀"
    data = text.encode()
    for at in range(len(data) + 1):
        first = client_frame(TEXT, data[:at], final=False)
        last = client_frame(CONT, data[at:])
        assert (await play(first, last)).messages == [text]
        assert (await play(*[bytes([byte]) for byte in first + last])).messages == [text]


# --- limits


def in_pieces(data: bytes, size: int, between: bytes = b"") -> bytes:
    """Return a message in fragments of this size."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    frames = [client_frame(TEXT, parts[0], final=False)]
    frames += [client_frame(CONT, part, final=False) for part in parts[1:]]
    return between.join([*frames, client_frame(CONT, b"")])


@pytest.mark.parametrize("size", [1, 7, 100, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("ping", [b"", client_frame(PING, b"p" * 125)], ids=["", "with pings"])
async def test_a_fragmented_message_is_bounded(size: int, ping: bytes) -> None:
    whole = await play(in_pieces(b"x" * LIMIT, size, ping))
    assert whole.messages == ["x" * LIMIT]
    assert whole.code == ABNORMAL
    assert set(whole.out) == ({(PONG, b"p" * 125)} if ping else set())
    assert (await play(in_pieces(b"x" * (LIMIT + 1), size, ping))).code == TOO_BIG


async def test_a_frame_is_bounded_however_it_is_split() -> None:
    for opcode, data in ((TEXT, "x" * LIMIT), (BINARY, b"x" * LIMIT)):
        for pieces in splits(client_frame(opcode, b"x" * LIMIT)):
            assert (await play(*pieces)).messages == [data]
    for pieces in splits(client_frame(TEXT, b"x" * (LIMIT + 1))):
        assert await play(*pieces) == Outcome([], TOO_BIG)


@pytest.mark.parametrize("size", [LIMIT + 126, 2**31, 2**62, 2**63, 2**64 - 1])
async def test_an_announced_size_beyond_the_limit_is_rejected_at_once(size: int) -> None:
    head = bytes([FIN | TEXT, 0xFF]) + size.to_bytes(8, "big") + MASK
    tape = Tape([head], stays=True)
    with trio.fail_after(5), pytest.raises(MessageTooBig):
        await transport_on(tape).receive()


@pytest.mark.parametrize("beyond", [1, 125, 126, 10_000])
async def test_nothing_is_received_behind_a_message_that_is_too_big(beyond: int) -> None:
    raw = client_frame(TEXT, b"x" * LIMIT, final=False)
    raw += client_frame(CONT, b"x" * beyond, final=False)
    tape = Tape([raw, client_frame(CONT, b"tail"), client_frame(TEXT, b"behind")])
    messages, _, too_big = await drain(transport_on(tape))
    assert too_big >= 1
    assert messages == []


async def test_endless_empty_fragments_take_no_memory(autojump_clock: MockClock) -> None:
    tape = Tape([client_frame(TEXT, b"a", final=False)], stays=True)
    transport = transport_on(tape)
    many = client_frame(CONT, b"", final=False) * 5000
    await transport.receive()
    tracemalloc.start()
    try:
        for _ in range(4):
            tape.pieces.append(many)
            with trio.move_on_after(100):
                while True:
                    assert await transport.receive() is None
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    tape.pieces.append(client_frame(CONT, b"b"))
    while (message := await transport.receive()) is None:
        pass
    assert message == "ab"


# --- pings and pongs


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff\x00", b"y" * 125])
async def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    for pieces in splits(client_frame(PING, payload)):
        assert await play(*pieces) == Outcome([], ABNORMAL, [(PONG, payload)])


async def test_a_pong_is_not_answered() -> None:
    raw = client_frame(PONG, b"unasked") + client_frame(PONG) + client_frame(TEXT, b"x")
    assert await play(raw) == Outcome(["x"], ABNORMAL)


async def test_pings_are_answered_inside_a_message() -> None:
    first, last = client_frame(TEXT, b"a", final=False), client_frame(CONT, b"b")
    raw = first + client_frame(PING, b"1") + client_frame(PING, b"2") + last
    whole = Outcome(["ab"], ABNORMAL, [(PONG, b"1"), (PONG, b"2")])
    for pieces in splits(raw):
        assert await play(*pieces) == whole


async def test_pings_during_a_blocked_write_are_answered_once(autojump_clock: MockClock) -> None:
    tape = Tape([], stays=True)
    tape.gate = trio.Event()
    transport = transport_on(tape)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"slow"])
        await wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            for n in range(20):
                start = n * 100
                tape.pieces.append(
                    b"".join(client_frame(PING, b"%d" % i) for i in range(start, start + 100))
                )
            with trio.move_on_after(100):
                while True:
                    assert await transport.receive() is None
            assert tracemalloc.get_traced_memory()[0] < 50_000
        finally:
            tracemalloc.stop()
        tape.gate.set()
    assert list(server_frames(tape.out)) == [(TEXT, b"slow"), (PONG, b"1999")]


async def test_frames_behind_a_ping_are_received_though_its_pong_fails() -> None:
    raw = client_frame(PING) + client_frame(TEXT, b"last words") + close_frame(1001)
    tape = Tape([raw])
    tape.is_cut = True
    messages, code, _ = await drain(transport_on(tape, before=raw))
    assert messages == ["last words"]
    assert code == 1001


# --- closing

GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]


@pytest.mark.parametrize("code", GOOD_CODES)
@pytest.mark.parametrize("reason", [b"", "bye é".encode(), b"x" * 123])
async def test_the_peers_close_is_echoed(code: int, reason: bytes) -> None:
    payload = code.to_bytes(2, "big") + reason
    for pieces in splits(client_frame(TEXT, b"x") + client_frame(CLOSE, payload)):
        assert await play(*pieces) == Outcome(["x"], code, [(CLOSE, payload)])


@pytest.mark.parametrize("payload", [b"", b"part"])
async def test_a_close_inside_a_fragmented_message_is_echoed(payload: bytes) -> None:
    raw = client_frame(TEXT, payload, final=False) + close_frame(1000, b"bye")
    for pieces in splits(raw):
        assert await play(*pieces) == Outcome([], 1000, [(CLOSE, b"\x03\xe8bye")])


async def test_a_ping_before_a_message_is_answered_before_it_is_received() -> None:
    first, last = client_frame(TEXT, b"a", final=False), client_frame(CONT, b"b")
    tape = Tape([first + client_frame(PING, b"1") + last], stays=True)
    assert await transport_on(tape).receive() == "ab"
    assert list(server_frames(tape.out)) == [(PONG, b"1")]


async def test_cancelling_while_a_pong_waits_keeps_the_message(autojump_clock: MockClock) -> None:
    tape = Tape([client_frame(PING, b"1") + client_frame(TEXT, b"kept")], stays=True)
    tape.gate = trio.Event()
    transport = transport_on(tape)
    with trio.move_on_after(1) as scope:
        await transport.receive()
    assert scope.cancelled_caught
    tape.gate.set()
    assert await transport.receive() == "kept"


async def test_pings_before_a_close_are_answered_and_nothing_follows_the_close() -> None:
    raw = client_frame(PING, b"1") + client_frame(PING, b"2") + close_frame(1000)
    raw += client_frame(PING, b"3") + client_frame(TEXT, b"behind")
    tape = Tape([raw], stays=True)
    transport = transport_on(tape)
    with pytest.raises(TransportClosed):
        await transport.receive()
    with pytest.raises(TransportClosed):
        await transport.send([b"late"], ping=True)
    expected = [(PONG, b"1"), (PONG, b"2"), (CLOSE, b"\x03\xe8")]
    assert list(server_frames(tape.out)) == expected


async def test_a_close_behind_a_blocked_write_is_the_last_frame(autojump_clock: MockClock) -> None:
    tape = Tape([client_frame(PING, b"1") + close_frame(1001)], stays=True)
    tape.gate = trio.Event()
    transport = transport_on(tape)
    late: list[TransportClosed] = []

    async def send_late() -> None:
        with pytest.raises(TransportClosed) as caught:
            await transport.send([b"late"])
        late.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"slow"])
        await wait_all_tasks_blocked()
        nursery.start_soon(drain, transport)
        await wait_all_tasks_blocked()
        nursery.start_soon(send_late)
        await wait_all_tasks_blocked()
        tape.gate.set()
    sent = list(server_frames(tape.out))
    assert sent[0] == (TEXT, b"slow")
    assert sent[-1] == (CLOSE, b"\x03\xe9")
    assert len(late) == 1


async def test_a_close_without_a_code_is_echoed_without_one() -> None:
    assert await play(client_frame(CLOSE)) == Outcome([], NO_STATUS, [(CLOSE, b"")])


async def test_nothing_is_received_behind_a_close() -> None:
    raw = close_frame(1000) + client_frame(TEXT, b"x") + client_frame(PING) + close_frame(1001)
    assert await play(raw) == Outcome([], 1000, closes(1000))


async def test_our_close_is_sent_once_and_its_reply_is_not_echoed() -> None:
    tape = Tape([client_frame(TEXT, b"behind"), close_frame(4400)])
    transport = transport_on(tape)
    await transport.close(4400, "too many faults")
    await transport.close(1000, "")
    assert await transport.receive() == "behind"
    with pytest.raises(TransportClosed) as caught:
        await transport.receive()
    assert caught.value.code == 4400
    assert list(server_frames(tape.out)) == [(CLOSE, b"\x11\x30too many faults")]


async def test_a_protocol_error_after_our_close_sends_no_second_one() -> None:
    tape = Tape([ILLEGAL["opcode 3"]])
    transport = transport_on(tape)
    await transport.close(1000, "")
    with pytest.raises(TransportClosed):
        await transport.receive()
    assert list(server_frames(tape.out)) == closes(1000)


async def test_the_peers_code_is_known_when_the_echo_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    tape = Tape([close_frame(1001)], stays=True)
    tape.gate = trio.Event()
    transport = transport_on(tape)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"slow"])
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await transport.receive()
        assert scope.cancelled_caught
        tape.gate.set()
    with trio.fail_after(5), pytest.raises(TransportClosed) as caught:
        await transport.receive()
    assert caught.value.code == 1001


async def test_our_close_after_a_protocol_error_arrives_with_unread_input(
    autojump_clock: MockClock,
) -> None:
    tape = Tape([ILLEGAL["opcode 3"], *[b"x" * 100] * 50], stays=True)
    transport = transport_on(tape)
    begun = trio.current_time()
    with pytest.raises(TransportClosed) as caught:
        await transport.receive()
    assert caught.value.code == PROTOCOL_ERROR
    assert tape.ended
    assert not tape.pieces
    assert trio.current_time() - begun == pytest.approx(LINGER)


@pytest.mark.parametrize("count", [0, 1, 5, 8])
async def test_the_end_of_the_stream_without_a_close_is_1006(count: int) -> None:
    assert await play(client_frame(TEXT, b"xyz")[:count]) == Outcome([], ABNORMAL)


# --- reads


async def test_bytes_behind_the_handshake_are_read_first() -> None:
    early = client_frame(TEXT, b"1") + client_frame(TEXT, b"2")[:3]
    later = client_frame(TEXT, b"2")[3:] + client_frame(TEXT, b"3")
    assert await play(later, before=early) == Outcome(["1", "2", "3"], ABNORMAL)


async def test_the_response_to_the_handshake_is_sent_first() -> None:
    tape = Tape([])
    transport = transport_on(tape, before=client_frame(PING, b"early"))
    await transport.accept()
    assert await transport.receive() is None
    assert tape.out == ANSWER + b"\x8a\x05early"


async def test_many_frames_in_one_read_and_single_bytes() -> None:
    texts = [f"{n} {'é' * (n % 70)}" for n in range(200)]
    raw = b"".join(client_frame(TEXT, text.encode()) for text in texts) + close_frame(1000)
    expected = Outcome(list(texts), 1000, closes(1000))
    assert await play(raw) == expected
    assert await play(*[bytes([byte]) for byte in raw]) == expected


async def test_each_header_length_is_sent() -> None:
    tape = Tape([])
    transport = transport_on(tape)
    payloads = [b"x" * size for size in (0, 125, 126, 65_535, 65_536)]
    await transport.send(payloads)
    assert list(server_frames(tape.out)) == [(TEXT, payload) for payload in payloads]
