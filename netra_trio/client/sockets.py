"""The network interfaces of a client, which tests can implement.

    async with dialer.open(url, headers={}, subprotocols=("netra.v1",)) as socket:
        await socket.send('{"type": "ping"}')
        print(await socket.receive())

`netra_trio.testing` implements `Dialer` and `Socket` in memory, for a virtual clock.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from netra_trio.errors import NetraError
from netra_trio.protocol.codes import ABNORMAL


class SocketClosed(NetraError):
    """The connection is closed.

    Attributes:
        code: The peer's close code; 1006 if the connection was lost.
    """

    def __init__(self, code: int = ABNORMAL) -> None:
        super().__init__(f"the connection is closed ({code})")
        self.code = code


class OpeningRefused(NetraError):
    """An HTTP answer other than the expected one.

    Attributes:
        status: The HTTP status.
        retry_after: The seconds of the header `Retry-After`; None if it is missing.
        body: The error body of the answer: `code`, `error`, `help`; empty if there is none.
    """

    def __init__(
        self, status: int, *, retry_after: float | None = None, body: Mapping[str, Any] = {}
    ) -> None:
        super().__init__(f"refused with HTTP status {status}")
        self.status = status
        self.retry_after = retry_after
        self.body = body

    @property
    def code(self) -> str | None:
        """The error code of the body; None if it is not an error body of this server.

        A proxy answers with a page, or with JSON of its own.
        """
        fields = [self.body.get(name) for name in ("code", "error", "help")]
        return fields[0] if all(isinstance(field, str) for field in fields) else None

    @property
    def reason(self) -> str:
        """The text of the error body; the status if there is none."""
        error, advice = self.body.get("error"), self.body.get("help")
        if isinstance(error, str):
            return f"{error} {advice}" if isinstance(advice, str) else error
        return f"HTTP status {self.status}"


class NoAnswer(NetraError):
    """There was no answer, or not in time; the text has the reason."""


class InvalidDocument(NoAnswer):
    """A document was answered that is not a JSON object; the text says so."""


class Socket(Protocol):
    """An open WebSocket. Several tasks may send; one may receive.

    It may have an attribute `subprotocol`, the selected one; without it the client sends no binary
    frames.
    """

    async def send(self, frame: str | bytes) -> None:
        """Send a text frame (`str`) or a binary one (`bytes`); waits while the peer does not read.

        Cancelling may leave half a frame on the connection, which is unusable afterwards.

        Raises:
            SocketClosed: The connection is closed.
        """
        ...

    async def receive(self) -> str | bytes:
        """Wait for a text frame (`str`) or a binary one (`bytes`). Cancelling is safe.

        Raises:
            SocketClosed: The connection is closed, and every frame before that was returned.
        """
        ...

    async def close(self, code: int) -> None:
        """Send a close frame, and wait for the peer's; does nothing on a closed connection."""
        ...


class Dialer(Protocol):
    """Opens sockets."""

    def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AbstractAsyncContextManager[Socket]:
        """Open a WebSocket; leaving the block ends it, closed or not, within about a second.

        The server has to select one of the subprotocols, or none if none is offered.

        Raises:
            OpeningRefused: The server answered, but did not open a WebSocket.
            NoAnswer: There was no valid answer in time.
        """
        ...

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Return the JSON object at an HTTP address, read without credentials.

        Raises:
            OpeningRefused: The answer is not 200.
            InvalidDocument: The answer is not a JSON object.
            NoAnswer: There was no answer in time.
        """
        ...
