"""The names of keys and channels."""

import hashlib

from netra_trio.ids import NodeId, SessionId

NODES = "nt:nodes"
LEASE_PREFIX = "nt:n:"


def lease(node: NodeId) -> str:
    """Return the key of the lease of a node."""
    return f"{LEASE_PREFIX}{node}"


def inbox(node: NodeId) -> str:
    """Return the key of the stream of messages to a node."""
    return f"nt:in:{node}"


def session(session_id: SessionId) -> str:
    """Return the key of the hash of a session."""
    return f"nt:{{{session_id}}}:s"


def log(session_id: SessionId) -> str:
    """Return the key of the stream of the log of a session."""
    return f"nt:{{{session_id}}}:l"


def room(name: str) -> str:
    """Return the key of the hash of a room."""
    return f"nt:{{r:{name}}}:m"


def events(name: str) -> str:
    """Return the key of the stream of events of a room."""
    return f"nt:{{r:{name}}}:l"


def published(name: str, key: str) -> str:
    """Return the key of the place of the event that was published with an idempotency key."""
    # A digest: no key can look like the name of another one of these.
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return f"nt:{{r:{name}}}:k:{digest}"


# Channels are common to all databases of a server, so their names have its number.


def room_channel(database: int, name: str) -> str:
    """Return the channel of the events of a room."""
    return f"nt:{database}:r:{name}"


def node_channel(database: int, node: NodeId) -> str:
    """Return the channel of a node, for probes."""
    return f"nt:{database}:n:{node}"
