"""Inbound WebSocket frames, parsed into messages without I/O (RFC 6455, 5 to 8; RFC 7692).

>>> inbound = InboundFrames(max_bytes=1000)
>>> inbound.feed(bytes.fromhex("818200000000") + b"hi")
>>> inbound.next_event()
Received(message='hi')
>>> inbound.next_event() is None
True
"""

import logging
from typing import TypeAlias

from attrs import frozen
from websockets.exceptions import PayloadTooBig
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from netra_trio.protocol.codes import NO_STATUS
from netra_trio.transports.deflate import Deflate
from netra_trio.transports.inflate import (
    InflatedTooBig,
    Inflater,
    NotInflatable,
    compressed_limit,
)

CONTROL_BYTES = 125  # the longest payload of a control frame (RFC 6455, 5.5)
PARSED_BYTES = 512  # parsed in a row: at most 85 frames, however small they are

_INVALID_DATA = 1007  # RFC 6455, 7.4.1: text that is not UTF-8, or data that is not compressed

# Where the core counts the bytes of an unfinished message; websockets 16 renamed it.
_SIZE = "current_size" if hasattr(Protocol(SERVER), "current_size") else "cur_size"

_log = logging.getLogger("netra_trio.frames")
_log.disabled = True  # the core logs each connection; the server has its own log of them


@frozen
class Received:
    """A whole message: text as `str`, binary data as `bytes`."""

    message: str | bytes


@frozen
class Pinged:
    """A ping, to be answered with the same payload."""

    payload: bytes


@frozen
class Alive:
    """A frame that is no message yet: a pong, or a fragment.

    Attributes:
        size: Bytes of its payload.
    """

    size: int


@frozen
class Inflating:
    """A part of a compressed message was inflated; the message follows, or its fault."""


@frozen
class PeerClosed:
    """The peer's close frame; no event follows.

    Attributes:
        code: Its code, 1005 for none.
        payload: What an echo has to contain.
    """

    code: int
    payload: bytes


@frozen
class Broken:
    """A protocol error; no event follows.

    Attributes:
        code: The code to close with.
    """

    code: int


@frozen
class TooBig:
    """A message beyond the limit; only the peer's close may follow."""


InboundEvent: TypeAlias = Received | Pinged | Alive | Inflating | PeerClosed | Broken | TooBig


class _Compressed(Frame):
    """The first frame of a compressed message."""


