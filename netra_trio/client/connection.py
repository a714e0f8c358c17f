"""One open connection: a nursery with a reader, a writer, a watchdog and a token renewal.

    connection = Connection(socket, decoder, session, tokens, replace=replace, random=random)
    close_code = await connection.run()

The reader never waits for another task: it hands frames to the `ClientSession`, whose joints to the
other tasks are memory channels. A fifth task replaces the connection when its server drains.
"""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.client.decoder import FrameDecoder
from netra_trio.client.errors import TokenFailed
from netra_trio.client.event import InvalidEvent
from netra_trio.client.notifier import Notifier
from netra_trio.client.session import ClientSession
from netra_trio.client.sockets import NoAnswer, Socket, SocketClosed
from netra_trio.client.tokens import Tokens
from netra_trio.protocol.codes import ABNORMAL

LATE_SECONDS = 1.0  # a watchdog that wakes up later than this was itself stalled
READ_PASSES = 20  # of Trio's scheduler: one reads the socket, the others hand the frame on
LATE_INTERVALS = 1.2  # heartbeat intervals: a heartbeat is missing, the connection is probed
REPLY_SECONDS = 3.0  # after a frame without any answer: the connection is probed
PROBE_SECONDS = 5.0  # to answer a probe
UPLOAD_RATE = 16 * 1024  # bytes a second: a large message on a slow connection is no silence


class Connection:
    """A connection on which the first frame of the server was received.

    Args:
        socket: The socket.
        decoder: Decodes its frames.
        session: Handles the frames.
        tokens: The token.
        replace: Runs among the tasks of the connection; it opens another one when this one is about
            to be closed.
        random: Returns a number from 0 to 1.

    Attributes:
        is_replaced: Whether another connection has taken its place.
    """

    def __init__(
        self,
        socket: Socket,
        decoder: FrameDecoder,
        session: ClientSession,
        tokens: Tokens,
        *,
        replace: Callable[[], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._socket = socket
        self._decoder = decoder
        self._session = session
        self._tokens = tokens
        self._replace = replace
        self._random = random
        self._asked = Notifier()  # a frame that needs an answer was written
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
                frame = await self._socket.receive()
                if self.is_replaced:  # meanwhile; a cancellation comes at the next checkpoint only
                    return ABNORMAL
                self._heard_at = trio.current_time()
                self._session.receive(self._decoder.decode(frame), len(frame))
            except SocketClosed as closed:
                return closed.code
            except InvalidEvent:
                return ABNORMAL  # the peer does not speak the protocol

    async def _write(self) -> None:
        """Write every frame that the session has."""
        session = self._session
        while not self.is_replaced:
            frame = session.next_frame(trio.current_time())
            if frame is None:
                with trio.move_on_at(session.next_at()):
                    await session.to_write.wait()
                continue
            self._asked.notify()
            try:
                await self._socket.send(frame)
            except SocketClosed:
                return  # the reader gets the close code

    async def _watch(self) -> None:
        """Drop the connection when the server does not answer.

        It is probed if a heartbeat is missing, or if nothing at all is received after a frame that
        needs an answer: a connection that is dead reports nothing. A stall of this process is not
        the server's silence: frames that have arrived are read first, and after a late wake-up the
        server has the whole time again.
        """
        while True:
            due = self._due_at()
            if trio.current_time() < due:
                with trio.move_on_at(due):
                    await self._asked.wait()
                continue
            await self._read_what_has_arrived(due)
            probed_at = trio.current_time()
            if self._due_at() > probed_at:
                continue
            self._session.probe()
            await trio.sleep_until(probed_at + PROBE_SECONDS)
            await self._read_what_has_arrived(probed_at + PROBE_SECONDS)
            if self._heard_at < probed_at:
                self.drop()
                return

    async def _read_what_has_arrived(self, deadline: float) -> None:
        """Let the reader read; a wake-up long after the deadline counts as a frame."""
        for _ in range(READ_PASSES):
            await trio.lowlevel.checkpoint()
        now = trio.current_time()
        if now - deadline > LATE_SECONDS:
            self._heard_at = now
            self._session.connection.asked_at = None

    def _due_at(self) -> float:
        """Return when the next frame is due."""
        state = self._session.connection
        due = self._heard_at + LATE_INTERVALS * state.heartbeat_ms / 1000
        if state.asked_at is not None:
            due = min(due, state.asked_at + REPLY_SECONDS)
        return due + state.unheard // UPLOAD_RATE

    async def _renew_token(self) -> None:
        """Renew the token whenever the server says that it expires."""
        renewals = self._tokens.renewals
        while self._tokens.can_renew:
            await self._session.token_expiring.wait()
            left = self._session.connection.token_seconds
            # The new token may expire soon, or be the old one: the server says so at once.
            await trio.sleep(renewals.pause(trio.current_time(), left))
            renewals.started(trio.current_time(), self._random())
            self._tokens.forget()
            try:
                self._session.authenticate(await self._tokens.get())
            except NoAnswer:
                self._session.token_expiring.notify()
            except TokenFailed:
                return  # the connection ends with its token, and the next attempt reports this
