"""Keeps a client connected: opens a connection, and another one when it is lost.

async with trio.open_nursery() as nursery:
    nursery.start_soon(manager.run)
    await manager.until_connected()

`retry` has the rules when to try again, `Connection` the exchange of frames.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import trio

from netra_trio.client.connection import Connection
from netra_trio.client.errors import ClientError, ConnectionClosed, ConnectionRefused, GaveUp
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.client.frames import HELLO, as_object
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
    SocketClosed,
)
from netra_trio.client.stats import Stats, Status
from netra_trio.client.tokens import Tokens
from netra_trio.protocol.codes import CloseCode

SUBPROTOCOL = "netra.v1"  # tells the server that the client acknowledges
HELLO_SECONDS = 10.0  # for the first frame, which the server sends at once
CLOSING_SECONDS = 2.0  # for the close frames when the client is left; loopback takes 1 ms


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
        self._connection: Connection | None = None
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
        if self._connection is not None:
            self._session.connection.made_progress = True  # dropping it is not a failed attempt
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
                at_least, why = self._session.connection.reconnect_after, describe_close(code)
                self._count_lost_connection(code)
            if self._back_off.is_exhausted:
                count = self._back_off.failures
                raise GaveUp(f"cannot connect to {self._address}: {why} (attempts: {count})")
            with trio.move_on_after(self._back_off.pause(chance=self._random(), at_least=at_least)):
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
        """Connect, and return the close code when the connection has ended."""
        await self._discover()
        token = await self._tokens.get()
        query = [*parse_qsl(self._parts.query), *self._session.query().items()]
        async with self._dialer.open(
            urlunsplit(self._parts._replace(query=urlencode(query), fragment="")),
            headers={"Authorization": f"Bearer {token}"},
            subprotocols=(SUBPROTOCOL,),
        ) as socket:
            ended = await self._use(socket)
        # Raised outside of the block: a dialer may have a nursery, which would wrap it in a group.
        if isinstance(ended, NoAnswer):
            raise ended
        return ended

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

    async def _use(self, socket: Socket) -> int | NoAnswer:
        """Exchange frames; return the close code, or why the first frame did not come."""
        with trio.move_on_after(HELLO_SECONDS) as timeout:
            try:
                text = await socket.receive()
            except SocketClosed as closed:
                self._session.connection.made_progress = False
                return closed.code
        if timeout.cancelled_caught:
            return NoAnswer(f"no {HELLO} within {HELLO_SECONDS:g} s")
        try:
            self._session.begin(Event.parse(text))
        except InvalidEvent as fault:
            return NoAnswer(f"this is not a server of {SUBPROTOCOL}: {fault}")
        opened_at = trio.current_time()
        self._connection = Connection(socket, self._session, self._tokens)
        self._was_connected = True
        self._was_renewed = False
        if not self.is_left:
            self.status = Status.CONNECTED
        self._settled.set()
        try:
            return await self._connection.run()
        finally:
            self._connection = None
            if self._settled.is_set():
                self._settled = trio.Event()
            if trio.current_time() - opened_at >= PROGRESS_SECONDS:
                self._session.connection.made_progress = True
            if self.is_left:
                # `close` waits for the socket, which must exist until the close frames are sent.
                await self._closed.wait()

    @property
    def _address(self) -> str:
        """The url without user, password and query, which may be secret."""
        host = self._parts.netloc.rpartition("@")[2]
        return urlunsplit((self._parts.scheme, host, self._parts.path, "", ""))
