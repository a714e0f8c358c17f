"""Compression of messages: the extension permessage-deflate (RFC 7692), as a server offers it.

    compression = Compression(metrics.note_compressed)    # one for the server
    deflate = compression.agree(headers)                  # shared by connections that agree alike
    data = await deflate.frames(TEXT, payloads)

Neither side keeps a context from one message to the next: each message is compressed and inflated
by itself, so a connection needs no memory for the extension. Only large messages are compressed.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import trio
from attrs import field, frozen
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionHeader

from netra_trio.transports.frames import COMPRESSED, TEXT, SharedPayload, frame, opcode_of
from netra_trio.transports.headers import Headers
from netra_trio.transports.inflate import TAIL

SMALLEST = 1024  # bytes of a message that is compressed: docs/protocol.md, Compression
PIECE_BYTES = 32 * 1024  # compressed in a row, in about 0.3 ms, before other tasks run

_LEVEL = 1  # 10 us for 1 KiB; level 6 takes twice as long, for a tenth less bytes
_SMALLEST_BITS = 9  # of a window that zlib supports
_MEMORY_BITS = 7  # less than the window: zlib's memLevel, of its default window 8
_HEADER = b"sec-websocket-extensions"
_FACTORY = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True
)

Count: TypeAlias = Callable[[str, int, int], None]
"""Counts a message: `sent` or `received`, its bytes, and its compressed bytes."""


@frozen(eq=False)
class Deflate:
    """The extension as agreed on with a client.

    Attributes:
        window_bits: The binary logarithm of the window that the server may use.
        response: The value of the response's header.
        count: Counts the compressed messages.
    """

    window_bits: int
    response: str
    count: Count

    def compresses(self, payloads: Sequence[bytes]) -> bool:
        """Return whether one of the payloads is large enough to be compressed."""
        return max(map(len, payloads), default=0) >= SMALLEST

    async def frames(self, opcode: int, payloads: Sequence[bytes]) -> bytes:
        """Return one frame for each payload, joined; large payloads are compressed.

        A `BinaryFrame` becomes a binary frame.

        Other tasks run after each 32 KiB. Cancelling is safe.
        """
        parts: list[bytes] = []
        done = 0
        for payload in payloads:
            if len(payload) < SMALLEST:
                parts.append(frame(opcode_of(payload, opcode), payload))
                continue
            if isinstance(payload, SharedPayload):
                parts.append(self.shared_frame(payload))
                self.count_shared(payload)
                continue
            stream, data = self._stream(len(payload)), bytearray()
            for start in range(0, len(payload), PIECE_BYTES):
                piece = payload[start : start + PIECE_BYTES]
                if done + len(piece) > PIECE_BYTES:
                    await trio.lowlevel.checkpoint()
                    done = 0
                done += len(piece)
                data += stream.compress(piece)
            data += stream.flush(zlib.Z_SYNC_FLUSH)
            compressed = _worthwhile(payload, data)
            if compressed is not None:
                self.count("sent", len(payload), len(compressed))
            parts.append(_frame(opcode_of(payload, opcode), payload, compressed))
        return b"".join(parts)

    def shared_frame(self, payload: SharedPayload) -> bytes:
        """Return the text frame of a shared payload, which is compressed once for each window."""
        if len(payload) < SMALLEST:
            return payload.text_frame
        if self.window_bits not in payload.compressed:
            stream = self._stream(len(payload))
            data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
            compressed = _worthwhile(payload, data)
            size = None if compressed is None else len(compressed)
            payload.compressed[self.window_bits] = _frame(TEXT, payload, compressed), size
        return payload.compressed[self.window_bits][0]

    def count_shared(self, payload: SharedPayload) -> None:
        """Count a shared payload whose frame was sent."""
        _, size = payload.compressed.get(self.window_bits, (b"", None))
        if size is not None:
            self.count("sent", len(payload), size)

    def _stream(self, size: int) -> "zlib._Compress":
        """Return a compressor with a window of about the payload: a full one takes 30 us more."""
        bits = max(_SMALLEST_BITS, min(self.window_bits, size.bit_length()))
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits, bits - _MEMORY_BITS)


@frozen(eq=False)
class Compression:
    """The extension as a server offers it to all its clients.

    Args:
        count: Counts the compressed messages.
    """

    count: Count
    _agreed: dict[int, Deflate] = field(factory=dict, init=False)

    def agree(self, headers: Headers) -> Deflate | None:
        """Return the extension for the first offer that can be accepted; None without one.

        An offer with an unknown, invalid or repeated parameter is declined, as is a window of 256
        bytes for the server, which zlib does not have. No window is selected for the client:
        nothing is kept for one.

        Args:
            headers: Those of a handshake that has no fault.
        """
        for name, parameters in offered_extensions(headers):
            if name != _FACTORY.name:
                continue
            try:
                response, terms = _FACTORY.process_request_params(parameters, [])
            except NegotiationError:
                continue
            bits = terms.local_max_window_bits
            if bits < _SMALLEST_BITS:  # websockets 16 and earlier accept it
                continue
            if bits not in self._agreed:
                kept = [(key, value) for key, value in response if key != "client_max_window_bits"]
                self._agreed[bits] = Deflate(bits, build_extension([(name, kept)]), self.count)
            return self._agreed[bits]
        return None


def offered_extensions(headers: Headers) -> list[ExtensionHeader]:
    """Return the extensions that a client offers, with their parameters, in its order.

    Raises:
        InvalidHeaderFormat: If a header is not a list of extensions (RFC 6455, 9.1).
    """
    text = b",".join(headers.get(_HEADER, [])).decode("latin-1")
    return parse_extension(text) if text.strip(", \t") else []


def _worthwhile(payload: bytes, data: bytes | bytearray) -> bytes | None:
    """Return compressed data without its tail; None if it is no shorter than the payload."""
    compressed = bytes(data.removesuffix(TAIL))
    return compressed if len(compressed) < len(payload) else None


def _frame(opcode: int, payload: bytes, compressed: bytes | None) -> bytes:
    if compressed is None:
        return frame(opcode, payload)
    return frame(COMPRESSED | opcode, compressed)