class _Marks(Extension):
    """Lets compressed messages pass the core, which checks the reserved bits of all others.

    The core would inflate a frame at once. It keeps no state, so all connections share it.
    """

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return the frame, of another class if its message is compressed."""
        del max_size
        if not frame.rsv1 or frame.opcode not in {Opcode.TEXT, Opcode.BINARY}:
            return frame
        return _Compressed(frame.opcode, frame.data, frame.fin, rsv2=frame.rsv2, rsv3=frame.rsv3)

    def encode(self, frame: Frame) -> Frame:
        """Return the frame: nothing that the core writes is sent."""
        return frame


_MARKS: list[Extension] = [_Marks()]


class _Core(Protocol):
    """The parser of `websockets`, whose replies are not used."""

    def recv_frame(self, frame: Frame) -> None:
        """Check a frame and add it to the events."""
        if frame.opcode is Opcode.PING:
            self.events.append(frame)  # without the pong that the core would prepare
            return
        if frame.opcode is Opcode.CLOSE:
            setattr(self, _SIZE, None)  # a close may come inside a fragmented message (5.4)
        super().recv_frame(frame)


class InboundFrames:
    """The frames of one client.

    An unfinished message takes the memory of its bytes, whatever the size of its fragments. A
    compressed one is inflated when it is complete: until then it takes what its peer has sent.

    Args:
        max_bytes: The limit of a message, in bytes, inflated if it is compressed.
        deflate: The compression that was agreed on; None for none.
    """

    def __init__(self, max_bytes: int, *, deflate: Deflate | None = None) -> None:
        self._max_bytes = max_bytes
        self._deflate = deflate
        parsed_bytes = max_bytes if deflate is None else compressed_limit(max_bytes)
        # The core counts a ping inside a fragmented message towards the size of the message.
        self._core = _Core(SERVER, max_size=parsed_bytes + CONTROL_BYTES, logger=_log)
        if deflate is not None:
            self._core.extensions = _MARKS
        self._parsed_bytes = parsed_bytes
        self._is_compressed = False
        self._inflater: Inflater | None = None  # only while a message is inflated
        self._unparsed = memoryview(b"")
        self._frames: list[Frame] = []
        self._message = bytearray()
        self._is_text = False
        self._is_too_big = False  # only a close is reported any more
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Add the bytes of one read, after `next_event` has returned None."""
        if not self._is_over:
            self._unparsed = memoryview(data)

    def next_event(self) -> InboundEvent | None:
        """Return the next event; None if there is none without more bytes."""
        while not self._is_over:
            event: InboundEvent | None
            if self._inflater is not None:
                event = self._inflate(self._inflater)
            elif self._frames:
                event = self._event(self._frames.pop())
            elif self._core.parser_exc is not None:
                event = self._failure(self._core.parser_exc)
            elif self._unparsed:
                self._parse()
                continue
            else:
                return None
            if isinstance(event, PeerClosed | Broken):
                self._is_over = True
                self._unparsed = memoryview(b"")
                self._frames.clear()
                self._inflater = None
            if event is not None:
                return event
        return None

    def _parse(self) -> None:
        piece, self._unparsed = self._unparsed[:PARSED_BYTES], self._unparsed[PARSED_BYTES:]
        core = self._core
        core.receive_data(bytes(piece))
        core.writes.clear()
        events = core.events_received()
        events.reverse()  # so that the first one is taken off the end
        self._frames = events  # type: ignore[assignment]  # a server's events are frames

    def _event(self, frame: Frame) -> InboundEvent | None:
        if frame.opcode is Opcode.CLOSE:
            received = self._core.close_rcvd
            return PeerClosed(NO_STATUS if received is None else received.code, bytes(frame.data))
        if self._is_too_big:
            if getattr(self._core, _SIZE):
                setattr(self._core, _SIZE, 0)  # the core must not fail before the peer's close
            return None
        if frame.opcode is Opcode.PING:
            return Pinged(bytes(frame.data))
        if frame.opcode is Opcode.PONG:
            return Alive(len(frame.data))
        return self._data_event(frame)

    def _data_event(self, frame: Frame) -> InboundEvent:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            self._is_compressed = isinstance(frame, _Compressed)
        limit = self._parsed_bytes if self._is_compressed else self._max_bytes
        if len(self._message) + len(frame.data) > limit:
            return self._too_big()
        if frame.fin and not self._message:
            return self._whole(bytes(frame.data))
        self._message += frame.data
        if not frame.fin:
            return Alive(len(frame.data))
        data = bytes(self._message)
        self._message = bytearray()
        return self._whole(data)

    def _too_big(self) -> TooBig:
        self._is_too_big = True
        self._message.clear()
        self._inflater = None
        return TooBig()

    def _whole(self, data: bytes) -> InboundEvent:
        if not self._is_compressed:
            return self._received(data)
        self._inflater = Inflater(data, max_bytes=self._max_bytes)
        return self._inflate(self._inflater)

    def _inflate(self, inflater: Inflater) -> InboundEvent:
        try:
            if not inflater.step():
                return Inflating()
        except InflatedTooBig:
            return self._too_big()
        except NotInflatable:
            return Broken(_INVALID_DATA)
        self._inflater = None
        data = bytes(inflater.data)
        if self._deflate is not None:
            self._deflate.count("received", len(data), inflater.compressed_bytes)
        return self._received(data)

    def _received(self, data: bytes) -> InboundEvent:
        if not self._is_text:
            return Received(data)
        try:
            return Received(data.decode())
        except UnicodeDecodeError:
            return Broken(_INVALID_DATA)

    def _failure(self, error: Exception) -> InboundEvent | None:
        if isinstance(error, PayloadTooBig):
            self._is_over = True
            return None if self._is_too_big else TooBig()
        sent = self._core.close_sent
        return Broken(_INVALID_DATA if sent is None else sent.code)
