"""The connection of a client: opened, kept alive, and opened again when it is lost.

async with trio.open_nursery() as nursery:
    nursery.start_soon(connection.keep)
    await connection.until_connected()

What is said on it is `Conversation`'s; when to try again is in `retry`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import trio

from netra_trio.client.conversation import Conversation, as_object
from netra_trio.client.errors import (
    ClientError,
    ConnectionClosed,
    ConnectionRefused,
    GaveUp,
    TokenFailed,
)
from netra_trio.client.event import Event, NoEvent
from netra_trio.client.retry import PROGRESS_SECONDS, BackOff, Next, after_close, after_refusal
from netra_trio.client.sockets import Dialer, NoAnswer, OpeningRefused, Socket, SocketClosed
from netra_trio.client.stats import Stats, Status
from netra_trio.client.tokens import Tokens
from netra_trio.protocol.codes import ABNORMAL, CloseCode
from netra_trio.protocol.keepalive import MISSED_INTERVALS

SUBPROTOCOL = "netra.v1"  # by which a server knows a client that acknowledges
WELCOME_SECONDS = 10.0  # for the first frame, which the server has ready before it answers
CLOSING_SECONDS = 2.0  # for the close frames when the client is left; loopback takes 1 ms
TOKEN_SECONDS = 5.0  # until `get_token` is asked again while a token still holds


class Connection:
    """Keeps a connection.

    Args:
        url: The server's WebSocket.
        dialer: The network.
        tokens: The token.
        back_off: When to try again.
        conversation: What is said.
        stats: Where it counts.
        random: Returns a number from 0 to 1.

    Attributes:
        status: Where the client is.
        config: The discovery document; None before it was read.
        failure: Why there is no connection any more; None while there is hope.

    Raises:
        ValueError: The url is none of a WebSocket.
    """

    def __init__(
        self,
        url: str,
        *,
        dialer: Dialer,
        tokens: Tokens,
        back_off: BackOff,
        conversation: Conversation,
        stats: Stats,
        random: Callable[[], float],
    ) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in {"ws", "wss"} or not self._parts.hostname:
            raise ValueError(f"expected a url like ws://host:8000/ws, got {self._address}")
        _ = self._parts.port  # raises where it is no number
        self._dialer = dialer
        self._tokens = tokens
        self._back_off = back_off
        self._conversation = conversation
        self._stats = stats
        self._random = random
        self.status = Status.CONNECTING
        self.config: Mapping[str, Any] | None = None
        self.failure: ClientError | None = None
        self._socket: Socket | None = None
        self._line: trio.CancelScope | None = None
        self._heard = 0.0
        self._was_renewed = False  # whether a 401 was answered with a new token already
        self._settled = trio.Event()  # connected, or failed
        self._asked = trio.Event()  # somebody wants a new connection now
        self._goodbye = trio.Event()  # said, or given up

    @property
    def is_left(self) -> bool:
        """Whether the client has been left, or is being left."""
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
        """Drop the line there is, or wait no longer for the next one."""
        self._back_off.progressed()
        if self.failure is not None:
            self.failure = None
            self.status = Status.RECONNECTING
            self._conversation.revive()
        if self._settled.is_set():
            self._settled = trio.Event()
        if self._line is not None:
            self._conversation.has_news = True  # it is no failure to be sent away
            self._line.cancel()
        self._asked.set()

    async def close(self) -> None:
        """Say goodbye, in bounded time; whoever keeps the connection is cancelled next."""
        self.status = Status.DISCONNECTING
        try:
            if self._socket is not None:
                with trio.move_on_after(CLOSING_SECONDS, shield=True):
                    await self._socket.close(CloseCode.NORMAL)
        finally:
            self._goodbye.set()

    async def keep(self) -> NoReturn:
        """Connect, again and again; after a failure wait until somebody asks for more."""
        while True:
            try:
                await self._stay_connected()
            except ClientError as failure:
                self._asked = trio.Event()
                self.failure, self.status = failure, Status.ERROR
                self._conversation.fail(failure, failure)
                self._settled.set()
                await self._asked.wait()

    async def _stay_connected(self) -> NoReturn:
        while True:
            self._asked = trio.Event()
            at_least = 0.0
            try:
                code = await self._connect_once()
            except OpeningRefused as refused:
                if self._heed_refusal(refused):
                    continue
                at_least, why = refused.retry_after or 0.0, refused.told
                self._note_failure(why)
            except NoAnswer as silence:
                why = str(silence)
                self._note_failure(why)
            else:
                if self.is_left:
                    await trio.sleep_forever()  # until the client's nursery is cancelled
                at_least, why = self._conversation.reconnect_after, _reason(code)
                self._heed_close(code)
            if self._back_off.is_exhausted:
                count = self._back_off.failures
                raise GaveUp(f"cannot connect to {self._address}: {why} (attempts: {count})")
            with trio.move_on_after(self._back_off.pause(chance=self._random(), at_least=at_least)):
                await self._asked.wait()

    def _note_failure(self, why: str) -> None:
        self._back_off.failed()
        self._stats.errors_encountered += 1
        self._conversation.tell("disconnected", {"reason": why})

    def _heed_refusal(self, refused: OpeningRefused) -> bool:
        """Return whether to try again at once, with a new token.

        Raises:
            ConnectionRefused: Trying again would not help.
        """
        step = after_refusal(refused.status)
        if step is Next.RENEW and self._tokens.can_renew and not self._was_renewed:
            self._was_renewed = True
            self._tokens.forget()
            return True
        if step is not Next.RETRY:
            code = refused.body.get("code")
            raise ConnectionRefused(
                f"refused by {self._address}: {refused.told}",
                status=refused.status,
                code=code if isinstance(code, str) else None,
            )
        return False

    def _heed_close(self, code: int) -> None:
        """Count the end of a connection, and forget a token that has ended.

        Raises:
            ConnectionClosed: It is not for the client to connect again.
        """
        self.status = Status.RECONNECTING
        if self._conversation.has_news:
            self._back_off.progressed()
        else:
            self._back_off.failed()
        self._stats.errors_encountered += 1
        self._conversation.tell("disconnected", {"code": code, "reason": _reason(code)})
        step = after_close(code)
        if self._conversation.token_ended or step is Next.RENEW:
            self._tokens.forget()
        if step is Next.STOP or (step is Next.RENEW and not self._tokens.can_renew):
            raise ConnectionClosed(f"{self._address}: {_reason(code)}", code=code)

    async def _connect_once(self) -> int:
        """Connect, and stay until the connection ends; return its close code."""
        await self._discover()
        token = await self._tokens.get()
        query = [*parse_qsl(self._parts.query), *self._conversation.query().items()]
        async with self._dialer.open(
            urlunsplit(self._parts._replace(query=urlencode(query), fragment="")),
            headers={"Authorization": f"Bearer {token}"},
            subprotocols=(SUBPROTOCOL,),
        ) as socket:
            ended = await self._converse(socket)
        # Raised out here, as a dialer may have a nursery, which would make a group of it.
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
            # Perhaps a proxy that lets nothing but the socket through: the opening will tell.
            self.config = {}
        document = as_object(self.config.get("websocket_config"))
        self._conversation.limits = as_object(document.get("connection_limits"))

    async def _converse(self, socket: Socket) -> int | NoAnswer:
        """Return the close code, or why there was no conversation."""
        with trio.move_on_after(WELCOME_SECONDS) as patience:
            try:
                text = await socket.receive()
            except SocketClosed as closed:
                self._conversation.has_news = False
                return closed.code
        if patience.cancelled_caught:
            return NoAnswer(f"no welcome within {WELCOME_SECONDS:g} s")
        try:
            self._conversation.welcome(Event.parse(text))
        except NoEvent as fault:
            return NoAnswer(f"this is no server of {SUBPROTOCOL}: {fault}")
        opened = self._heard = trio.current_time()
        self._socket = socket
        self._was_renewed = False
        if not self.is_left:
            self.status = Status.CONNECTED
        self._settled.set()
        try:
            return await self._talk(socket)
        finally:
            self._socket = self._line = None
            if self._settled.is_set():
                self._settled = trio.Event()
            if trio.current_time() - opened >= PROGRESS_SECONDS:
                self._conversation.has_news = True
            if self.is_left:
                # Whoever says goodbye waits for the socket, which must be there until it is said.
                await self._goodbye.wait()

    async def _talk(self, socket: Socket) -> int:
        """Read and write until the line ends or is dropped; return the close code."""
        code = ABNORMAL
        async with trio.open_nursery() as nursery:
            self._line = nursery.cancel_scope
            nursery.start_soon(self._write, socket)
            nursery.start_soon(self._watch, nursery.cancel_scope)
            nursery.start_soon(self._renew)
            code = await self._read(socket)
            nursery.cancel_scope.cancel()
        return code

    async def _read(self, socket: Socket) -> int:
        """Take in what comes, without ever waiting for anybody else; return the close code."""
        while True:
            try:
                text = await socket.receive()
                self._heard = trio.current_time()
                self._conversation.take(text)
            except SocketClosed as closed:
                return closed.code
            except NoEvent:
                return ABNORMAL  # whatever is at the other end, its line is of no use

    async def _write(self, socket: Socket) -> None:
        conversation = self._conversation
        while True:
            bell = conversation.bell
            text = conversation.next_frame(trio.current_time())
            if text is None:
                with trio.move_on_at(conversation.next_at()):
                    await bell.wait()
                    conversation.bell = trio.Event()
                continue
            try:
                await socket.send(text)
            except SocketClosed:
                return  # the reader hears the close code

    async def _watch(self, line: trio.CancelScope) -> None:
        """Drop a line on which nothing comes any more."""
        patience = MISSED_INTERVALS * self._conversation.heartbeat_ms / 1000
        while self._heard + patience > trio.current_time():  # noqa: ASYNC110 - time is what counts
            await trio.sleep_until(self._heard + patience)
        line.cancel()

    async def _renew(self) -> None:
        """Renew the token in place, each time the server says that it ends."""
        while self._tokens.can_renew:
            await self._conversation.token_ends.wait()
            self._conversation.token_ends = trio.Event()
            self._tokens.forget()
            try:
                self._conversation.authenticate(await self._tokens.get())
            except NoAnswer:
                self._conversation.token_ends.set()
            except TokenFailed:
                return  # the connection ends with its token, and the next opening says why
            # What was given may end soon, too, or be the same: the server says so at once.
            await trio.sleep(TOKEN_SECONDS)

    @property
    def _address(self) -> str:
        """The url as it may be shown: a query, or what stands before the host, may be secret."""
        host = self._parts.netloc.rpartition("@")[2]
        return urlunsplit((self._parts.scheme, host, self._parts.path, "", ""))


_REASONS = {
    CloseCode.NORMAL: "the server closed the connection",
    CloseCode.GOING_AWAY: "the server went away",
    ABNORMAL: "the connection was lost",
    CloseCode.TOO_BIG: "a frame was too large",
    CloseCode.INTERNAL: "the server failed",
    CloseCode.RESTART: "the server restarts",
    CloseCode.ERROR_LIMIT: "the server refused too many frames",
    CloseCode.TOKEN_EXPIRED: "the token has expired; with get_token the client would renew it",
    CloseCode.USER_DISABLED: "the user is disabled or removed",
    CloseCode.HEARTBEAT_MISSED: "the server heard nothing of the client",
    CloseCode.TAKEN_OVER: "another connection has taken the session over",
    CloseCode.EVICTED: "the user has too many connections: close one, then reconnect",
}


def _reason(code: int) -> str:
    """Return in words what a close code says; clients decide on the code, not on its reason."""
    return _REASONS.get(code, f"the server closed the connection with {code}")
