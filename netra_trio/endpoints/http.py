"""The HTTP side: the chat page, discovery, tickets, health, the development token, and CORS.

Each endpoint is an async function of a `Call` in `ENDPOINTS`; what it returns is sent as JSON, or
as the bytes of a file.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from typing import Any

import orjson
import trio
from attrs import field, frozen

from netra_trio.auth.identity import USER_ID_CHARACTERS, is_user_id
from netra_trio.auth.tickets import TICKET_SECONDS
from netra_trio.config.capabilities import document
from netra_trio.endpoints.chat_page import Asset, content_security_policy
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.upgrade import (
    check_administrator,
    check_metrics_token,
    check_origin,
    check_ticket_request,
)
from netra_trio.errors import StoreUnavailable
from netra_trio.node.node import Node
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, Refused, http_body, problem
from netra_trio.telemetry.events import OpeningRefused, RequestAnswered, TelemetryEvent
from netra_trio.telemetry.prometheus import CONTENT_TYPE, Exposition
from netra_trio.telemetry.stats import document as document_of
from netra_trio.transports.asgi import Receive, Send
from netra_trio.transports.handshake import UPGRADE_REQUIRED

BODY_BYTES = 16 * 1024  # of a request: a user id or nothing is all that is expected
BODY_SECONDS = 10.0  # for a body to come in, as for the head
CHECK_SECONDS = 2.0  # for a dependency to answer a health check
DEV_TOKEN_SECONDS = 24 * 3600  # a day's work with one token
CORS_SECONDS = 600  # a browser may remember a pre-flight: the least that browsers cap it at

DEV_TOKEN = "/ws/dev-token"  # noqa: S105 - a path; outside development it is not told of

_LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


@frozen
class Call:
    """One HTTP request.

    Attributes:
        method: Its method, in upper case.
        path: Its path, decoded.
        node: The server.
        receive: The ASGI call's receive, for the body.
        page: The files of the chat page, by path.
        exposition: The figures for Prometheus.
    """

    method: str
    path: str
    request: Request
    node: Node
    receive: Receive
    page: Mapping[str, Asset]
    exposition: Exposition


@frozen
class Answer:
    """An HTTP answer with a JSON body, with the bytes of a file, or with nothing.

    Attributes:
        body: What is sent as JSON.
        content: What is sent as it is; `headers` then have its Content-Type.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(factory=dict)
    content: bytes | None = None


Endpoint = Callable[[Call], Awaitable[Answer]]


async def page(call: Call) -> Answer:
    """Give a file of the chat page, or say that the browser has it already."""
    asset = call.page[call.path]
    hosts = call.request.headers.get("host", [])
    headers = {
        "cache-control": asset.cache_control,
        "content-security-policy": content_security_policy(hosts[0] if len(hosts) == 1 else None),
        "cross-origin-opener-policy": "same-origin",
        "etag": asset.etag,
        "referrer-policy": "no-referrer",
    }
    if asset.status == 200 and _has_etag(call.request, asset.etag):  # noqa: PLR2004 - HTTP's own
        return Answer(304, headers=headers)
    return Answer(
        asset.status,
        headers={**headers, "content-type": asset.media_type},
        content=asset.content,
    )


def _has_etag(request: Request, etag: str) -> bool:
    known = ",".join(request.headers.get("if-none-match", []))
    # A proxy that compresses makes the mark a weak one; for this comparison that is the same.
    return any(part.strip().removeprefix("W/") in {etag, "*"} for part in known.split(","))


async def config(call: Call) -> Answer:
    """Tell what the server can do and where: service discovery."""
    return Answer(200, document(call.node.services.settings, call.node.services.wall_clock()))


async def ticket(call: Call) -> Answer:
    """Give a ticket for a token, so that no token has to be in a URL."""
    now = trio.current_time()
    identity = await check_ticket_request(call.request, call.node, now=now)
    issued = call.node.services.tickets.issue(identity, now)
    return Answer(200, {"ticket": issued, "expires_in": TICKET_SECONDS})


async def health(call: Call) -> Answer:
    """Tell whether the server and what it depends on can answer."""
    checks = {"store": await _check_store(call.node)}
    keys = call.node.services.verifier.is_key_server_available
    if keys is not None:
        checks["keys"] = "ok" if keys else "unavailable"
    draining = call.node.capacity.is_draining
    is_well = all(outcome == "ok" for outcome in checks.values())
    status = "draining" if draining else "healthy" if is_well else "degraded"
    return Answer(503 if draining else 200, {"status": status, "checks": checks})


