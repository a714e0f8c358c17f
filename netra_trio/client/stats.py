"""The status and the counters of a client.

>>> Stats().reconnections, str(Status.CONNECTED)
(0, 'CONNECTED')
"""

from enum import StrEnum

from attrs import define


class Status(StrEnum):
    """The status of a client."""

    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    DISCONNECTING = "DISCONNECTING"
    DISCONNECTED = "DISCONNECTED"
    RECONNECTING = "RECONNECTING"
    ERROR = "ERROR"


@define
class Stats:
    """The counters of a client.

    Attributes:
        messages_sent: Messages written to a socket; one that is sent again counts again.
        messages_received: Frames that were received, of every type.
        reconnections: Connections after the first.
        last_resume_verdict: The verdict of the last connection; None before the first.
        errors_encountered: `error` frames, failed attempts and lost connections.
        connected_at: Unix seconds at which the last connection was established; None before the
            first.
        last_activity: Unix seconds at which the last frame was received; None before the first.
        connection_id: The id of the last connection; None before the first.
        session_id: The id of the session; None before the first connection.
        queued: Messages that are not confirmed.
    """

    messages_sent: int = 0
    messages_received: int = 0
    reconnections: int = 0
    last_resume_verdict: str | None = None
    errors_encountered: int = 0
    connected_at: float | None = None
    last_activity: float | None = None
    connection_id: str | None = None
    session_id: str | None = None
    queued: int = 0
