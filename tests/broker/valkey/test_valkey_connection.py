"""A connection over a stream in memory: replies in any pieces, deadlines and bounds.

No test depends on the speed of the machine: time stands still, or jumps to the next deadline.
"""

from collections.abc import Sequence
from typing import Any

import hiredis
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MemoryReceiveStream, MockClock, memory_stream_pair

from netra_trio.broker.base import ANSWER_SECONDS
from netra_trio.broker.valkey.connection import (
    OUTSTANDING_BYTES,
    RESERVE_BYTES,
    WATCH_SECONDS,
    Connection,
    Reply,
    new_reader,
    packed,
)
from netra_trio.errors import BrokerUnavailable

REPLIES: Sequence[tuple[bytes, Any]] = (
    (b"+OK\r\n", b"OK"),
    (b":-7\r\n", -7),
    (b"$5\r\na\r\n\x00b\r\n", b"a\r\n\x00b"),
    (b"$0\r\n\r\n", b""),
    (b"_\r\n", None),
    (b"*2\r\n:1\r\n*2\r\n$1\r\nx\r\n_\r\n", [1, [b"x", None]]),
    (b"%1\r\n$1\r\nk\r\n*0\r\n", {b"k": []}),
)
PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
PUSHED = [b"message", b"c", b"hi"]
PING = [("PING",)]


def wire(order: Sequence[int], pushes: Sequence[bool]) -> bytes:
    """Return replies, some of them after a push message."""
    parts = [
        (PUSH if push else b"") + REPLIES[at][0] for at, push in zip(order, pushes, strict=True)
    ]
    return b"".join(parts)


class Pair:
    """A connection, and the stream of its server."""

    def __init__(self, nursery: trio.Nursery) -> None:
        own, self.server = memory_stream_pair()
        self.pushed: list[Any] = []
        self.codes: list[str] = []
        self.connection = Connection(own, new_reader())
        self.connection.on_push = self.pushed.append
        self.connection.on_error = self.codes.append
        nursery.start_soon(self.connection.run)

    async def answer(self, data: bytes) -> None:
        await self.server.send_all(data)
        await trio.testing.wait_all_tasks_blocked()


@given(
    st.lists(st.tuples(st.integers(0, len(REPLIES) - 1), st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(1, 400), max_size=12),
    st.lists(st.integers(1, 3), max_size=12),
)
def test_replies_arrive_in_any_pieces(
    drawn: list[tuple[int, bool]], cuts: list[int], counts: list[int]
) -> None:
    order, pushes = zip(*drawn, strict=True)
    data = wire(order, pushes)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            waiting: list[Reply] = []
            left = len(order)
            for count in [*counts, len(order)]:
                if left:
                    waiting.append(pair.connection.submit(PING * min(count, left)))
                    left -= min(count, left)
            ends = sorted({cut % len(data) for cut in cuts} | {len(data)})
            for start, end in zip([0, *ends], ends, strict=False):
                await pair.answer(data[start:end])
            values = [value for reply in waiting for value in await reply]
            assert values == [REPLIES[at][1] for at in order]
            assert pair.pushed == [PUSHED] * sum(pushes)
            assert pair.connection.outstanding_bytes == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock())


def test_a_connection_is_cut_at_each_byte() -> None:
    order = list(range(len(REPLIES)))
    data = wire(order, [True, *[False] * (len(order) - 1)])
    ends = [len(wire(order[: at + 1], [True, *[False] * at])) for at in order]
    for cut in range(len(data)):
        trio.run(cut_at, data[:cut], [end <= cut for end in ends], clock=MockClock())


async def cut_at(data: bytes, complete: list[bool]) -> None:
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery)
        waiting = [pair.connection.submit(PING) for _ in REPLIES]
        await pair.answer(data)
        await pair.server.aclose()
        for (_, value), reply, is_complete in zip(REPLIES, waiting, complete, strict=True):
            if is_complete:
                assert await reply == [value]
            else:
                with pytest.raises(BrokerUnavailable, match="the server has closed"):
                    await reply
        assert pair.connection.fault == "the server has closed the connection"
        with pytest.raises(BrokerUnavailable, match="the server has closed"):
            await pair.connection.submit(PING)
        with pytest.raises(BrokerUnavailable, match="the server has closed"):
            await pair.connection.subscribe(("SUBSCRIBE", "c"))


