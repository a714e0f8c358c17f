"""A room whose presence this node knows, and its part in what the nodes share."""

import trio
from attrs import define, field, frozen

from netra_trio.ids import NodeId, UserId
from netra_trio.protocol.rooms import PresenceChange
from netra_trio.rooms.feed import RoomFeed
from netra_trio.rooms.presence_table import PresenceTable


@define(eq=False)
class Shared:
    """What a node shares of a room with the others.

    Attributes:
        dirty: The users whose counts the other nodes have to get.
        is_listening: Whether this node gets the counts of the others.
        position: The epoch and the offset of the newest event with counts; None before the first.
        asked: The nodes whose counts are not known yet; for each, the counts that came meanwhile,
            with their numbers.
        numbers: Of each node that was asked, the number of its answer: earlier events are in it.
        is_settled: Whether the counts of all nodes were known since this node listens.
        is_working: Whether a task shares it.
    """

    dirty: set[UserId] = field(factory=set)
    is_listening: bool = False
    position: tuple[str, int] | None = None
    asked: dict[NodeId, dict[UserId, tuple[int, int]]] = field(factory=dict)
    numbers: dict[NodeId, int] = field(factory=dict)
    is_settled: bool = False
    is_working: bool = False
    _became_current: trio.Event | None = None

    @property
    def is_current(self) -> bool:
        """Whether the counts of all nodes are known."""
        return self.is_listening and not self.asked

    async def wait_until_current(self) -> None:
        """Wait until the counts of all nodes are known. Cancelling is safe."""
        while not self.is_current:
            if self._became_current is None:
                self._became_current = trio.Event()
            await self._became_current.wait()

    def notify(self) -> None:
        """Let tasks look whether the counts are known."""
        if self._became_current is not None:
            self._became_current.set()
            self._became_current = None


@define(eq=False)
class Seat:
    """A join of a member.

    Attributes:
        number: Its number: joins, changes and reads are numbered together.
        time: On Trio's clock.
        read: The number of its newest read of the presence.
    """

    number: int
    time: float
    read: int = 0

    @property
    def knows(self) -> int:
        """The number up to which the member knows who has a connection."""
        return max(self.number, self.read)


@frozen
class News:
    """A change of presence that members have to be told.

    Attributes:
        number: Members that have joined later need not be told.
        since: The user has come back in time, after it went with this number: members that know
            nothing newer still have it as present.
    """

    kind: PresenceChange
    number: int
    since: int = 0


@define(eq=False)
class PresentRoom:
    """A room that has members at this node.

    Attributes:
        name: Its name.
        table: Its users.
        members: The feeds of its members at this node, each with its join.
        since: When the presence of each user at this node began, on Trio's clock.
        found: When users of other nodes came, before this node knew all of them.
        sees: Whether a user may see others, and until when that is used.
        pending: The changes that members are not told yet, the oldest first.
        early: Joins at this node whose users may be present at other nodes: it is not known yet.
        shared: Its part in what the nodes share.
        is_telling: Whether a task tells its members.
    """

    name: str
    table: PresenceTable = field(factory=PresenceTable)
    members: dict[RoomFeed, Seat] = field(factory=dict)
    since: dict[UserId, float] = field(factory=dict)
    found: dict[UserId, float] = field(factory=dict)
    sees: dict[UserId, tuple[bool, float]] = field(factory=dict)
    pending: dict[UserId, News] = field(factory=dict)
    early: dict[UserId, int] = field(factory=dict)
    shared: Shared = field(factory=Shared)
    is_telling: bool = False
