"""The status and the counters of a client.

>>> Stats().reconnections, str(Status.CONNECTED)
(0, 'CONNECTED')
"""

from enum import StrEnum

from attrs import define

from netra_trio.client.fallback import Transport


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
        messages_sent: Messages of the application: `user_message`, `agent_request`, `room_message`
            and `answer`; one that is sent again counts once.
        messages_received: Messages of agents (`agent_started`, `partial_result`, …) and of rooms;
            one that is replayed counts once. Confirmations, answers to requests and heartbeats do
            not count.
        reconnections: Connections after the first.
        average_reconnection_ms: Milliseconds from the loss of a connection to the next one; None
            before the first reconnection.
        last_resume_verdict: The verdict of the last connection; None before the first.
        errors_encountered: `error` frames, failed attempts and lost connections.
        connected_at: Unix seconds at which the last connection was established; None before the
            first.
        last_activity: Unix seconds at which the last frame was sent or received, of any type; None
            before the first.
        connection_id: The id of the last connection; None before the first.
        session_id: The id of the session; None before the first connection.
        queued: Messages that are not confirmed.
        transport: How the last connection exchanges frames; None before the first.
    """

    messages_sent: int = 0
    messages_received: int = 0
    reconnections: int = 0
    average_reconnection_ms: float | None = None
    last_resume_verdict: str | None = None
    errors_encountered: int = 0
    connected_at: float | None = None
    last_activity: float | None = None
    connection_id: str | None = None
    session_id: str | None = None
    queued: int = 0
    transport: Transport | None = None