async def test_commands_are_on_the_wire_in_the_order_of_the_calls(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    commands = [("SET", "k", at, b"\x00\r\n") for at in range(100)]
    replies = [pair.connection.submit([command]) for command in commands]
    expected = b"".join(map(packed, commands))
    got = b""
    while len(got) < len(expected):
        got += await pair.server.receive_some()
    assert got == expected
    await pair.answer(b"".join(b":%d\r\n" % at for at in range(100)))
    assert [await reply for reply in reversed(replies)] == [[at] for at in reversed(range(100))]


async def test_a_cancelled_wait_keeps_the_place_of_its_reply(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    with trio.move_on_after(0) as scope:
        await pair.connection.submit(PING)
    assert scope.cancelled_caught
    second = pair.connection.submit(PING)
    await pair.answer(b":1\r\n:2\r\n")
    assert await second == [2]


async def test_an_error_is_a_value_and_its_code_is_told(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    reply = pair.connection.submit(PING * 2)
    await pair.answer(b"-OOM no memory\r\n:2\r\n")
    error, value = await reply
    assert (str(error), value, pair.codes) == ("OOM no memory", 2, ["OOM"])
    assert isinstance(error, hiredis.ReplyError)
    assert pair.connection.fault is None


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -READONLY You",
    ],
)
async def test_a_server_that_is_a_replica_now_is_left(
    nursery: trio.Nursery, mock_clock: MockClock, text: str
) -> None:
    pair = Pair(nursery)
    first, second = pair.connection.submit(PING), pair.connection.submit(PING)
    await pair.answer(f"-{text}\r\n".encode())
    assert str((await first)[0]) == text
    with pytest.raises(BrokerUnavailable, match="the server answered: "):
        await second


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (b"?what\r\n", "the server sent what is not RESP3"),
        (b"HTTP/1.1 400 Bad Request\r\n", "the server sent what is not RESP3"),
        (b":1\r\n:2\r\n", "the server sent a reply without a command"),
    ],
)
async def test_what_is_no_reply_ends_the_connection(
    nursery: trio.Nursery, mock_clock: MockClock, sent: bytes, fault: str
) -> None:
    pair = Pair(nursery)
    pair.connection.submit(PING)
    await pair.answer(sent)
    assert pair.connection.fault == fault


def fail(_: list[Any]) -> None:
    raise ZeroDivisionError


async def test_a_fault_of_the_listener_ends_the_connection(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    pair.connection.on_push = fail
    await pair.answer(PUSH)
    assert pair.connection.fault == "the connection failed"


async def test_a_broken_stream_ends_the_connection(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    assert isinstance(pair.server.receive_stream, MemoryReceiveStream)
    pair.server.receive_stream.close()
    with pytest.raises(BrokerUnavailable, match="the connection is lost"):
        await pair.connection.submit(PING)


async def test_closing_fails_what_is_outstanding(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery)
        reply = pair.connection.submit(PING)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(BrokerUnavailable, match="the connection is closed"):
        await reply


# --- subscriptions


async def test_a_subscription_is_complete_after_its_push_messages(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    pair = Pair(nursery)
    first = pair.connection.subscribe(("SUBSCRIBE", "c"))
    refused = pair.connection.subscribe(("SUBSCRIBE", "d"))
    plain = pair.connection.submit(PING)
    await pair.answer(b">3\r\n+subscribe\r\n+c\r\n:1\r\n" + PUSH)
    await pair.answer(b"$6\r\nmark 1\r\n-NOPERM no\r\n$6\r\nmark 2\r\n+PONG\r\n")
    assert await first == [b"mark 1"]
    assert [str(each) for each in await refused] == ["NOPERM no", "b'mark 2'"]
    assert await plain == [b"PONG"]
    assert pair.pushed == [[b"subscribe", b"c", 1], PUSHED]


# --- deadlines


async def test_an_answer_that_never_comes(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    pair = Pair(nursery)
    await trio.sleep(5)  # an idle connection is no silent server
    started = trio.current_time()
    first, second = pair.connection.submit(PING), pair.connection.submit(PING)
    for reply in (first, second):
        with pytest.raises(BrokerUnavailable, match="the server does not answer"):
            await reply
    assert ANSWER_SECONDS <= trio.current_time() - started <= ANSWER_SECONDS + 2 * WATCH_SECONDS
    assert pair.connection.fault == "the server does not answer"


async def test_a_late_answer_of_a_server_that_works(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    pair = Pair(nursery)
    slow = pair.connection.submit(PING)
    await trio.sleep(0.7)
    later = pair.connection.submit(PING)
    await pair.answer(PUSH)  # a sign of life
    with pytest.raises(BrokerUnavailable, match="the server does not answer"):
        await slow
    assert pair.connection.fault is None
    await pair.answer(b":1\r\n:2\r\n")
    assert await later == [2]
    assert pair.connection.outstanding_bytes == 0


async def test_a_longer_deadline(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    pair = Pair(nursery)
    patient = pair.connection.submit(PING, seconds=10)
    await trio.sleep(9.9)
    await pair.answer(b":1\r\n")
    assert await patient == [1]
    assert pair.connection.fault is None


# --- bounds


async def test_what_is_outstanding_is_bounded(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    pair = Pair(nursery)
    head = len(packed(("SET", "k", b"x" * OUTSTANDING_BYTES))) - OUTSTANDING_BYTES
    fits = pair.connection.submit([("SET", "k", b"x" * (OUTSTANDING_BYTES - head))], is_bulk=True)
    assert pair.connection.outstanding_bytes == OUTSTANDING_BYTES
    with pytest.raises(BrokerUnavailable, match=f"more than {OUTSTANDING_BYTES} bytes"):
        await pair.connection.submit(PING, is_bulk=True)
    small = pair.connection.submit(PING)  # from the reserve
    left = RESERVE_BYTES - len(packed(("PING",)))
    with pytest.raises(BrokerUnavailable, match=f"more than {OUTSTANDING_BYTES + RESERVE_BYTES}"):
        await pair.connection.submit([("SET", "k", b"x" * (left - 27 + 1))])
    await pair.answer(b"+OK\r\n")
    assert await fits == [b"OK"]
    again = pair.connection.submit(PING, is_bulk=True)
    await pair.answer(b"+PONG\r\n+PONG\r\n")
    assert await small == await again == [b"PONG"]


async def test_no_commands_have_no_reply(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    pair = Pair(nursery)
    assert await pair.connection.submit([]) == []
    reply = pair.connection.submit(PING)
    await pair.answer(b":1\r\n")
    assert await reply == [1]
