"""The interfaces `Directory` and `Broker`, and the values that they take and return.

A `Directory` knows the live nodes, which of them owns each session, and a copy of the log of each
session. A `Broker` publishes events to rooms and keeps the newest ones. There is an implementation
in memory, for one process, and one on Valkey or Redis; the contract suite in `tests/broker` checks
both.

Every method raises `BrokerUnavailable` if the server does not answer within `ANSWER_SECONDS`,
unless it says otherwise. Cancelling is always safe. After a call that raised or was cancelled, its
change may have been made all the same.
"""

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

from attrs import frozen

from netra_trio.broker.limits import Limits
from netra_trio.broker.threads import ThreadDirectory
from netra_trio.broker.usage import UsageCounters
from netra_trio.ids import NodeId, SessionId, ThreadId, UserId

LEASE_SECONDS = 3.0  # of a node: three renewals may fail
RENEW_SECONDS = 0.75  # between two renewals
ANSWER_SECONDS = 1.0  # for one answer: a slow server must not hold an upgrade for longer
KEY_SECONDS = 300.0  # docs/protocol.md: the key of an event of a room
INBOX_MAIL = 16_384  # of a node: a node that takes nothing for its lease is gone
MAIL_BYTES = 1024 * 1024  # of one message to a node; a relayed frame is at most 16 times 64 KiB
ROOM_SECONDS = 86_400.0  # an unused room starts a new epoch after this time
EMPTY_ROOM_SECONDS = 300.0  # the same for a room without subscribers that never had an event
INTERNAL = ":"  # begins the names of rooms of the nodes: without subscribers they are as empty ones
DELIVERIES = 10_000  # events of rooms that wait for a node; the oldest are lost beyond it


@frozen
class Mail:
    """A message from one node to another.

    Attributes:
        kind: Chooses the handler of the receiver.
        sender: The node that sent it.
        header: A JSON object.
        data: Any bytes.
    """

    kind: str
    sender: NodeId
    header: bytes = b"{}"
    data: bytes = b""

    @property
    def size(self) -> int:
        """The bytes that count against `MAIL_BYTES`."""
        return len(self.header) + len(self.data)


@frozen
class SessionRecord:
    """The record of a session in the directory.

    Attributes:
        owner: The node that has the session; None if its owner has released it.
        epoch: Grows by one each time that the owner changes.
        acknowledging: Whether its client acknowledges events.
        thread_id: Its default thread.
        lease: The owner of its runs in the store, which may be an earlier owner of the session.
        waiting: The runs that an owner released together with the session.
    """

    session_id: SessionId
    user_id: UserId
    owner: NodeId | None
    epoch: int
    acknowledging: bool
    is_anonymous: bool
    thread_id: ThreadId
    lease: NodeId
    waiting: bytes = b""


@frozen
class Found:
    """The answer to a look-up of a session.

    Attributes:
        record: What is known of it; None if it is unknown.
        owner_is_live: Whether its owner holds its lease.
        is_registered: Whether the asking node holds its own lease. If not, the server may have lost
            everything, and an unknown session may be one that is not registered again yet.
    """

    record: SessionRecord | None
    owner_is_live: bool
    is_registered: bool


@frozen
class Batch:
    """New entries of the log of a session.

    Attributes:
        record: The session, with its owner and epoch.
        previous: The last number of the batch before; None if this one replaces the whole log.
        last: The last number of this batch; greater than `previous`.
        data: The entries.
        seconds: How long the session is kept from now on.
    """

    record: SessionRecord
    previous: int | None
    last: int
    data: bytes
    seconds: float


class Appended(Enum):
    """The outcome of a batch.

    STORED: It is in the log, or was there already.
    FENCED: The session has a later epoch, or another owner: this node does not own it any more.
    STALE: The log does not end with `previous`, so the batch must be one that replaces the log.
    """

    STORED = "stored"
    FENCED = "fenced"
    STALE = "stale"


