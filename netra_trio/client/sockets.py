"""What a client needs of a network, so that tests can hand in another one.

    async with dialer.open(url, headers={}, subprotocols=("netra.v1",)) as socket:
        await socket.send('{"type": "ping"}')
        print(await socket.receive())

A test kit implements `Dialer` and `Socket`, and has a network in memory on a virtual clock.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from netra_trio.errors import NetraError
from netra_trio.protocol.codes import ABNORMAL


class SocketClosed(NetraError):
    """The connection is closed.

    Attributes:
        code: The peer's close code; 1006 where the line was lost.
    """

    def __init__(self, code: int = ABNORMAL) -> None:
        super().__init__(f"the connection is closed ({code})")
        self.code = code


class OpeningRefused(NetraError):
    """An HTTP answer other than the one that was asked for.

    Attributes:
        status: The HTTP status.
        retry_after: What the header `Retry-After` asks for, in seconds; None where it is missing.
        body: The error of the answer: `code`, `error`, `help`; empty where it is none.
    """

    def __init__(
        self, status: int, *, retry_after: float | None = None, body: Mapping[str, Any] = {}
    ) -> None:
        super().__init__(f"refused with HTTP status {status}")
        self.status = status
        self.retry_after = retry_after
        self.body = body

    @property
    def told(self) -> str:
        """What the answer says, in words; the status where it says nothing."""
        error, advice = self.body.get("error"), self.body.get("help")
        if isinstance(error, str):
            return f"{error} {advice}" if isinstance(advice, str) else error
        return f"HTTP status {self.status}"


class NoAnswer(NetraError):
    """Nobody answered, or not in time; the text says what happened."""


class Socket(Protocol):
    """An open WebSocket. Several tasks may send; one receives."""

    async def send(self, text: str) -> None:
        """Send a text frame; waits while the peer does not take it.

        Cancelling may leave half a frame on the line: the socket is of no use then.

        Raises:
            SocketClosed: The connection is closed.
        """
        ...

    async def receive(self) -> str:
        """Wait for a text frame. Cancelling is safe.

        Raises:
            SocketClosed: The connection is closed, and what came before has been received.
        """
        ...

    async def close(self, code: int) -> None:
        """Send a close frame, and wait for the peer's; nothing on a closed one."""
        ...


class Dialer(Protocol):
    """Opens sockets."""

    def open(
        self, url: str, *, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AbstractAsyncContextManager[Socket]:
        """Open a WebSocket; on leaving, it is gone, closed or not, within a second or so.

        The server has to select one of the subprotocols, or none where none is offered.

        Raises:
            OpeningRefused: The server answered with something else than a WebSocket.
            NoAnswer: There was no answer in time, or none that makes sense.
        """
        ...

    async def discover(self, url: str) -> Mapping[str, Any]:
        """Return the JSON object at an HTTP address, read without credentials.

        Raises:
            OpeningRefused: The answer is not 200.
            NoAnswer: There was no answer in time, or it is no JSON object.
        """
        ...
