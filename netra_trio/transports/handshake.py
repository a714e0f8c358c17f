"""The opening handshake of a WebSocket: its checks and its response (RFC 6455, 4.2).

fault = handshake_fault(b"/ws", "1.1", by_name(headers))
response = accepting(by_name(headers)[b"sec-websocket-key"][0], "netra.v1")
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator

from websockets.exceptions import InvalidHeaderFormat

from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, problem
from netra_trio.transports.deflate import offered_extensions
from netra_trio.transports.headers import Headers, list_items

UPGRADE_REQUIRED = 426

_KEY_BYTES = 16  # of randomness in Sec-WebSocket-Key (RFC 6455, 4.1)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of Sec-WebSocket-Accept (RFC 6455, 1.3)
_ASCII_ONLY = (b"sec-websocket-protocol", b"sec-websocket-extensions", b"connection", b"upgrade")


def wants_websocket(headers: Headers) -> bool:
    """Return whether the request asks for a WebSocket, with a valid handshake or not.

    Upgrade is a hop-by-hop header: without `Connection: Upgrade` it was meant for another server
    (RFC 9110, 7.8).
    """
    connection = [option.lower() for option in list_items(headers, b"connection")]
    offers = [offer.lower() for offer in list_items(headers, b"upgrade")]
    return b"upgrade" in connection and b"websocket" in offers


def offered_subprotocols(headers: Headers) -> list[str]:
    """Return the subprotocols that the client offers, in its order of preference."""
    return [item.decode("latin-1") for item in list_items(headers, b"sec-websocket-protocol")]


def handshake_fault(raw_path: bytes, http_version: str, headers: Headers) -> Problem | None:
    """Return the fault of a handshake, None for a valid one.

    The text never quotes a header's value, which may hold a credential.
    """
    if (text := next(_faults(raw_path, http_version, headers), None)) is not None:
        return problem(ErrorCode.BAD_REQUEST, text)
    if headers[b"sec-websocket-version"] != [b"13"]:
        text = "Sec-WebSocket-Version: expected 13, got another version."
        return problem(ErrorCode.BAD_REQUEST, text, status=UPGRADE_REQUIRED)
    return None


def accepting(key: bytes, subprotocol: str | None, extension: str | None = None) -> bytes:
    """Return the response that accepts the upgrade, as bytes of HTTP/1.1.

    Args:
        key: The key of the request.
        subprotocol: The subprotocol to select; None for none.
        extension: The extension to select, with its parameters; None for none.
    """
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    selected = "" if subprotocol is None else f"sec-websocket-protocol: {subprotocol}\r\n"
    if extension is not None:
        selected += f"sec-websocket-extensions: {extension}\r\n"
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "upgrade: websocket\r\n"
        "connection: Upgrade\r\n"
        f"sec-websocket-accept: {base64.b64encode(digest).decode()}\r\n"
        f"{selected}\r\n"
    ).encode()


def _faults(raw_path: bytes, http_version: str, headers: Headers) -> Iterator[str]:
    for name in _ASCII_ONLY:
        if not all(value.isascii() for value in headers.get(name, [])):
            yield f"{name.decode()}: expected ASCII, got another byte."
    if not raw_path.isascii():
        yield "path: expected ASCII, got another byte."
    if not _has_extension_list(headers):
        yield "Sec-WebSocket-Extensions: expected a list of extensions, got another text."
    if len(headers.get(b"sec-websocket-version", [])) != 1:
        yield "Sec-WebSocket-Version: expected it once."
    if http_version == "2":
        return  # an extended CONNECT has neither key nor upgrade (RFC 8441, 5)
    if http_version != "1.1":
        yield "HTTP version: expected 1.1 or 2."
    if headers.get(b"transfer-encoding") or _has_length(headers):
        yield "body: expected none in an upgrade."
    keys = headers.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        yield "Sec-WebSocket-Key: expected 16 bytes in base64, once."


def _has_extension_list(headers: Headers) -> bool:
    try:
        offered_extensions(headers)
    except InvalidHeaderFormat:
        return False
    return True


def _has_length(headers: Headers) -> bool:
    return any(value.strip(b"0") for value in headers.get(b"content-length", []))


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
