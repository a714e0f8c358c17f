"""HTTP/1.1 of Hypercorn, with what RFC 9112 asks of a request's framing: it replaces `H11Protocol`.

Empty lines before a request are ignored (2.2), a target may be in absolute form (3.2.2), and a
request with both Content-Length and Transfer-Encoding is the last one of its connection (6.1).
"""

import h11
from hypercorn.events import Event as HostEvent
from hypercorn.events import RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

from netra_trio.server.request_target import LINE_END, to_origin_form


class HostHttp1(H11Protocol):
    """The requests of one HTTP/1.1 connection."""

    async def handle(self, event: HostEvent) -> None:
        """Handle bytes of the client, or the end of the connection."""
        if isinstance(event, RawData) and event.data and self._is_between_requests():
            data = event.data.lstrip(LINE_END)
            if not data:
                return
            event = RawData(data=data)
        await super().handle(event)

    def _is_between_requests(self) -> bool:
        connection = self.connection
        if not isinstance(connection, h11.Connection):
            return False  # a WebSocket
        return connection.their_state is h11.IDLE and not connection.trailing_data[0]

    async def _create_stream(self, request: h11.Request) -> None:
        target, headers = to_origin_form(request.target, list(request.headers))
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # A proxy in front may have seen another end of the body: nothing may follow it. This
            # is how Hypercorn is told to answer with `Connection: close`.
            self.keep_alive_requests = self.config.keep_alive_max_requests
        request = h11.Request(
            method=request.method,
            target=target,
            headers=headers,
            http_version=request.http_version,
        )
        await super()._create_stream(request)

    async def _maybe_recycle(self) -> None:
        connection = self.connection
        is_done = connection.our_state is h11.DONE and connection.their_state is h11.DONE
        if self.context.terminated.is_set() or not is_done:
            await super()._maybe_recycle()
            return
        await self._close_stream()
        # A fresh connection is in the state of a recycled one, and takes bytes that were stripped.
        data, is_over = connection.trailing_data
        self.connection = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )
        if data := data.lstrip(LINE_END):
            self.connection.receive_data(data)
        if is_over:
            self.connection.receive_data(b"")
        await self.can_read.set()
        await self.send(Updated(idle=True))
