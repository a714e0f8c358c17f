"""The checks of a request, in the order of docs/protocol.md, "Opening a connection".

A rejection is raised as `Refused` and becomes an HTTP answer. A browser cannot see the answer to a
failed upgrade, so the request for a ticket passes the same checks: a page can see that answer.
"""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping

from attrs import frozen

from netra_trio.auth.identity import Identity, check_expiry, user_refusal
from netra_trio.config.settings import Settings
from netra_trio.endpoints.request import TRACE_HEADERS, Request, trace_of
from netra_trio.errors import NotStorable, StoreUnavailable
from netra_trio.ids import FileId, SessionId, UserId
from netra_trio.node.registry import ResumeRequest
from netra_trio.protocol.admin import ADMINISTRATOR
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem, store_unavailable
from netra_trio.protocol.wire_format import (
    JSON_ACKNOWLEDGING,
    SUBPROTOCOLS,
    WireFormat,
    select_format,
)
from netra_trio.services import Services

PUBLISHER = "netra:publish"  # the permission for /ws/rooms/{room}
SESSION_ID_CHARACTERS = 128  # far longer than any session id

_JWT_PROTOCOL = "jwt."
_NUMBER = re.compile(r"[0-9]{1,18}")  # fits into 64 bits


@frozen
class AcceptedUpgrade:
    """An upgrade that passed every check but the limit of its user's connections."""

    identity: Identity
    wire: WireFormat
    wanted: ResumeRequest | None
    traceparent: str | None = None

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol to select."""
        return self.wire.name


async def check_upgrade(request: Request, services: Services, *, now: float) -> AcceptedUpgrade:
    """Check an upgrade; `now` is seconds of Trio's clock.

    Raises:
        Refused: With the first fault.
    """
    wire = _check_subprotocols(request.subprotocols)
    wanted = check_resume(request.query)
    check_origin(request, services.settings)
    identity = await _identify(request, services, _credentials(request, services.settings), now)
    await check_user_exists(identity, services)
    return AcceptedUpgrade(identity, wire, wanted, trace_of(request).get(TRACE_HEADERS[0]))


async def check_administrator(request: Request, services: Services, *, now: float) -> None:
    """Check the token of an administrator in the Authorization header.

    Raises:
        Refused: AUTH_REQUIRED or INVALID_TOKEN, FORBIDDEN where the token lacks the permission,
            USER_NOT_FOUND or USER_DISABLED.
    """
    _check_has(await _check_header(request, services, now), ADMINISTRATOR)


def check_metrics_token(request: Request, token: str) -> None:
    """Check that a request has the token for the metrics.

    Raises:
        Refused: AUTH_REQUIRED or INVALID_TOKEN.
    """
    given = [value for kind, value in _bearers(request) if kind == "header"]
    if not given:
        raise _no_header()
    if len(given) > 1 or not hmac.compare_digest(given[0].encode(), token.encode()):
        text = "This is not the token that METRICS_TOKEN sets."
        raise Refused(problem(ErrorCode.INVALID_TOKEN, text, help="Send that one."))


async def check_ticket_request(request: Request, services: Services, *, now: float) -> Identity:
    """Check a request for a ticket; its credential is in the Authorization header.

    Raises:
        Refused: With the first fault.
    """
    check_origin(request, services.settings)
    return await _check_header(request, services, now)


async def check_file_request(
    request: Request, services: Services, file_id: FileId, *, now: float
) -> Identity:
    """Check a request for a file; its credential is a token in the header, or a ticket.

    Raises:
        Refused: With the first fault.
    """
    credentials = _bearers(request)
    credentials += [("ticket", ticket) for ticket in request.query.get("ticket", [])]
    if not credentials:
        text = "There is no Authorization header, and no ticket."
        raise Refused(problem(ErrorCode.AUTH_REQUIRED, text))
    if len(credentials) > 1:
        raise _too_many(credentials)
    kind, value = credentials[0]
    if kind == "ticket":
        identity = await services.tickets.check_for_file(value, file_id, now)
        check_expiry(identity.expires_at, services.wall_clock())
    else:
        identity = await services.verifier.verify(value, services.wall_clock())
    await check_user_exists(identity, services)
    return identity


async def check_caller(request: Request, services: Services, *, now: float) -> Identity:
    """Check the origin and the credential of a request at a door, not its user.

    Raises:
        Refused: With the first fault.
    """
    check_origin(request, services.settings)
    return await _identify(request, services, _credentials(request, services.settings), now)


async def check_door(
    request: Request, services: Services, *, now: float, wanted: ResumeRequest | None = None
) -> AcceptedUpgrade:
    """Check a request that opens a connection at a door; its session acknowledges.

    Args:
        request: The request.
        services: The services of the application.
        now: Seconds of Trio's clock.
        wanted: The session to resume; None for a new one.

    Raises:
        Refused: With the first fault.
    """
    identity = await check_caller(request, services, now=now)
    return await accept_caller(identity, request, services, wanted=wanted)


async def accept_caller(
    identity: Identity,
    request: Request,
    services: Services,
    *,
    wanted: ResumeRequest | None = None,
) -> AcceptedUpgrade:
    """Check the user of a request at a door, whose credential is checked.

    Raises:
        Refused: USER_NOT_FOUND, USER_DISABLED or SERVICE_UNAVAILABLE.
    """
    await check_user_exists(identity, services)
    traceparent = trace_of(request).get(TRACE_HEADERS[0])
    return AcceptedUpgrade(identity, JSON_ACKNOWLEDGING, wanted, traceparent)


async def check_permission(
    request: Request, services: Services, permission: str, *, now: float
) -> Identity:
    """Check a request as one for a ticket, and a permission of its token.

    Raises:
        Refused: With the first fault; FORBIDDEN where the token lacks the permission.
    """
    identity = await check_ticket_request(request, services, now=now)
    _check_has(identity, permission)
    return identity


def check_origin(request: Request, settings: Settings) -> None:
    """Check the Origin of a request; a request without one does not come from a page.

    Raises:
        Refused: ORIGIN_NOT_ALLOWED.
    """
    origins = request.origins
    if not origins:
        if settings.require_origin:
            _refuse_origin("There is no Origin header, and one is required here.")
        return
    if len(origins) > 1:
        _refuse_origin("There is more than one Origin header.")
    refusal = settings.origins.refusal(origins[0])
    if refusal is not None:
        _refuse_origin(refusal)


async def check_user_exists(identity: Identity, services: Services) -> None:
    """Check that the user exists and is enabled; create it where provisioning is on.

    Raises:
        Refused: USER_NOT_FOUND, USER_DISABLED or SERVICE_UNAVAILABLE.
    """
    if identity.is_anonymous:
        return
    try:
        user = await services.store.get_user(identity.user_id)
        if user is None and services.settings.auth_auto_provision:
            user = await services.store.create_user(identity.user_id)
    except StoreUnavailable:
        raise Refused(store_unavailable()) from None
    except NotStorable:
        text = "The user does not exist, and cannot be stored."
        raise Refused(problem(ErrorCode.USER_NOT_FOUND, text)) from None
    refusal = user_refusal(user)
    if refusal is not None:
        raise Refused(refusal)


def _check_subprotocols(offered: tuple[str, ...]) -> WireFormat:
    """Return the wire format that the offered subprotocols choose."""
    wire = select_format(offered)
    if wire is None:
        known = " and ".join(reversed(SUBPROTOCOLS))
        text = f"None of the offered subprotocols is known: expected {known}."
        raise Refused(problem(ErrorCode.UNSUPPORTED_SUBPROTOCOL, text))
    return wire


def check_resume(query: Mapping[str, list[str]]) -> ResumeRequest | None:
    """Return the session that a query asks to resume; None for a new one.

    Raises:
        Refused: BAD_REQUEST.
    """
    sessions, seqs = query.get("session_id", []), query.get("last_seq", [])
    if len(sessions) > 1 or len(seqs) > 1:
        raise _bad_request("session_id and last_seq may be given once each.")
    if seqs and not sessions:
        raise _bad_request("last_seq needs a session_id.")
    if seqs and not _NUMBER.fullmatch(seqs[0]):
        raise _bad_request("last_seq: expected an integer from 0.")
    if not sessions:
        return None
    if not 1 <= len(sessions[0]) <= SESSION_ID_CHARACTERS:
        raise _bad_request(f"session_id: expected 1 to {SESSION_ID_CHARACTERS} characters.")
    return ResumeRequest(SessionId(sessions[0]), int(seqs[0]) if seqs else 0)


def _credentials(request: Request, settings: Settings) -> list[tuple[str, str]]:
    """Return the kind and value of every credential in the request."""
    found = _bearers(request)
    found += [
        ("subprotocol", offered.removeprefix(_JWT_PROTOCOL))
        for offered in request.subprotocols
        if offered.startswith(_JWT_PROTOCOL)
    ]
    found += [("ticket", ticket) for ticket in request.query.get("ticket", [])]
    if settings.query_token:
        found += [("query", token) for token in request.query.get("token", [])]
    return found


def _bearers(request: Request) -> list[tuple[str, str]]:
    found = []
    for value in request.headers.get("authorization", []):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(("header", token.strip()))
    return found


async def _check_header(request: Request, services: Services, now: float) -> Identity:
    """Check a request whose credential has to be in the Authorization header, and its user."""
    credentials = _credentials(request, services.settings)
    if "header" not in {kind for kind, _ in credentials}:
        raise _no_header()
    identity = await _identify(request, services, credentials, now)
    await check_user_exists(identity, services)
    return identity


async def _identify(
    request: Request, services: Services, credentials: list[tuple[str, str]], now: float
) -> Identity:
    if not credentials:
        if not services.settings.require_auth:
            return Identity(UserId(f"anonymous-{secrets.token_hex(8)}"))
        text = "There is no token."
        if "token" in request.query:
            text = "There is no token; one in the query is not accepted here."
        raise Refused(problem(ErrorCode.AUTH_REQUIRED, text))
    if len(credentials) > 1:
        raise _too_many(credentials)
    kind, value = credentials[0]
    if kind == "ticket":
        identity = await services.tickets.redeem(value, now)
        check_expiry(identity.expires_at, services.wall_clock())
        return identity
    if kind == "subprotocol":
        value = _decode_token(value)
    return await services.verifier.verify(value, services.wall_clock())


def _check_has(identity: Identity, permission: str) -> None:
    if permission not in identity.permissions:
        text = f"The token does not have the permission {permission}."
        raise Refused(problem(ErrorCode.FORBIDDEN, text, help="Use a token that has it."))


def _decode_token(value: str) -> str:
    try:
        padded = value + "=" * (-len(value) % 4)
        return base64.b64decode(padded, altchars="-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = "The subprotocol after jwt. is not the unpadded base64url of a token."
        raise Refused(problem(ErrorCode.INVALID_TOKEN, text)) from None


def _too_many(credentials: list[tuple[str, str]]) -> Refused:
    kinds = ", ".join(kind for kind, _ in credentials)
    text = f"There is more than one credential ({kinds}); send exactly one."
    return Refused(problem(ErrorCode.INVALID_TOKEN, text))


def _refuse_origin(text: str) -> None:
    raise Refused(problem(ErrorCode.ORIGIN_NOT_ALLOWED, text))


def _no_header() -> Refused:
    return Refused(problem(ErrorCode.AUTH_REQUIRED, "There is no Authorization header."))


def _bad_request(text: str) -> Refused:
    return Refused(problem(ErrorCode.BAD_REQUEST, text))
