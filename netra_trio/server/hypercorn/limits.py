"""The limits of a connection that Hypercorn serves."""

from attrs import frozen

from netra_trio.transports.deflate import Compression

HEAD_SECONDS = 10.0  # for a whole request head, and for a TLS handshake


@frozen
class Limits:
    """The limits of the settings.

    Attributes:
        send_timeout: Seconds that a send may make no progress; then the connection is given up.
        max_message_bytes: The largest message that is received, in bytes of its payload.
        drain_timeout: Seconds that the application takes to drain.
        compression: The compression that is offered to WebSocket clients, if any.
    """

    send_timeout: float
    max_message_bytes: int
    drain_timeout: float
    compression: Compression | None = None
