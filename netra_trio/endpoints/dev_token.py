"""`POST /ws/dev-token`: a token for a developer, in development and on this machine only."""

import ipaddress
import re
from typing import Any

from netra_trio.auth.identity import USER_ID_CHARACTERS, is_user_id
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_origin
from netra_trio.endpoints.paths import no_such_path
from netra_trio.endpoints.request import Request
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem

DEV_TOKEN_SECONDS = 24 * 3600  # a working day with one token

_LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


async def dev_token(call: Call) -> Answer:
    """Sign a token for the user of the body.

    Raises:
        Refused: BAD_REQUEST; with status 404 outside development, for a peer that is not on this
            machine and for a foreign page, so that none of them learns that the path exists.
    """
    settings, verifier = call.services.settings, call.services.verifier
    is_offered = settings.environment == "development" and verifier.can_sign
    if not is_offered or not _is_local(call.request):
        raise no_such_path()
    if call.request.origins:
        try:
            check_origin(call.request, settings)
        except Refused:
            raise no_such_path() from None
    user = _user(await call.read_json())
    expires_at = call.services.wall_clock() + DEV_TOKEN_SECONDS
    return Answer(200, {"token": verifier.sign(user, expires_at=expires_at)})


def _is_local(request: Request) -> bool:
    """Return whether both the peer's address and the Host are this machine's loopback.

    The Host is checked against DNS rebinding: a foreign page can point its own name at 127.0.0.1,
    but its requests then carry that name.
    """
    try:
        address = ipaddress.ip_address(request.peer)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    hosts = request.headers.get("host", [])
    return (
        address.is_loopback and len(hosts) == 1 and _LOOPBACK_HOST.fullmatch(hosts[0]) is not None
    )


def _user(body: Any) -> str:
    user = body.get("user") if isinstance(body, dict) else None
    if is_user_id(user):
        return str(user)
    text = f"$.user: expected a printable string of 1 to {USER_ID_CHARACTERS} characters"
    raise Refused(problem(ErrorCode.BAD_REQUEST, text, help='Send {"user": "alice"}.'))