async def _check_store(node: Node) -> str:
    store = "ok"
    with trio.move_on_after(CHECK_SECONDS) as patience:
        try:
            await node.services.store.check()
        except StoreUnavailable:
            store = "unavailable"
    if patience.cancelled_caught:
        store = "no answer"
    return store


async def dev_token(call: Call) -> Answer:
    """Give a token to a developer on this very machine; elsewhere there is no such path."""
    settings = call.node.services.settings
    is_offered = settings.environment == "development" and call.node.services.verifier.can_sign
    if not is_offered or not _is_local(call.request):
        raise _no_such_path()
    if call.request.origins:
        try:
            check_origin(call.request, settings)
        except Refused:
            raise _no_such_path() from None
    user = _user(await _read_json(call.receive))
    expires_at = call.node.services.wall_clock() + DEV_TOKEN_SECONDS
    return Answer(200, {"token": call.node.services.verifier.sign(user, expires_at=expires_at)})


async def stats(call: Call) -> Answer:
    """Give an administrator the figures, and the users with the most connections."""
    await check_administrator(call.request, call.node.services, now=trio.current_time())
    node = call.node
    metrics = document_of(node.services.instruments.metrics, node.largest_users())
    return Answer(200, metrics, {"cache-control": "no-store"})


async def metrics(call: Call) -> Answer:
    """Give Prometheus the figures."""
    check_metrics_token(call.request, call.node.services.settings.metrics_token)
    headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    return Answer(200, headers=headers, content=call.exposition.text())


ENDPOINTS: dict[str, dict[str, Endpoint]] = {
    "/": {"GET": page},
    "/ws/config": {"GET": config},
    "/ws/ticket": {"POST": ticket},
    "/ws/health": {"GET": health},
    "/ws/stats": {"GET": stats},
    "/metrics": {"GET": metrics},
    DEV_TOKEN: {"POST": dev_token},
}
"""The endpoints by path and method; HEAD follows GET, OPTIONS is answered for each."""

WEBSOCKET_PATHS = frozenset({"/ws", "/ws/"})


def check_websocket_path(path: str) -> None:
    """Check that a WebSocket may be opened at this path.

    Raises:
        Refused: BAD_REQUEST, with status 404.
    """
    if path not in WEBSOCKET_PATHS:
        raise _no_such_path()


async def handle(
    scope: Mapping[str, Any],
    receive: Receive,
    send: Send,
    node: Node,
    *,
    files: Mapping[str, Asset],
    exposition: Exposition,
) -> None:
    """Answer one HTTP request.

    Args:
        scope: Of ASGI, as `receive` and `send` are.
        receive: Gives the body.
        send: Takes the answer.
        node: The server.
        files: Those of the chat page.
        exposition: The figures for Prometheus.
    """
    since, note = trio.current_time(), node.services.instruments.note
    request = Request.of_scope(scope)
    call = Call(scope["method"].upper(), scope["path"], request, node, receive, files, exposition)
    try:
        answer = await _answer(call)
    except Refused as refused:
        answer = refusal(refused.problem, node.services.wall_clock(), call.request, call.path, note)
    await send_answer(send, "http", answer, cors_headers(call.request, node))
    note(RequestAnswered(_endpoint_of(call), trio.current_time() - since))


def _endpoint_of(call: Call) -> str:
    """Return what the figures call a path: a client may ask for any."""
    if call.path in ENDPOINTS:
        return call.path
    return "page" if call.path in call.page else "other"


async def _answer(call: Call) -> Answer:
    methods = ENDPOINTS.get(call.path) or ({"GET": page} if call.path in call.page else {})
    # A POST's endpoint looks at the origin itself, in its place among the other checks.
    if call.method == "OPTIONS" or (call.method == "POST" and "POST" not in methods):
        _check_foreign(call)
    if call.path in WEBSOCKET_PATHS and call.method != "OPTIONS":
        text = "This is a WebSocket endpoint: open it with an upgrade."
        headers = {"upgrade": "websocket", "connection": "upgrade"}
        return Answer(426, _body(problem(ErrorCode.BAD_REQUEST, text), call.node), headers)
    if not methods and call.path not in WEBSOCKET_PATHS:
        raise _no_such_path()
    allowed = {*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}
    if call.method == "OPTIONS":
        return Answer(204, headers={"allow": ", ".join(sorted(allowed))})
    if call.method not in allowed:
        text = f"The method {call.method[:20]!r} is not for this path."
        headers = {"allow": ", ".join(sorted(allowed))}
        return Answer(405, _body(problem(ErrorCode.BAD_REQUEST, text), call.node), headers)
    answer = await methods["GET" if call.method == "HEAD" else call.method](call)
    answer.headers.setdefault("cache-control", "no-store")
    return answer