class Directory(Protocol):
    """The nodes and their sessions, as one node sees them."""

    @property
    def node(self) -> NodeId:
        """The node that uses this object."""
        ...

    # Nodes.

    async def renew(self, *, draining: bool = False) -> bool:
        """Take or renew the lease of this node, for `LEASE_SECONDS`.

        Returns:
            Whether it held the lease, as it was renewed last. If it did not, its sessions may have
            been taken over, and the server may have lost something or everything.
        """
        ...

    async def resign(self, node: NodeId | None = None) -> None:
        """Delete the lease of this node, or of another one that is known to be gone."""
        ...

    async def nodes(self) -> Mapping[NodeId, bool]:
        """Return the live nodes; for each, whether it drains."""
        ...

    async def post(self, node: NodeId, mail: Sequence[Mail]) -> None:
        """Put messages into the inbox of a node; those of one sender stay in order.

        Beyond `INBOX_MAIL` messages the oldest ones are lost, and after a fail-over of the server
        the newest may be: a receiver has to number them where a loss matters. If too much waits
        for the server (8 MiB), it raises `BrokerUnavailable` at once, as `append` does.

        Raises:
            ValueError: If one has more than `MAIL_BYTES`; none is posted.
        """
        ...

    async def receive(self) -> Sequence[Mail]:
        """Wait for messages to this node; only one task may wait.

        Does not raise `BrokerUnavailable`: it waits until the server answers again.
        """
        ...

    # Sessions.

    async def find(self, session_id: SessionId) -> Found:
        """Look a session up."""
        ...

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Appended]]:
        """Append batches to the logs of sessions that this node owns.

        They are applied in the order of the calls, not of the awaits; the answer need not be
        awaited. A batch that replaces the log also registers the session; one of a higher epoch
        than the known one is accepted.

        If too much waits for the server, or a batch is greater than that (8 MiB), the answer raises
        `BrokerUnavailable` at once.
        """
        ...

    async def read(self, session_id: SessionId) -> Sequence[bytes]:
        """Return the batches of the log of a session, oldest first; the first one replaced all."""
        ...

    async def take(self, session_id: SessionId, *, owner: NodeId | None, epoch: int) -> bool:
        """Make this node the owner of a session, with the next epoch.

        Args:
            session_id: The session.
            owner: Its owner as it was found.
            epoch: Its epoch as it was found.

        Returns:
            Whether owner and epoch were still these; if not, nothing has changed.
        """
        ...

    async def release(
        self,
        record: SessionRecord,
        *,
        to: NodeId | None,
        lease: NodeId,
        waiting: bytes = b"",
        seconds: float,
    ) -> bool:
        """Give a session of this node to another node, or to any node that asks for it.

        Args:
            record: The session, with this node's epoch; the next owner gets the next epoch.
            to: The next owner; None for any.
            lease: The owner of its runs in the store.
            waiting: Its waiting runs, for the next owner.
            seconds: How long it is kept.

        Returns:
            Whether this node was its owner; if not, nothing has changed.
        """
        ...

    async def keep(self, sessions: Mapping[SessionId, float]) -> None:
        """Keep sessions for that many seconds from now; unknown ones are ignored."""
        ...

    async def drop(self, records: Sequence[SessionRecord]) -> None:
        """Forget sessions that have ended, where this node still owns them with this epoch."""
        ...


@frozen
class Published:
    """The place of an event in a room.

    Attributes:
        epoch: Of the room's numbers: they start again in a new epoch.
        offset: From 1.
        is_duplicate: Whether an event with this key was published before; this is its place.
    """

    epoch: str
    offset: int
    is_duplicate: bool = False


@frozen
class Delivery:
    """An event of a room, as a subscriber receives it."""

    room: str
    epoch: str
    offset: int
    data: bytes


@frozen
class History:
    """The newest events of a room.

    Attributes:
        epoch: The current epoch of its numbers.
        offset: The newest offset; 0 before the first event.
        events: Those that were asked for and are kept, oldest first.
        is_exact: Whether none of those that were asked for is missing.
    """

    epoch: str
    offset: int
    events: Sequence[Delivery]
    is_exact: bool


@frozen
class HistoryLimits:
    """How much of a room is kept."""

    events: int = 1000
    seconds: float = 300.0


class Broker(Protocol):
    """Publishes events to rooms, and keeps the newest ones."""

    async def publish(
        self, room: str, data: bytes, *, limits: HistoryLimits, key: str | None = None
    ) -> Published:
        """Append an event to a room, and deliver it to all nodes that subscribe to the room.

        Args:
            room: The name of the room.
            data: The event.
            limits: How much of the room is kept.
            key: Of two events with one key within `KEY_SECONDS`, only the first is published.
        """
        ...

    async def forget(self, room: str) -> None:
        """Drop the events of a room and their keys; its next event is the first of a new epoch.

        Subscriptions stay.
        """
        ...

    async def subscribe(self, room: str) -> History:
        """Receive the events of a room from now on; returns its position, without events."""
        ...

    async def unsubscribe(self, room: str) -> None:
        """Receive the events of a room no longer."""
        ...

    async def history(self, room: str, *, epoch: str, after: int) -> History:
        """Return the events of a room after an offset; not exact if the epoch is another one."""
        ...

    async def receive(self) -> Sequence[Delivery]:
        """Wait for events of the subscribed rooms; only one task may wait.

        Events may be missing after a lost connection or when this node is slow: the offset of the
        next one shows it, and `history` has the missing ones. Kept events that were published
        during a lost connection are delivered after it. Does not raise `BrokerUnavailable`.
        """
        ...


class Backend(Protocol):
    """The directory, the broker and the limits of one node, on one server."""

    @property
    def directory(self) -> Directory:
        """The nodes and sessions."""
        ...

    @property
    def broker(self) -> Broker:
        """The rooms."""
        ...

    @property
    def threads(self) -> ThreadDirectory:
        """The lines of the threads, and the message rate."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits of users and the tickets."""
        ...

    @property
    def usage(self) -> UsageCounters:
        """The usage of users and agents in a day."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the connections open; entered once, before any other call.

        It does not wait for a server that does not answer.

        Raises:
            BrokerUnusable: If the server can never work: a wrong password, or a wrong setting.
        """
        ...

    async def check(self) -> None:
        """Return if the server can answer now; for health.

        Raises:
            BrokerUnavailable: If it cannot; the text has the reason.
        """
        ...

    def statistics(self) -> Mapping[str, float]:
        """Return figures for the metrics: `lag` is the age of the newest answer, in seconds."""
        ...


def check_mail(mail: Sequence[Mail]) -> None:
    """Check the size of messages.

    Raises:
        ValueError: If one has more than `MAIL_BYTES`.
    """
    for each in mail:
        if each.size > MAIL_BYTES:
            raise ValueError(f"a message of {each.size} bytes, of at most {MAIL_BYTES}")
