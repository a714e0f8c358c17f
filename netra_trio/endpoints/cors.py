"""CORS headers: the pages that may read an answer are those that may open a WebSocket."""

import re

from netra_trio.config.settings import Settings
from netra_trio.endpoints.checks import check_origin
from netra_trio.endpoints.request import Request
from netra_trio.protocol.problem import Refused

CORS_SECONDS = 600  # that a browser may cache a pre-flight; every browser allows as much
REQUESTED_HEADERS = 32  # of a pre-flight that are allowed: OpenAI's client for browsers sends ten

_HEADERS = ("authorization", "content-type", "content-disposition", "last-event-id")
_EXPOSED = ("retry-after", "x-request-id", "x-vercel-ai-ui-message-stream")  # the first always
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110, 5.6.2


def cors_headers(request: Request, settings: Settings) -> dict[str, str]:
    """Return the headers that let an allowed page read the answer; none for a foreign one."""
    if not request.origins or not settings.enable_cors:
        return {}
    try:
        check_origin(request, settings)
    except Refused:
        return {"vary": "Origin"}
    return {
        "access-control-allow-origin": request.origins[0],
        "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
        "access-control-allow-headers": ", ".join(_allowed(request, settings)),
        "access-control-expose-headers": ", ".join(_EXPOSED if settings.doors else _EXPOSED[:1]),
        "access-control-max-age": str(CORS_SECONDS),
        "vary": "Origin",
    }


def _allowed(request: Request, settings: Settings) -> dict[str, None]:
    """Return the headers that a page may send; with doors, also those that it asks for.

    Clients of other protocols send headers of their own. The credential is a header that only the
    page itself can set, so they give a page no more than it has.
    """
    requested = request.headers.get("access-control-request-headers", ()) if settings.doors else ()
    names = [name.strip().lower() for value in requested for name in value.split(",")]
    valid = [name for name in names[:REQUESTED_HEADERS] if _NAME.fullmatch(name)]
    return dict.fromkeys((*_HEADERS, *valid))