def _check_foreign(call: Call) -> None:
    """Refuse a foreign page; the development token does not even say that it is there."""
    if not call.request.origins:
        return
    try:
        check_origin(call.request, call.node.services.settings)
    except Refused:
        if call.path == DEV_TOKEN:
            raise _no_such_path() from None
        raise


def cors_headers(request: Request, node: Node) -> dict[str, str]:
    """Return the headers that let an allowed page read the answer; none for a foreign one."""
    if not request.origins or not node.services.settings.enable_cors:
        return {}
    try:
        check_origin(request, node.services.settings)
    except Refused:
        return {"vary": "Origin"}
    return {
        "access-control-allow-origin": request.origins[0],
        "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-expose-headers": "retry-after",
        "access-control-max-age": str(CORS_SECONDS),
        "vary": "Origin",
    }


def refusal(
    fault: Problem,
    now: float,
    request: Request,
    path: str,
    note: Callable[[TelemetryEvent], None],
    *,
    upgrade: bool = False,
) -> Answer:
    """Return the answer that refuses a request, and tell of it; `now` is Unix seconds."""
    note(
        OpeningRefused(
            path=path,
            status=fault.status,
            code=fault.code,
            error=fault.error,
            origin=request.origins[0][:100] if request.origins else None,
            peer=request.peer,
            upgrade=upgrade,
        )
    )
    headers = {}
    if fault.retry_after_ms is not None:
        headers["retry-after"] = str(ceil(fault.retry_after_ms / 1000))
    if fault.status == 401:  # noqa: PLR2004 - HTTP's own number
        headers["www-authenticate"] = "Bearer"
    if fault.status == UPGRADE_REQUIRED:
        headers |= {"upgrade": "websocket", "sec-websocket-version": "13"}
    return Answer(fault.status, http_body(fault, now), headers)


async def send_answer(
    send: Send, kind: str, answer: Answer, more_headers: Mapping[str, str] | None = None
) -> None:
    """Send an answer; `kind` is `http`, or `websocket.http` for a refused upgrade."""
    body = orjson.dumps(answer.body) if answer.content is None else answer.content
    headers = {**answer.headers, **(more_headers or {}), "x-content-type-options": "nosniff"}
    if answer.content is None and answer.body is None:
        body = b""
    else:
        headers = {"content-type": "application/json", **headers, "content-length": str(len(body))}
    await send(
        {
            "type": f"{kind}.response.start",
            "status": answer.status,
            "headers": [
                (name.encode(), value.encode("latin-1")) for name, value in headers.items()
            ],
        }
    )
    await send({"type": f"{kind}.response.body", "body": body})


def _body(fault: Problem, node: Node) -> dict[str, Any]:
    return http_body(fault, node.services.wall_clock())


def _no_such_path() -> Refused:
    text = "There is nothing at this path."
    known = ", ".join(["/ws", *(path for path in ENDPOINTS if path != DEV_TOKEN)])
    return Refused(problem(ErrorCode.BAD_REQUEST, text, status=404, help=f"There are: {known}."))


def _is_local(request: Request) -> bool:
    """Whether both the peer and the name it used are this machine's loopback.

    The name matters: a foreign page can point its own name at 127.0.0.1, but not name itself so.
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


async def _read_json(receive: Receive) -> Any:
    body = b""
    with trio.move_on_after(BODY_SECONDS) as patience:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY_BYTES:
                text = f"The body has more than {BODY_BYTES} bytes."
                raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=413))
    if patience.cancelled_caught:
        text = f"The body did not come within {BODY_SECONDS:g} s."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=408))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refused(problem(ErrorCode.BAD_REQUEST, "The body is not JSON.")) from None


def _user(body: Any) -> str:
    user = body.get("user") if isinstance(body, dict) else None
    if is_user_id(user):
        return str(user)
    text = f"$.user: expected a printable string of 1 to {USER_ID_CHARACTERS} characters"
    raise Refused(problem(ErrorCode.BAD_REQUEST, text, help='Send {"user": "alice"}.'))
