"""The head of a connection's first request, read with the limits of docs/protocol.md.

head = await read_head(stream)
"""

import re

import h11
import trio
from attrs import field, frozen

from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.server.request_target import LINE_END, to_origin_form
from netra_trio.transports.byte_stream import ByteStream
from netra_trio.transports.handshake import wants_websocket
from netra_trio.transports.headers import by_name

HEAD_BYTES = 16 * 1024  # of a request head
HEAD_SECONDS = 10.0  # for a whole request head

_HEAD_END = re.compile(rb"\n\r?\n")
_TLS_HELLO = 0x16  # the first byte of a TLS connection


@frozen
class RequestHead:
    """The head of a request, and the bytes behind it.

    Attributes:
        raw: The bytes of the head.
        rest: The bytes that came behind it.
        method: In upper case; empty where the head is not HTTP/1.1.
        target: The request target, in origin form.
        http_version: Such as `1.1`.
        headers: Names and values.
    """

    raw: bytes
    rest: bytes
    method: bytes = b""
    target: bytes = b""
    http_version: str = ""
    headers: list[tuple[bytes, bytes]] = field(factory=list)

    @property
    def is_upgrade(self) -> bool:
        """Whether it asks for a WebSocket, which only a GET can (RFC 6455, 4.1)."""
        return self.method == b"GET" and wants_websocket(by_name(self.headers))


async def read_head(stream: ByteStream) -> RequestHead | None:
    """Read the head of the first request; None if none arrives in time, or for a TLS client.

    Empty lines before it are ignored, as long as they fit into the limit with the head.

    Raises:
        Refused: BAD_REQUEST with status 431, for a head beyond 16 KiB.
        TransportClosed: If the connection is lost.
    """
    data, start = b"", 0
    with trio.move_on_after(HEAD_SECONDS):
        while True:
            more = await stream.read()
            if not more or (not data and more[0] == _TLS_HELLO):
                return None
            data += more
            if not (head := data.lstrip(LINE_END)):
                start = 0
            elif (end := _HEAD_END.search(head, start)) is not None and end.end() <= HEAD_BYTES:
                return _parse(head[: end.end()], head[end.end() :])
            else:
                start = max(0, len(head) - 3)
            if len(data) > HEAD_BYTES:
                text = f"The head of the request has more than {HEAD_BYTES} bytes."
                raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=431))
    return None


def _parse(raw: bytes, rest: bytes) -> RequestHead:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return RequestHead(raw, rest)
    if not isinstance(event, h11.Request):
        return RequestHead(raw, rest)
    target, headers = to_origin_form(event.target, list(event.headers))
    return RequestHead(
        raw,
        rest,
        method=event.method,
        target=target,
        http_version=event.http_version.decode(),
        headers=headers,
    )
