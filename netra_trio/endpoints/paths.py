"""The paths that the server answers, and the error for every other one."""

from collections.abc import Collection, Mapping

from netra_trio.protocol.admin import AdminAction
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem

CONFIG = "/ws/config"
TICKET = "/ws/ticket"
HEALTH = "/ws/health"
STATS = "/ws/stats"
METRICS = "/metrics"
DEV_TOKEN = "/ws/dev-token"  # noqa: S105 - a path
PAGE = "/"
ROOM_PREFIX = "/ws/rooms/"
ROOM = ROOM_PREFIX + "{room}"
FILES = "/ws/files"
FILE = "/ws/files/{file_id}"
ADMIN_PAGE = "/admin"
ADMIN_ACTIONS: Mapping[str, AdminAction] = {
    "/ws/admin/runs/{run_id}/stop": AdminAction.STOP_RUN,
    "/ws/admin/sessions/{session_id}/end": AdminAction.END_SESSION,
    "/ws/admin/users/{user_id}/disable": AdminAction.DISABLE_USER,
    "/ws/admin/nodes/{node_id}/drain": AdminAction.DRAIN_NODE,
}
"""The actions of administrators, by the patterns of their paths."""

ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    PAGE: ("GET",),
    CONFIG: ("GET",),
    TICKET: ("POST",),
    HEALTH: ("GET",),
    STATS: ("GET",),
    METRICS: ("GET",),
    DEV_TOKEN: ("POST",),
    ROOM: ("POST",),
    FILES: ("POST",),
    FILE: ("GET",),
    ADMIN_PAGE: ("GET",),
    **dict.fromkeys(ADMIN_ACTIONS, ("POST",)),
}
"""The HTTP endpoints and their methods; HEAD follows GET, OPTIONS is answered for each.

A key with braces is a pattern: `endpoint_of` returns it for each path that matches.
"""

WEBSOCKET_PATHS = frozenset({"/ws", "/ws/"})


def endpoint_of(path: str, doors: Collection[str] = ()) -> str:
    """Return the key of a path in `ENDPOINTS`; the path itself if it is not there.

    Args:
        path: The path, decoded.
        doors: The paths of doors, which are keys too.
    """
    room = path.removeprefix(ROOM_PREFIX)
    if room != path:
        return ROOM if room and "/" not in room else path
    patterns = (FILE, *ADMIN_ACTIONS, *(door for door in doors if "{" in door))
    return next((pattern for pattern in patterns if target_of(path, pattern)), path)


def target_of(path: str, pattern: str) -> str | None:
    """Return the id in the path of an action; None if the path does not match.

    The path is decoded, so the id of a user may have slashes. A pattern has one id.
    """
    before, _, after = pattern.partition("{")
    end = after.partition("}")[2]
    target = path[len(before) : len(path) - len(end)]
    return target if target and path == before + target + end else None


def check_websocket_path(path: str) -> None:
    """Check that a WebSocket may be opened at this path.

    Raises:
        Refused: BAD_REQUEST, with status 404.
    """
    if path not in WEBSOCKET_PATHS:
        raise no_such_path()


def no_such_path(doors: Collection[str] = ()) -> Refused:
    """Return the error for a path without an endpoint; `doors` are the paths of doors.

    Its help does not list the development token's path: outside development it does not exist.
    """
    text = "There is nothing at this path."
    known = ", ".join(["/ws", *(path for path in ENDPOINTS if path != DEV_TOKEN), *doors])
    return Refused(problem(ErrorCode.BAD_REQUEST, text, status=404, help=f"There are: {known}."))
