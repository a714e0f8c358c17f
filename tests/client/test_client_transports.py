"""The rules of the transports, and the parser of server-sent events: without I/O."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.client.fallback import (
    FAILURES,
    RETURN_SECONDS,
    SHORT_LIVES,
    SHORT_SECONDS,
    Transport,
    TransportPolicy,
)
from netra_trio.client.life import Life
from netra_trio.client.sse import EventTooLarge, ServerSent, SseReader

WEBSOCKET, SSE, LONG_POLL = Transport.WEBSOCKET, Transport.SSE, Transport.LONG_POLL


def failed(policy: TransportPolicy, times: int, now: float = 0.0) -> Transport:
    """Let attempts fail, and return the transport of the next one."""
    for _ in range(times):
        policy.not_opened(policy.choose(now))
    return policy.choose(now)


def fallen(now: float = 0.0) -> TransportPolicy:
    """Return a policy that uses a stream, which works."""
    policy = TransportPolicy()
    assert failed(policy, FAILURES, now) is SSE
    policy.established(SSE)
    return policy


def test_the_names() -> None:
    assert [str(transport) for transport in Transport] == ["websocket", "sse", "long-poll"]


def test_one_failure_changes_nothing() -> None:
    assert failed(TransportPolicy(), 1) is WEBSOCKET
    assert failed(TransportPolicy(), 2) is SSE


def test_only_failures_in_a_row_count() -> None:
    policy = TransportPolicy()
    failed(policy, 1)
    policy.explained()
    assert failed(policy, 1) is WEBSOCKET
    policy.established(WEBSOCKET)
    assert failed(policy, 1) is WEBSOCKET
    assert failed(policy, 1) is SSE


def test_each_transport_has_its_turn() -> None:
    policy = TransportPolicy()
    turns = [failed(policy, FAILURES) for _ in range(4)]
    assert turns == [SSE, LONG_POLL, WEBSOCKET, SSE]


def test_a_late_stream_is_replaced_at_once() -> None:
    policy = TransportPolicy()
    failed(policy, 2)
    policy.not_opened(SSE, is_late=True)
    assert policy.choose(1.0) is LONG_POLL
    policy.not_opened(LONG_POLL, is_late=True)
    assert policy.choose(1.0) is LONG_POLL


@pytest.mark.parametrize("is_due", [False, True])
def test_the_websocket_is_tried_again(is_due: bool) -> None:
    policy = fallen(now=100.0)
    now = 100.0 + RETURN_SECONDS - (not is_due)
    assert policy.choose(now) is (WEBSOCKET if is_due else SSE)
    if is_due:
        policy.not_opened(WEBSOCKET)
        assert policy.choose(now + 1) is SSE
        assert policy.choose(now + RETURN_SECONDS - 1) is SSE
        assert policy.choose(now + RETURN_SECONDS) is WEBSOCKET


def test_a_success_goes_back() -> None:
    policy = fallen()
    assert policy.choose(RETURN_SECONDS) is WEBSOCKET
    policy.established(WEBSOCKET)
    assert policy.choose(RETURN_SECONDS + 1) is WEBSOCKET
    policy.lost(WEBSOCKET, SHORT_SECONDS, RETURN_SECONDS + 20)
    assert policy.choose(RETURN_SECONDS + 21) is WEBSOCKET


def test_a_websocket_that_dies_at_once_gives_way_to_what_worked() -> None:
    policy = fallen()
    policy.not_opened(SSE, is_late=True)
    policy.established(LONG_POLL)
    assert policy.choose(RETURN_SECONDS) is WEBSOCKET
    policy.established(WEBSOCKET)
    policy.lost(WEBSOCKET, 1.0, RETURN_SECONDS + 1)
    assert policy.choose(RETURN_SECONDS + 1) is LONG_POLL
    assert policy.choose(2 * RETURN_SECONDS) is LONG_POLL
    assert policy.choose(2 * RETURN_SECONDS + 1) is WEBSOCKET


@pytest.mark.parametrize(("transport", "following"), [(WEBSOCKET, SSE), (SSE, LONG_POLL)])
def test_short_lives_in_a_row(transport: Transport, following: Transport) -> None:
    policy = TransportPolicy() if transport is WEBSOCKET else fallen()
    policy.established(transport)
    for _ in range(SHORT_LIVES - 1):
        policy.lost(transport, SHORT_SECONDS - 0.1, 0.0)
    assert policy.choose(0.0) is transport
    policy.lost(transport, SHORT_SECONDS, 0.0)  # a long one in between
    for _ in range(SHORT_LIVES - 1):
        policy.lost(transport, 0.0, 0.0)
    policy.lasted(transport)
    for _ in range(SHORT_LIVES):
        assert policy.choose(0.0) is transport
        policy.lost(transport, 0.0, 0.0)
    assert policy.choose(0.0) is following


def test_a_life_with_a_close_frame_is_no_failure() -> None:
    policy = TransportPolicy()
    for _ in range(2 * SHORT_LIVES):
        life = Life(policy, WEBSOCKET)
        life.heard(0.0)
        life.closed()
        life.ended(0.1)
    assert policy.choose(1.0) is WEBSOCKET


def test_a_life_without_a_frame_is_a_failure() -> None:
    policy = TransportPolicy()
    for _ in range(FAILURES):
        Life(policy, policy.choose(0.0)).ended(1.0)
    assert policy.choose(1.0) is SSE


def test_a_stream_that_becomes_silent_has_a_short_life() -> None:
    policy = fallen()
    for _ in range(SHORT_LIVES):
        life = Life(policy, SSE)
        life.heard(0.0)
        life.ended(200.0)
    assert policy.choose(1.0) is LONG_POLL


# --- server-sent events

PIECES = [
    b"\xef\xbb\xbfdata: first\n\n",
    b": comment\n\n",
    b"id: 7\ndata: {}\n\n",
    b"data\n\n",
    b"event: close\r\ndata:{1}\r\n\r\n",
    b"event: named, without data\n\n",
    b"data: two\rdata:  lines\r\r",
    b"retry: 5\nunknown: x\ndata: \xc3\xa9\n\n",
    b"data: half",
]
EVENTS = [
    ServerSent("message", "first"),
    ServerSent("message", "{}"),
    ServerSent("message", ""),
    ServerSent("close", "{1}"),
    ServerSent("message", "two\n lines"),
    ServerSent("message", "é"),
]


@given(st.lists(st.integers(0, len(b"".join(PIECES)))))
def test_events_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    data = b"".join(PIECES)
    places = [0, *sorted(cuts), len(data)]
    reader = SseReader(limit=100)
    found = [event for start, end in pairwise(places) for event in reader.feed(data[start:end])]
    assert found == EVENTS


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        (b"data: " + b"x" * 94, 0),
        (b"data: " + b"x" * 100 + b"\n\n" + b"data: " + b"x" * 100 + b"\n\n", 2),
        (b"data: " + b"x" * 50 + b"\ndata: " + b"x" * 50 + b"\n\n", 1),
    ],
    ids=["rest", "events", "lines"],
)
def test_the_limit_of_an_event_and_one_more(piece: bytes, count: int) -> None:
    assert len(SseReader(limit=100).feed(piece)) == count
    with pytest.raises(EventTooLarge):
        SseReader(limit=99).feed(piece)
