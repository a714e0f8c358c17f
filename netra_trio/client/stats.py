"""Where a client is, and what happened so far.

>>> Stats().reconnections, str(Status.CONNECTED)
(0, 'CONNECTED')
"""

from enum import StrEnum

from attrs import define


class Status(StrEnum):
    """Where a client is."""

    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    DISCONNECTING = "DISCONNECTING"
    DISCONNECTED = "DISCONNECTED"
    RECONNECTING = "RECONNECTING"
    ERROR = "ERROR"


@define
class Stats:
    """What happened so far.

    Attributes:
        messages_sent: Messages written to a socket; one that is sent again counts again.
        messages_received: Frames that came in, of whatever type.
        reconnections: Connections after the first.
        last_resume_verdict: The verdict of the last welcome; None before the first.
        errors_encountered: `error` frames, failed attempts and lost connections.
        connected_at: Unix seconds of the last welcome; None before the first.
        last_activity: Unix seconds of the last frame that came in; likewise.
        connection_id: The connection's name, likewise.
        session_id: The session's, likewise.
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
