"""The presence of a room at this node, and the state that is shared with other nodes."""

import trio
from attrs import define, field, frozen

from netra_trio.ids import NodeId, UserId
from netra_trio.protocol.rooms import PresenceChange
from netra_trio.rooms.feed import RoomFeed
from netra_trio.rooms.presence_table import PresenceTable


@define(eq=False)
class Shared:
    """The presence of a room that a node shares with the others.

    Attributes:
        dirty: The users whose counts have to be published.
        is_listening: Whether this node receives the counts of the others.
        position: The epoch and the offset of the newest event with counts; None before the first.
        awaited: The nodes whose counts are requested; for each, the counts that arrived meanwhile,
            with their numbers.
        numbers: Of each node that has answered, the number of its answer, which includes all
            earlier events.
        is_settled: Whether the counts of all nodes were known since this node listens.
        is_working: Whether a task is sharing it.
    """

    dirty: set[UserId] = field(factory=set)
    is_listening: bool = False
    position: tuple[str, int] | None = None
    awaited: dict[NodeId, dict[UserId, tuple[int, int]]] = field(factory=dict)
    numbers: dict[NodeId, int] = field(factory=dict)
    is_settled: bool = False
    is_working: bool = False
    _became_current: trio.Event | None = None

    @property
    def is_current(self) -> bool:
        """Whether the counts of all nodes are known."""
        return self.is_listening and not self.awaited

    async def wait_until_current(self) -> None:
        """Wait until the counts of all nodes are known. Cancelling is safe."""
        while not self.is_current:
            if self._became_current is None:
                self._became_current = trio.Event()
            await self._became_current.wait()

    def notify(self) -> None:
        """Wake the tasks that wait for the counts."""
        if self._became_current is not None:
            self._became_current.set()
            self._became_current = None


@define(eq=False)
class JoinRecord:
    """A join of a member.

    Attributes:
        number: Its number; joins, changes and reads have one sequence of numbers.
        time: On Trio's clock.
        read: The number of its newest read of the presence.
    """

    number: int
    time: float
    read: int = 0

    @property
    def seen(self) -> int:
        """The number up to which the member has the presence."""
        return max(self.number, self.read)


@frozen
class PendingChange:
    """A change of presence that has to be sent to members.

    Attributes:
        number: Members that joined later do not need it.
        since: The number at which the user had become absent, if it has returned within the grace
            period: members that have nothing newer still have it as present. 0 for none.
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
        found: When users of other nodes joined, before the counts of all nodes were known.
        can_see: Whether a user may see others, and until when that result is used.
        pending: The changes that are not sent yet, oldest first.
        early: Joins at this node before the counts of all nodes were known.
        shared: The state that is shared with other nodes.
        is_sending: Whether a task is sending changes to its members.
    """

    name: str
    table: PresenceTable = field(factory=PresenceTable)
    members: dict[RoomFeed, JoinRecord] = field(factory=dict)
    since: dict[UserId, float] = field(factory=dict)
    found: dict[UserId, float] = field(factory=dict)
    can_see: dict[UserId, tuple[bool, float]] = field(factory=dict)
    pending: dict[UserId, PendingChange] = field(factory=dict)
    early: dict[UserId, int] = field(factory=dict)
    shared: Shared = field(factory=Shared)
    is_sending: bool = False
