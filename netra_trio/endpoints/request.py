"""A request as the checks and endpoints see it, independent of the host that received it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from attrs import frozen

from netra_trio.telemetry.trace_context import TRACESTATE_CHARACTERS, is_traceparent
from netra_trio.transports.headers import grouped

_MAPPED = "::ffff:"  # begins an IPv4 address in IPv6 (RFC 4291, 2.5.5.2)

TRACE_HEADERS = ("traceparent", "tracestate")  # W3C Trace Context


@frozen
class Request:
    """A request without its body.

    Attributes:
        headers: The values of each header, by its name in lower case.
        query: The values of each query parameter, by its name.
        subprotocols: The subprotocols that the client offers.
        peer: The address of the peer, empty where it is not known.
    """

    headers: Mapping[str, list[str]]
    query: Mapping[str, list[str]]
    subprotocols: tuple[str, ...]
    peer: str

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> "Request":
        """Return the request of an ASGI scope."""
        pairs = (
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        client = scope.get("client")
        return cls(
            headers=grouped((name.lower(), value) for name, value in pairs),
            query=grouped(query),
            subprotocols=tuple(scope.get("subprotocols", ())),
            peer=peer_address(str(client[0])) if client else "",
        )

    @property
    def origins(self) -> list[str]:
        """The values of the Origin headers."""
        return self.headers.get("origin", [])


def peer_address(address: str) -> str:
    """Return the address of a peer; of one that came over IPv4 to a socket for both, in IPv4."""
    return address.removeprefix(_MAPPED) if _MAPPED in address and "." in address else address


def trace_of(request: Request) -> dict[str, str]:
    """Return the trace headers of a request; none where they are invalid."""
    given = {name: request.headers.get(name, []) for name in TRACE_HEADERS}
    parent, state = given.values()
    if len(parent) != 1 or not is_traceparent(parent[0]):
        return {}
    carrier = {TRACE_HEADERS[0]: parent[0]}
    if len(state) == 1 and len(state[0]) <= TRACESTATE_CHARACTERS:
        carrier[TRACE_HEADERS[1]] = state[0]
    return carrier
