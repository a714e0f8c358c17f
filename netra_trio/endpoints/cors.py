"""CORS headers: the pages that may read an answer are those that may open a WebSocket."""

from netra_trio.config.settings import Settings
from netra_trio.endpoints.checks import check_origin
from netra_trio.endpoints.request import Request
from netra_trio.protocol.problem import Refused

CORS_SECONDS = 600  # that a browser may cache a pre-flight; every browser allows as much


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
        "access-control-allow-headers": "authorization, content-type, last-event-id",
        "access-control-expose-headers": "retry-after",
        "access-control-max-age": str(CORS_SECONDS),
        "vary": "Origin",
    }
