"""Findings about a server from its answers: what is wrong, and what to do.

>>> print(of_refusal(426, {"code": "BAD_REQUEST"}).advice)
Let the proxy pass the upgrade on: HTTP/1.1 to the server, with the headers Upgrade and Connection.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from netra_trio.protocol.codes import ErrorCode

CLOCK_SECONDS = 10.0  # that two clocks may differ by: the leeway for the times of a token
SHOWN_CHARACTERS = 200  # of a text from outside

_SWITCHING, _OK, _REDIRECTS, _MISSING, _UPGRADE = (
    101,
    200,
    range(300, 400),
    404,
    426,
)  # HTTP status codes
_METHOD, _TOO_MANY, _GATEWAYS = 405, 429, range(500, 600)
_GUARDED = (401, 403, 407)
_HTTP_VERSION = "HTTP version"  # the server's text begins so if a proxy speaks HTTP/1.0


@frozen
class Finding:
    """A fault, and the advice for it; both are whole sentences."""

    text: str
    advice: str


_UPGRADE_LOST = Finding(
    "The server received an ordinary request instead of an upgrade.",
    "Let the proxy pass the upgrade on: HTTP/1.1 to the server, with the headers Upgrade and "
    "Connection.",
)
_NOT_OURS = "Check that the URL is that of a netra_trio server, path included: it ends in /ws."

ADVICE: Mapping[ErrorCode, str] = {
    ErrorCode.AUTH_REQUIRED: "A credential was sent and did not arrive: let the proxy pass on "
    "the Authorization header and the query.",
    ErrorCode.INVALID_TOKEN: "Use a token of the login that this server trusts: its key, "
    "JWT_ISSUER and JWT_AUDIENCE must match; netra-trio check shows them on the server.",
    ErrorCode.TOKEN_EXPIRED: "Get a new token. If this one is new, set the clocks of the login "
    "and of the server.",
    ErrorCode.USER_NOT_FOUND: "On the server: netra-trio user add, or AUTH_AUTO_PROVISION=true. "
    "Or use another user with --user.",
    ErrorCode.USER_DISABLED: "On the server: netra-trio user enable. Or use another user with "
    "--user.",
    ErrorCode.ORIGIN_NOT_ALLOWED: "Add the page's origin, with scheme and port, to "
    "WEBSOCKET_ALLOWED_ORIGINS of the server.",
    ErrorCode.UNSUPPORTED_SUBPROTOCOL: "netra.v2 and netra.v1 were offered and did not "
    "arrive: let the proxy pass on Sec-WebSocket-Protocol.",
    ErrorCode.CONNECTION_LIMIT_EXCEEDED: "Close a connection of this user, raise "
    "WEBSOCKET_MAX_CONNECTIONS_PER_USER, or use another user with --user.",
    ErrorCode.SERVER_DRAINING: "It is about to restart: try again in a minute.",
    ErrorCode.SERVER_FULL: "Raise WEBSOCKET_MAX_CONNECTIONS, or start another server.",
    ErrorCode.SERVICE_UNAVAILABLE: "See /ws/health: the database or the key server does not "
    "answer.",
    ErrorCode.INTERNAL_ERROR: "Look for the error_id in the server's log.",
}
"""The advice after a refusal of this server, by its error code."""

_BY_STATUS: tuple[tuple[range | tuple[int, ...], str, str], ...] = (
    (
        _REDIRECTS,
        "A proxy in front of the server redirects.",
        "Use that URL, or serve /ws without a redirect: WebSocket clients do not follow redirects.",
    ),
    ((_MISSING, _METHOD), "There is no such endpoint.", _NOT_OURS),
    (
        _GUARDED,
        "A proxy in front of the server refuses, not the server itself.",
        "Let the proxy or firewall pass on /ws and every path below it.",
    ),
    (
        (_TOO_MANY,),
        "A proxy in front of the server allows no more requests.",
        "Wait, or raise the proxy's limit for /ws.",
    ),
    (
        _GATEWAYS,
        "A proxy in front of the server gets no answer from it.",
        "Check that the server runs, and that the proxy has the right address and port.",
    ),
)


def of_refusal(
    status: int, body: Mapping[str, Any], *, clock_seconds: float | None = None
) -> Finding:
    """Return the finding for a refused ticket or upgrade.

    Args:
        status: The HTTP status.
        body: The error body of the answer; empty if there is none.
        clock_seconds: By how much the server's clock is ahead of this one, if that is known.
    """
    code, text = str(body.get("code")), str(body.get("error", ""))
    if status == _SWITCHING:
        return Finding(
            "It was accepted without a subprotocol; netra.v2 and netra.v1 were offered.",
            f"Let the proxy pass on Sec-WebSocket-Protocol, both ways. {_NOT_OURS}",
        )
    if code == ErrorCode.BAD_REQUEST:
        return _of_bad_request(status, text)
    if code in ADVICE:
        advice = ADVICE[ErrorCode(code)]
        if code in {ErrorCode.TOKEN_EXPIRED, ErrorCode.INVALID_TOKEN} and _is_off(clock_seconds):
            advice = "Set the clock first: the times of a token are compared with it."
        return Finding(f"{shown(text)} ({status} {code})", advice)
    for statuses, found, advice in _BY_STATUS:
        if status in statuses:
            return Finding(f"{found} ({status})", advice)
    return Finding(f"The answer is {status}, which this server does not send here.", _NOT_OURS)


def _of_bad_request(status: int, text: str) -> Finding:
    if status == _UPGRADE or text.startswith(_HTTP_VERSION):
        return Finding(f"{_UPGRADE_LOST.text} ({status})", _UPGRADE_LOST.advice)
    if status == _MISSING:
        return Finding(f"{shown(text)} ({status})", _NOT_OURS)
    advice = "A proxy changes requests: connect to the server directly, without the proxy."
    return Finding(f"{shown(text)} ({status} {ErrorCode.BAD_REQUEST})", advice)


def of_document(status: int, body: Mapping[str, Any] | None, location: str | None) -> Finding:
    """Return the finding for an answer to `GET /ws/config` other than the discovery document."""
    if status == _OK:
        kind = "a page or a file" if body is None else "other JSON"
        return Finding(f"The answer is {kind}, not the discovery document.", _NOT_OURS)
    finding = of_refusal(status, body or {})
    if status in _REDIRECTS and location:
        return Finding(f"It redirects to {shown(location)} ({status}).", finding.advice)
    return finding


def of_clock(seconds: float) -> Finding | None:
    """Return the finding for a server clock that is ahead by `seconds`; None if it is fine."""
    if not _is_off(seconds):
        return None
    side = "ahead of" if seconds > 0 else "behind"
    return Finding(
        f"The server's clock is {abs(seconds):.0f} s {side} this one.",
        "Set both from a time server (timedatectl): beyond 10 s tokens are refused.",
    )


def _is_off(seconds: float | None) -> bool:
    return seconds is not None and abs(seconds) > CLOCK_SECONDS


def of_dial(error: Exception, host: str, port: int) -> Finding:
    """Return the finding for a failed connection to an address, with TLS or without."""
    place = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return Finding(f"The name {host} is not known.", "Check the spelling of the host, and DNS.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Finding(
            f"The certificate of {place} is not valid: {error.verify_message}.",
            "Serve a valid certificate with its chain; for a private authority set "
            "SSL_CERT_FILE here.",
        )
    if isinstance(error, ssl.SSLError):
        advice = f"Check that {place} speaks TLS; if it does not, write ws:// instead of wss://."
        return Finding(f"TLS fails: {error.reason or 'no answer'}.", advice)
    if isinstance(error, ConnectionRefusedError):
        advice = "Start the server, or correct the port; in a container it must listen on 0.0.0.0."
        return Finding(f"Connection refused: no server listens on {place}.", advice)
    if isinstance(error, TimeoutError):
        return Finding(f"{place} does not answer.", "Check firewalls and the route to it.")
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Finding(f"{place} cannot be reached: {why}.", "Check the network and firewalls.")


def of_no_answer(text: str) -> Finding:
    """Return the finding for a request without an answer; `text` is the reason."""
    return Finding(
        f"There is no answer: {shown(text)}.",
        "Check scheme (ws or wss) and port, and that no proxy closes the connection.",
    )


def of_verdict(verdict: object, reason: object) -> Finding:
    """Return the finding for a resume with another verdict than `exact`."""
    text = f"{shown(str(verdict))} ({shown(str(reason))})" if reason else shown(str(verdict))
    return Finding(
        f"The session was not resumed: {text}.",
        "Route each client to the same server: sessions are in the memory of one process.",
    )


def shown(text: str) -> str:
    """Return a text from outside in one line, without control characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"
