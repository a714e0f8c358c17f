"""A request to resume a session that is at another node."""

from attrs import frozen

from netra_trio.auth.identity import Identity
from netra_trio.ids import SessionId
from netra_trio.protocol.wire_format import WireFormat


@frozen
class ElsewhereRequest:
    """A request to resume a session that is not at the node that a client asks.

    Attributes:
        last_seq: The number that the client has.
        traceparent: The trace of the upgrade request.
    """

    session_id: SessionId
    last_seq: int
    identity: Identity
    wire: WireFormat
    traceparent: str | None
