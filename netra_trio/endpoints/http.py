"""The HTTP side: which endpoint answers which path and method.

router = Router(entrance, page=read_page(), overview=overview)
await router.handle(scope, receive, send)
"""

from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Any

import trio

from netra_trio.endpoints.admin import AdminEndpoint
from netra_trio.endpoints.answer import Answer, problem_answer, refusal
from netra_trio.endpoints.call import Call, Endpoint
from netra_trio.endpoints.chat_page import Asset, page_file
from netra_trio.endpoints.checks import check_origin
from netra_trio.endpoints.cors import cors_headers
from netra_trio.endpoints.dev_token import dev_token
from netra_trio.endpoints.discovery import config
from netra_trio.endpoints.doors.table import open_doors
from netra_trio.endpoints.downloads import download
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.health import health
from netra_trio.endpoints.overview import Overview
from netra_trio.endpoints.paths import (
    ADMIN_ACTIONS,
    ADMIN_PAGE,
    CONFIG,
    DEV_TOKEN,
    ENDPOINTS,
    FILE,
    FILES,
    HEALTH,
    METRICS,
    PAGE,
    ROOM,
    STATS,
    TICKET,
    WEBSOCKET_PATHS,
    endpoint_of,
    no_such_path,
)
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.responder import Responder
from netra_trio.endpoints.rooms import publish
from netra_trio.endpoints.statistics import metrics, stats
from netra_trio.endpoints.tickets import ticket
from netra_trio.endpoints.uploads import Uploads
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.telemetry.events import RequestAnswered
from netra_trio.telemetry.prometheus import Exposition
from netra_trio.transports.asgi import EXTENSION, Receive, Send
from netra_trio.transports.handshake import UPGRADE_REQUIRED

SERVER = "*"  # the target of an OPTIONS request for the whole server (RFC 9112, 3.2.4)


class Router:
    """Answers HTTP requests with the endpoint of their path and method.

    Args:
        entrance: Admits connections to the node, whose services are passed to the endpoints.
        page: The files of the chat page, by path.
        overview: Reports on the server.
    """

    def __init__(
        self, entrance: Entrance, *, page: Mapping[str, Asset], overview: Overview
    ) -> None:
        node = entrance.node
        self._services = node.services
        self._page = page
        self._page_file: Endpoint = partial(page_file, page)
        functions: dict[str, Endpoint] = {
            PAGE: self._page_file,
            CONFIG: config,
            TICKET: partial(ticket, node.capacity.check_room),
            FILES: Uploads(node.capacity.check_room).upload,
            FILE: download,
            HEALTH: partial(health, overview),
            STATS: partial(stats, overview),
            METRICS: partial(metrics, overview, Exposition()),
            DEV_TOKEN: dev_token,
            ROOM: partial(publish, node.capacity.check_room),
            ADMIN_PAGE: self._page_file,
            **dict.fromkeys(ADMIN_ACTIONS, AdminEndpoint(node.admin.actions).act),
        }
        self._routes: dict[str, dict[str, Endpoint]] = {
            path: dict.fromkeys(methods, functions[path]) for path, methods in ENDPOINTS.items()
        }
        self._in_progress: set[trio.CancelScope] = set()  # one for each request
        self._idle = trio.Event()  # set when there is none any more
        self._doors = open_doors(node.services.settings.doors, entrance)
        self._routes |= {path: dict(methods) for path, methods in self._doors.items()}

    async def handle(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request; the arguments are those of an ASGI call."""
        if not self._in_progress:
            self._idle = trio.Event()
        with trio.CancelScope() as request:
            self._in_progress.add(request)
            try:
                await self._handle(scope, receive, send)
            finally:
                self._in_progress.remove(request)
                if not self._in_progress:
                    self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request is in progress. Cancelling is safe."""
        while self._in_progress:
            await self._idle.wait()

    def cut(self) -> None:
        """Cancel the requests that are in progress."""
        for request in self._in_progress:
            request.cancel()

    async def _handle(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        services = self._services
        since, note = trio.current_time(), services.instruments.note
        request = Request.of_scope(scope)
        headers = cors_headers(request, services.settings)
        # Our own host bounds a send by the progress of the peer, which is kept if it is slow.
        is_bounded = EXTENSION in scope.get("extensions", {})
        send_timeout = inf if is_bounded else services.settings.send_timeout_ms / 1000
        responder = Responder(receive, send, headers, send_timeout)
        call = Call(scope["method"].upper(), scope["path"], request, services, receive, responder)
        answer: Answer | None
        try:
            answer = await self._answer(call)
        except Refused as refused:
            answer = refusal(refused.problem, services.wall_clock(), request, call.path, note)
        # None: the client has left, or it got a stream, a download or the answer of a long-poll,
        # whose duration is that of a run, a transfer or a wait.
        if answer is not None:
            await responder.answer(answer)
            note(RequestAnswered(self._endpoint_name(call.path), trio.current_time() - since))

    def _endpoint_name(self, path: str) -> str:
        """Return the metrics' label of a path: a client may ask for any path."""
        endpoint = endpoint_of(path, self._doors)
        if endpoint in self._routes:
            return endpoint
        return "page" if path in self._page else "other"

    async def _answer(self, call: Call) -> Answer | None:
        page = {"GET": self._page_file} if call.path in self._page else {}
        methods = self._routes.get(endpoint_of(call.path, self._doors), page)
        # An endpoint with POST checks the origin itself, in its order among the other checks.
        if call.method == "OPTIONS" or (call.method == "POST" and "POST" not in methods):
            self._check_origin(call)
        if call.path == SERVER and call.method == "OPTIONS":
            return Answer(204, headers={"allow": "GET, HEAD, OPTIONS, POST"})
        if call.path in WEBSOCKET_PATHS and call.method != "OPTIONS":
            text = "This is a WebSocket endpoint: open it with an upgrade."
            return self._problem(text, UPGRADE_REQUIRED, {"connection": "upgrade"})
        if not methods and call.path not in WEBSOCKET_PATHS:
            raise no_such_path(self._doors)
        allowed = {*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}
        allow = {"allow": ", ".join(sorted(allowed))}
        if call.method == "OPTIONS":
            return Answer(204, headers=allow)
        if call.method not in allowed:
            text = f"The method {call.method[:20]!r} is not for this path."
            return self._problem(text, 405, allow)
        answer = await methods["GET" if call.method == "HEAD" else call.method](call)
        if answer is not None:
            answer.headers.setdefault("cache-control", "no-store")
        return answer

    def _problem(self, text: str, status: int, headers: dict[str, str]) -> Answer:
        fault = problem(ErrorCode.BAD_REQUEST, text, status=status)
        answer = problem_answer(fault, self._services.wall_clock())
        answer.headers.update(headers)
        return answer

    def _check_origin(self, call: Call) -> None:
        """Reject a foreign page; the path of the development token looks as if it did not exist."""
        if not call.request.origins:
            return
        try:
            check_origin(call.request, self._services.settings)
        except Refused:
            if call.path == DEV_TOKEN:
                raise no_such_path(self._doors) from None
            raise
