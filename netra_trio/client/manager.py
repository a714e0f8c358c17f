"""Keeps a client connected: opens a connection, and another one when it is lost.

async with trio.open_nursery() as nursery:
    nursery.start_soon(manager.run)
    await manager.until_connected()

`retry` has the rules when to try again, `Line` is one socket, `Connection` the exchange of frames
on it, and `switch` the replacement of a connection that its server is about to close.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import trio

from netra_trio.client.connection import Connection
from netra_trio.client.errors import ClientError, ConnectionClosed, ConnectionRefused, GaveUp
from netra_trio.client.fallback import Transport
from netra_trio.client.frames import Hello, as_object
from netra_trio.client.line import BINARY_SUBPROTOCOL, CLOSING_SECONDS, SUBPROTOCOLS, Line
from netra_trio.client.notifier import Notifier
from netra_trio.client.retry import (
    PROGRESS_SECONDS,
    BackOff,
    Next,
    after_close,
    after_refusal,
    describe_close,
)
from netra_trio.client.session import ClientSession
from netra_trio.client.sockets import (
    Dialer,
    InvalidDocument,
    NoAnswer,
    OpeningRefused,
    Socket,
)
from netra_trio.client.stats import Stats, Status
from netra_trio.client.switch import replace
from netra_trio.client.tokens import Tokens
from netra_trio.protocol.codes import ABNORMAL, CloseCode


class ConnectionManager:
    """Keeps a connection.

    Args:
        url: The WebSocket address of the server.
        dialer: Opens sockets.
        tokens: The token.
        back_off: The pauses between attempts.
        session: Handles the frames.
        stats: Counters.
        random: Returns a number from 0 to 1.

    Attributes:
        status: The status of the client.
        config: The discovery document; None before it was read.
        failure: The reason why there will be no connection; None while the manager tries.

    Raises:
        ValueError: The url is not that of a WebSocket.
    """

    def __init__(
        self,
        url: str,
        *,
        dialer: Dialer,
        tokens: Tokens,
        back_off: BackOff,
        session: ClientSession,
        stats: Stats,
        random: Callable[[], float],
    ) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in {"ws", "wss"} or not self._parts.hostname:
            raise ValueError(f"expected a url like ws://host:8000/ws, got {self._address}")
        _ = self._parts.port  # raises ValueError if it is not a number
        self._dialer = dialer
        self._tokens = tokens
        self._back_off = back_off
        self._session = session
        self._stats = stats
        self._random = random
        self.status = Status.CONNECTING
        self.config: Mapping[str, Any] | None = None
        self.failure: ClientError | None = None
        self._scope = trio.CancelScope(shield=True)
        self._nursery: trio.Nursery  # of the lines
        self._line: Line | None = None  # the one whose connection is open
        self._connection: Connection | None = None  # that connection
        self._switching = BackOff()  # the pauses between attempts to replace a connection
        self._was_connected = False
        self._was_renewed = False  # whether a 401 was answered with a new token already
        self._settled = trio.Event()  # connected, or failed
        self._reconnect = Notifier()  # the application wants a new connection now
        self._closed = trio.Event()  # the close frame was sent, or given up

    @property
    def is_left(self) -> bool:
        """Whether the client was left, or is being left."""
        return self.status in {Status.DISCONNECTING, Status.DISCONNECTED}

    async def until_connected(self) -> None:
        """Wait for a connection. Cancelling is safe.

        Raises:
            ClientError: There will be none.
        """
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    def try_now(self) -> None:
        """Drop the present connection, or end the pause before the next attempt."""
        self._back_off.progressed()
        if self.failure is not None:
            self.failure = None
            self.status = Status.RECONNECTING
            self._session.resume()
        if self._settled.is_set():
            self._settled = trio.Event()
        if self._line is not None and self._connection is not None:
            self._session.connection.made_progress = True  # dropping it is not a failed attempt
            if self._line.successor is not None:
                self._line.successor.drop()
                self._line.successor = None
            self._connection.drop()
        self._reconnect.notify()

    async def close(self) -> None:
        """Send a close frame, in bounded time, and end `run`."""
        self.status = Status.DISCONNECTING
        try:
            if self._connection is not None:
                with trio.move_on_after(CLOSING_SECONDS, shield=True):
                    await self._connection.close(CloseCode.NORMAL)
        finally:
            self._closed.set()
            self._scope.cancel()

    async def run(self) -> None:
        """Connect again and again until `close`; after a failure wait for `try_now`.

        It is shielded from cancellation: `close` needs a connection that is still read, to receive
        the answer to its close frame.
        """
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                await self._run()

    async def _run(self) -> NoReturn:
        while True:
            try:
                await self._stay_connected()
            except ClientError as failure:
                self._reconnect.clear()
                self.failure, self.status = failure, Status.ERROR
                self._session.fail(failure, failure)
                self._settled.set()
                await self._reconnect.wait()

    async def _stay_connected(self) -> NoReturn:
        while True:
            self._reconnect.clear()
            at_least = 0.0
            try:
                code = await self._connect_once()
            except OpeningRefused as refused:
                if self._may_retry_at_once(refused):
                    continue
                at_least, why = refused.retry_after or 0.0, refused.reason
                self._count_failed_attempt(why)
            except NoAnswer as no_answer:
                why = str(no_answer)
                self._count_failed_attempt(why)
            else:
                if self.is_left:
                    await trio.sleep_forever()  # until `close` cancels it
                why = describe_close(code)
                self._count_lost_connection(code)
            if self._back_off.is_exhausted:
                count = self._back_off.failures
                raise GaveUp(f"cannot connect to {self._address}: {why} (attempts: {count})")
            # Also if the attempt that failed was one that a message had brought forward.
            told = self._session.connection.reconnect_after(trio.current_time())
            pause = self._back_off.pause(chance=self._random(), at_least=max(at_least, told))
            with trio.move_on_after(pause):
                await self._reconnect.wait()

    def _count_failed_attempt(self, why: str) -> None:
        self._back_off.failed()
        self._stats.errors_encountered += 1
        self._session.tell("disconnected", {"reason": why})

    def _may_retry_at_once(self, refused: OpeningRefused) -> bool:
        """Return whether to try again at once, with a new token.

        Raises:
            ConnectionRefused: Trying again would not help.
        """
        is_final = refused.code is not None or not self._was_connected
        step = after_refusal(refused.status, is_final=is_final)
        if step is Next.RENEW and self._tokens.can_renew and not self._was_renewed:
            self._was_renewed = True
            self._tokens.forget()
            return True
        if step is not Next.RETRY and is_final:
            raise ConnectionRefused(
                f"refused by {self._address}: {refused.reason}",
                status=refused.status,
                code=refused.code,
            )
        return False

    def _count_lost_connection(self, code: int) -> None:
        """Count the end of a connection, and forget a token that has expired.

        Raises:
            ConnectionClosed: The client must not reconnect by itself.
        """
        self.status = Status.RECONNECTING
        if self._session.connection.made_progress:
            self._back_off.progressed()
        else:
            self._back_off.failed()
        self._stats.errors_encountered += 1
        self._session.tell("disconnected", {"code": code, "reason": describe_close(code)})
        step = after_close(code)
        if self._session.connection.token_ended or step is Next.RENEW:
            self._tokens.forget()
        if step is Next.STOP or (step is Next.RENEW and not self._tokens.can_renew):
            raise ConnectionClosed(f"{self._address}: {describe_close(code)}", code=code)

    async def _connect_once(self) -> int:
        """Connect, and return the close code when the connection, or its successor, has ended."""
        await self._discover()
        line = await self._open(self._session.query)
        while True:
            await line.ended.wait()
            successor = line.successor
            if successor is None or not await self._continues(line, successor):
                break
            line = successor
        if line.failure is not None:
            raise line.failure.with_traceback(None)
        if not line.is_established:
            self._session.connection.made_progress = False
        if line.code == CloseCode.TAKEN_OVER and line.may_be_taken_over:
            return ABNORMAL
        return line.code

    async def _continues(self, line: Line, successor: Line) -> bool:
        """Return whether another line continues after a line that has ended.

        If it is not established yet, the attempt goes on, and fails, as one of an ordinary
        reconnection.
        """
        if successor.is_established or self.is_left:
            return successor.is_established
        is_ours = line.code == CloseCode.TAKEN_OVER
        if not is_ours:
            if after_close(line.code) is not Next.RETRY or self._session.connection.token_ended:
                successor.drop()
                return False
            self._count_lost_connection(line.code)
            return True
        # The attempt has reached the server, and its first frame is about to come.
        await successor.settled.wait()
        line.may_be_taken_over |= not isinstance(successor.failure, OpeningRefused)
        return successor.is_established

    async def _open(self, query: Callable[[], Mapping[str, str]]) -> Line:
        """Send an upgrade request; `query` is called for its parameters as late as possible."""
        token = await self._tokens.get()
        parameters = [*parse_qsl(self._parts.query), *query().items()]
        opening = self._dialer.open(
            urlunsplit(self._parts._replace(query=urlencode(parameters), fragment="")),
            headers={"Authorization": f"Bearer {token}"},
            subprotocols=SUBPROTOCOLS,
        )
        line = Line(opening, self, self._session.wall_clock)
        self._nursery.start_soon(line.run)
        return line

    async def _discover(self) -> None:
        """Read the discovery document, before the first connection."""
        if self.config is not None:
            return
        scheme = "https" if self._parts.scheme == "wss" else "http"
        path = self._parts.path.rstrip("/") + "/config"
        url = urlunsplit((scheme, self._parts.netloc, path, "", ""))
        try:
            self.config = await self._dialer.discover(url)
        except OpeningRefused as refused:
            if after_refusal(refused.status) is Next.RETRY:
                raise
            # A proxy may pass on nothing but the WebSocket: the upgrade will show.
            self.config = {}
        except InvalidDocument:
            self.config = {}  # likewise
        document = as_object(self.config.get("websocket_config"))
        self._session.set_limits(as_object(document.get("connection_limits")))

    def accept(self, line: Line, socket: Socket, hello: Hello) -> Connection | None:
        """Use a connection from now on, in place of the open one (see `LineUser`)."""
        old, session = self._line, self._session
        if old is not None and self._connection is not None:
            if self.is_left or session.is_unwanted(hello):
                return None
            if self._made_progress(old):
                self._back_off.progressed()
                self._switching.progressed()
            else:
                self._switching.failed()
            self._connection.give_way()
            old.ended.set()
        else:
            self._switching.progressed()
        # Sockets of test dialers have no `subprotocol`; the same holds for `transport`.
        subprotocol = getattr(socket, "subprotocol", None)
        session.begin(hello, takes_binary=subprotocol == BINARY_SUBPROTOCOL)
        self._stats.transport = getattr(socket, "transport", Transport.WEBSOCKET)
        self._line = line
        self._connection = Connection(
            socket,
            line.decoder,
            session,
            self._tokens,
            replace=lambda: self._replace(line),
            random=self._random,
        )
        self._was_connected = True
        self._was_renewed = False
        if not self.is_left:
            self.status = Status.CONNECTED
        self._settled.set()
        return self._connection

    async def left(self, line: Line) -> None:
        """Handle the end of a connection (see `LineUser`)."""
        if self._line is not line:
            return
        self._session.connection.made_progress = self._made_progress(line)
        self._session.discard()
        self._line = self._connection = None
        if self._settled.is_set():
            self._settled = trio.Event()
        if self.is_left:
            # `close` waits for the socket, which must exist until the close frames are sent.
            await self._closed.wait()

    def _made_progress(self, line: Line) -> bool:
        lasted = trio.current_time() - line.opened_at
        return self._session.connection.made_progress or lasted >= PROGRESS_SECONDS

    async def _replace(self, line: Line) -> None:
        await replace(
            line,
            self._session,
            self._tokens,
            lambda: self._open(self._session.hold),
            back_off=self._switching,
            random=self._random,
        )

    @property
    def _address(self) -> str:
        """The url without user, password and query, which may be secret."""
        host = self._parts.netloc.rpartition("@")[2]
        return urlunsplit((self._parts.scheme, host, self._parts.path, "", ""))
