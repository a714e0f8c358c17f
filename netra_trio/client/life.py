"""The life of one attempt to connect, as far as it tells whether its transport works.

life = Life(policy, Transport.WEBSOCKET)
socket = LivingSocket(socket, life, opened)
...
life.ended(now)
"""

from collections.abc import Callable

import trio

from netra_trio.client.fallback import Transport, TransportPolicy
from netra_trio.client.frames import as_object, parse_object
from netra_trio.client.sockets import Socket, SocketClosed
from netra_trio.protocol.codes import ABNORMAL


class Life:
    """Notes what becomes of a socket, and reports it to the policy.

    Args:
        policy: Chooses transports.
        transport: That of the socket.
    """

    def __init__(self, policy: TransportPolicy, transport: Transport) -> None:
        self._policy = policy
        self.transport = transport
        self._opened_at: float | None = None
        self._heard_at = 0.0
        self._has_close = False  # a close frame was received or sent

    @property
    def is_open(self) -> bool:
        """Whether a frame was received."""
        return self._opened_at is not None

    def heard(self, now: float) -> None:
        """Note a frame of the server."""
        self._heard_at = now
        if self._opened_at is None:
            self._opened_at = now
            self._policy.established(self.transport)

    def closed(self) -> None:
        """Note a close frame."""
        self._has_close = True

    def ended(self, now: float) -> None:
        """Note the end of the socket."""
        if self._has_close:
            self._policy.lasted(self.transport)
        elif self._opened_at is None:
            self._policy.not_opened(self.transport)
        else:
            # A stream of which something has begun to collect the events is open, and silent.
            last = now if self.transport is Transport.WEBSOCKET else self._heard_at
            self._policy.lost(self.transport, last - self._opened_at, now)


class LivingSocket:
    """A `Socket` that notes its life.

    Args:
        socket: The socket.
        life: Gets the notes.
        opened: Called with the id of the session when the first frame was received.
    """

    def __init__(self, socket: Socket, life: Life, opened: Callable[[str], None]) -> None:
        self._socket = socket
        self._life = life
        self._opened = opened
        self.transport = life.transport
        self.subprotocol: str | None = getattr(socket, "subprotocol", None)

    async def send(self, frame: str | bytes) -> None:
        """Send a frame (see `Socket`)."""
        await self._socket.send(frame)

    async def receive(self) -> str | bytes:
        """Wait for a frame (see `Socket`)."""
        try:
            frame = await self._socket.receive()
        except SocketClosed as closed:
            if closed.code != ABNORMAL:
                self._life.closed()
            raise
        if not self._life.is_open:
            payload = as_object((parse_object(frame) or {}).get("payload"))
            self._opened(str(payload.get("session_id")))
        self._life.heard(trio.current_time())
        return frame

    async def close(self, code: int) -> None:
        """Close (see `Socket`)."""
        self._life.closed()
        await self._socket.close(code)
