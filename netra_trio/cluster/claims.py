"""The contents of messages about moves: claims, and the waiting runs of a released session."""

from collections.abc import Iterable, Sequence

import orjson

from netra_trio.auth.identity import Identity
from netra_trio.cluster.request import ElsewhereRequest
from netra_trio.ids import SessionId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.wire_format import WIRE_FORMATS


def claim_of(request: ElsewhereRequest, link_id: str) -> JsonObject:
    """Return the header of a claim.

    Args:
        request: The request of the client.
        link_id: The link over which its connection may be relayed.
    """
    return {
        "session_id": request.session_id,
        "last_seq": request.last_seq,
        "identity": request.identity.dump(),
        "wire": request.wire.name,
        "traceparent": request.traceparent,
        "link": link_id,
    }


def request_of(header: JsonObject) -> ElsewhereRequest:
    """Return the request of the client out of the header of a claim."""
    return ElsewhereRequest(
        SessionId(header["session_id"]),
        header["last_seq"],
        Identity.load(header["identity"]),
        WIRE_FORMATS[header["wire"]],
        header["traceparent"],
    )


def dump_waiting(runs: Iterable[JsonObject]) -> bytes:
    """Return the waiting runs of a session as the directory keeps them."""
    return orjson.dumps(list(runs))


def load_waiting(waiting: bytes) -> Sequence[JsonObject]:
    """Return the waiting runs of a session, in order."""
    loaded: list[JsonObject] = orjson.loads(waiting) if waiting else []
    return loaded
