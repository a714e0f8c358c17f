"""Frames as server-sent events, and as the answers of polls."""

import orjson
import pytest

from netra_trio.endpoints.doors.event_frames import (
    Close,
    close_event,
    event_of,
    number_of,
    poll_body,
)

CLOSE = Close(4429, "evicted")


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        ({"type": "pong", "payload": {}}, b"data: "),
        ({"type": "room_event", "payload": {"offset": 3}}, b"data: "),
        ({"type": "partial_result", "payload": {"content": "a\nb"}, "seq": 7}, b"id: 7\ndata: "),
        ({"type": "partial_result", "seq": 9, "seq_from": 8}, b"id: 9\ndata: "),
    ],
)
def test_a_frame_is_an_event_with_its_number(frame: object, event: bytes) -> None:
    data = orjson.dumps(frame)
    assert event_of(data) == event + data + b"\n\n"


def test_the_number_of_a_frame() -> None:
    assert number_of(b'{"type":"heartbeat"}') is None
    assert number_of(b'{"type":"agent_started","seq":18446744073709551615}') == 2**64 - 1


def test_the_close() -> None:
    assert close_event(CLOSE) == b'event: close\ndata: {"code":4429,"reason":"evicted"}\n\n'


def test_the_answer_of_a_poll() -> None:
    frames = [b'{"type":"pong"}', b'{"type":"heartbeat"}']
    assert orjson.loads(poll_body([])) == {"frames": []}
    assert orjson.loads(poll_body(frames)) == {"frames": [{"type": "pong"}, {"type": "heartbeat"}]}
    assert orjson.loads(poll_body([], CLOSE)) == {
        "frames": [],
        "close": {"code": 4429, "reason": "evicted"},
    }
