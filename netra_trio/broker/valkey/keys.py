"""The names of keys and channels."""

import hashlib
from collections.abc import Mapping

from netra_trio.ids import NodeId, SessionId, ThreadId, UserId
from netra_trio.protocol.usage import UsageKey

NODES = "nt:nodes"
EPOCH = "nt:epoch"  # of the lines of threads: another one after everything was lost
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


TICKET_PREFIX = "nt:t:"
FILE_TICKET_PREFIX = "nt:ft:"


def ticket(digest: str) -> str:
    """Return the key of a ticket, given the digest of the ticket."""
    return f"{TICKET_PREFIX}{digest}"


def file_ticket(digest: str) -> str:
    """Return the key of a ticket for a file, given the digest of the ticket."""
    return f"{FILE_TICKET_PREFIX}{digest}"


_OF_USER = {
    "connections": "c",
    "members": "m",
    "openings": "o",
    "sessions": "sess",
    "tickets": "t",
    "file_tickets": "ft",
    "uploads": "u",
    "rate": "r",
    "usage": "u",
}


def of_user(user_id: UserId) -> Mapping[str, str]:
    """Return the keys of a user, by what they have."""
    # A digest: the id may have any characters.
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return {name: f"nt:{{{digest}}}:{kind}" for name, kind in _OF_USER.items()}


def line(user_id: UserId, thread_id: ThreadId) -> str:
    """Return the key of the line of a thread of a user."""
    return f"{of_user(user_id)['rate']}:{thread_id}"


def usage(key: UsageKey) -> str:
    """Return the key of the counter of what an agent has used for a user in a day."""
    return f"{of_user(key.user_id)['usage']}:{key.day}:{key.agent_name}"


# Channels are common to all databases of a server, so their names have its number.


def room_channel(database: int, name: str) -> str:
    """Return the channel of the events of a room."""
    return f"nt:{database}:r:{name}"


def node_channel(database: int, node: NodeId) -> str:
    """Return the channel of a node, for probes."""
    return f"nt:{database}:n:{node}"
