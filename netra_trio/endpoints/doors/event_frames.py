r"""The frames of a session as server-sent events, and as the answers of long-polls.

The frames are those of a WebSocket, unchanged: the door leaves nothing out and adds nothing. The
id of an event is the number of its frame; control frames and frames of rooms have none.

>>> event_of(b'{"type":"pong"}')
b'data: {"type":"pong"}\n\n'
>>> event_of(b'{"type":"agent_started","seq":2}')
b'id: 2\ndata: {"type":"agent_started","seq":2}\n\n'
>>> poll_body([b'{"type":"pong"}'], Close(1012, "drained"))
b'{"frames":[{"type":"pong"}],"close":{"code":1012,"reason":"drained"}}'
"""

from collections.abc import Sequence

import orjson
from attrs import asdict, frozen

from netra_trio.endpoints.doors.sse import sse

CLOSE_EVENT = "close"  # the only event with a name


@frozen
class Close:
    """The end of a connection by the server: the code and the reason of its close frame."""

    code: int
    reason: str


def number_of(frame: bytes) -> int | None:
    """Return the number of an encoded frame; None if it has none."""
    seq: int | None = orjson.loads(frame).get("seq")
    return seq


def event_of(frame: bytes) -> bytes:
    """Return an encoded frame as a server-sent event."""
    seq = number_of(frame)
    return sse(frame, id=None if seq is None else str(seq))


def close_event(close: Close) -> bytes:
    """Return the last event of a stream that the server ends."""
    return sse(orjson.dumps(asdict(close)), event=CLOSE_EVENT)


def poll_body(frames: Sequence[bytes], close: Close | None = None) -> bytes:
    """Return the body of the answer to a long-poll."""
    end = b"" if close is None else b',"close":' + orjson.dumps(asdict(close))
    return b'{"frames":[' + b",".join(frames) + b"]" + end + b"}"
