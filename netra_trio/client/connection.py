"""One open connection: a nursery with a reader, a writer, a watchdog and a token renewal.

    connection = Connection(socket, session, tokens, replace)
    close_code = await connection.run()

The reader never waits for another task: it hands frames to the `ClientSession`, whose joints to the
other tasks are memory channels. A fifth task replaces the connection when its server drains.
"""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.client.errors import TokenFailed
from netra_trio.client.event import InvalidEvent
from netra_trio.client.session import ClientSession
from netra_trio.client.sockets import NoAnswer, Socket, SocketClosed
from netra_trio.client.tokens import Tokens
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.protocol.keepalive import MISSED_INTERVALS

LATE_SECONDS = 1.0  # a watchdog that wakes up later than this was itself stalled
READ_PASSES = 20  # of Trio's scheduler: one reads the socket, the others hand the frame on
TOKEN_SECONDS = 5.0  # between two calls of `get_token` while the present token is valid


class Connection:
    """A connection on which the first frame of the server was received.

    Args:
        socket: The socket.
        session: Handles the frames.
        tokens: The token.
        replace: Runs among the tasks of the connection; it opens another one when this one is about
            to be closed.

    Attributes:
        is_replaced: Whether another connection has taken its place.
    """

    def __init__(
        self,
        socket: Socket,
        session: ClientSession,
        tokens: Tokens,
        replace: Callable[[], Awaitable[None]],
    ) -> None:
        self._socket = socket
        self._session = session
        self._tokens = tokens
        self._replace = replace
        self._heard_at = trio.current_time()
        self._scope = trio.CancelScope()
        self.is_replaced = False

    async def run(self) -> int:
        """Exchange frames until the connection ends or is dropped; return the close code."""
        code = ABNORMAL
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._renew_token)
                nursery.start_soon(self._replace)
                code = await self._read()
                nursery.cancel_scope.cancel()
        return code

    def drop(self) -> None:
        """End the connection without a close frame."""
        self._scope.cancel()

    def give_way(self) -> None:
        """End the exchange of frames: from now on the session is another connection's."""
        self.is_replaced = True
        self._scope.cancel()

    async def close(self, code: int) -> None:
        """Send a close frame, and wait for the answer of the server."""
        await self._socket.close(code)

    async def _read(self) -> int:
        """Hand every frame to the session; return the close code."""
        while True:
            try:
                text = await self._socket.receive()
                if self.is_replaced:  # meanwhile; a cancellation comes at the next checkpoint only
                    return ABNORMAL
                self._heard_at = trio.current_time()
                self._session.receive(text)
            except SocketClosed as closed:
                return closed.code
            except InvalidEvent:
                return ABNORMAL  # the peer does not speak the protocol

    async def _write(self) -> None:
        """Write every frame that the session has."""
        session = self._session
        while not self.is_replaced:
            text = session.next_frame(trio.current_time())
            if text is None:
                with trio.move_on_at(session.next_at()):
                    await session.to_write.wait()
                continue
            try:
                await self._socket.send(text)
            except SocketClosed:
                return  # the reader gets the close code

    async def _watch(self) -> None:
        """Drop the connection when the server was silent for too long.

        A stall of this process is not the server's silence: frames that have arrived are read
        first, and after a late wake-up the server has the whole time again.
        """
        timeout = MISSED_INTERVALS * self._session.connection.heartbeat_ms / 1000
        while True:
            deadline = self._heard_at + timeout
            await trio.sleep_until(deadline)
            for _ in range(READ_PASSES):
                await trio.lowlevel.checkpoint()
            now = trio.current_time()
            if now - deadline > LATE_SECONDS:
                self._heard_at = now
            elif self._heard_at + timeout <= now:
                self.drop()
                return

    async def _renew_token(self) -> None:
        """Renew the token whenever the server says that it expires."""
        while self._tokens.can_renew:
            await self._session.token_expiring.wait()
            self._tokens.forget()
            try:
                self._session.authenticate(await self._tokens.get())
            except NoAnswer:
                self._session.token_expiring.notify()
            except TokenFailed:
                return  # the connection ends with its token, and the next attempt reports this
            # The new token may expire soon, or be the old one: the server says so at once.
            await trio.sleep(TOKEN_SECONDS)
