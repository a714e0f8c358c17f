"""One socket in a task of its own: from the upgrade request over the first frame to its end.

    line = Line(dialer.open(url, headers=headers, subprotocols=SUBPROTOCOLS), user, wall_clock)
    nursery.start_soon(line.run)
    await line.settled.wait()      # line.connection, or line.failure

A task of its own, because a line may take the place of another one that is still open.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from netra_trio.client.connection import Connection
from netra_trio.client.decoder import FrameDecoder
from netra_trio.client.event import InvalidEvent
from netra_trio.client.frames import HELLO, Hello
from netra_trio.client.sockets import NoAnswer, OpeningRefused, Socket, SocketClosed
from netra_trio.protocol.codes import ABNORMAL, CloseCode

BINARY_SUBPROTOCOL = "netra.v2"  # has binary frames
SUBPROTOCOLS = (BINARY_SUBPROTOCOL, "netra.v1")  # tell the server that the client acknowledges
HELLO_SECONDS = 10.0  # for the first frame, which the server sends at once
CLOSING_SECONDS = 2.0  # for the close frames of one that is left; loopback takes 1 ms


class LineUser(Protocol):
    """Decides what becomes of a line."""

    def accept(self, line: "Line", socket: Socket, hello: Hello) -> Connection | None:
        """Return the connection of a line whose first frame came; None if it is not wanted."""
        ...

    async def left(self, line: "Line") -> None:
        """Handle the end of a line's connection; the socket exists until it returns."""
        ...


class Line:
    """A socket.

    Args:
        opening: Opens it.
        user: Decides what becomes of the line.
        wall_clock: Returns Unix seconds.

    Attributes:
        decoder: Decodes the frames of the socket.
        connection: The connection; None before the first frame was accepted.
        failure: Why there is no connection; None if the socket was closed before the first frame.
        code: The close code.
        is_declined: Whether the first frame came, and the connection is not wanted.
        successor: The line that is to take the place of this one, from its upgrade request on.
        may_be_taken_over: Whether an attempt failed which the server may have accepted.
        opened_at: When the first frame came, on Trio's clock.
        settled: Set when there is a connection, or will be none.
        ended: Set when the socket is closed, or another one has taken its place.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Socket],
        user: LineUser,
        wall_clock: Callable[[], float],
    ) -> None:
        self._opening = opening
        self._user = user
        self._scope = trio.CancelScope()
        self.decoder = FrameDecoder(wall_clock)
        self.connection: Connection | None = None
        self.failure: OpeningRefused | NoAnswer | None = None
        self.code: int = ABNORMAL
        self.is_declined = False
        self.successor: Line | None = None
        self.may_be_taken_over = False
        self.opened_at = 0.0
        self.settled = trio.Event()
        self.ended = trio.Event()

    @property
    def is_established(self) -> bool:
        """Whether a connection was made of it."""
        return self.connection is not None

    async def run(self) -> None:
        """Open the socket and use it to its end; raises nothing."""
        try:
            with self._scope:
                async with self._opening as socket:
                    # An error that is raised here would be wrapped by the nursery of a dialer.
                    await self._use(socket)
        except (OpeningRefused, NoAnswer) as failure:
            self.failure = failure
        self.settled.set()
        self.ended.set()

    def drop(self) -> None:
        """End it without a close frame, whatever it is doing."""
        self._scope.cancel()

    async def _use(self, socket: Socket) -> None:
        with trio.move_on_after(HELLO_SECONDS) as timeout:
            try:
                frame = await socket.receive()
            except SocketClosed as closed:
                self.code = closed.code
                return
        if timeout.cancelled_caught:
            self.failure = NoAnswer(f"no {HELLO} within {HELLO_SECONDS:g} s")
            return
        try:
            hello = Hello.parse(self.decoder.decode(frame))
        except InvalidEvent as fault:
            known = " or ".join(SUBPROTOCOLS)
            self.failure = NoAnswer(f"this is not a server of {known}: {fault}")
            return
        self.opened_at = trio.current_time()
        self.connection = connection = self._user.accept(self, socket, hello)
        self.is_declined = connection is None
        self.settled.set()
        if connection is not None:
            try:
                self.code = await connection.run()
            finally:
                await self._user.left(self)
            if not connection.is_replaced:
                return
        with trio.move_on_after(CLOSING_SECONDS):
            await socket.close(CloseCode.NORMAL)
