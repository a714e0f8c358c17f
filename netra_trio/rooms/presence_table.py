"""The users in one room: counts of connections, for each node.

table = PresenceTable()
table.add_own("alice", 1)
if table.mark_present("alice") == 0:
    ...                             # her first connection, over all nodes
table.add_own("alice", -1)
table.mark_absent("alice", number)  # her last one has ended; she may return
if table.expire("alice", number):
    ...                             # she has left
"""

from collections.abc import Mapping, Sequence

from attrs import define, field

from netra_trio.ids import NodeId, UserId


@define(eq=False)
class PresenceTable:
    """The users in one room.

    Attributes:
        own: The number of connections of each user at this node.
        others: The same at other nodes.
    """

    own: dict[UserId, int] = field(factory=dict)
    others: dict[NodeId, dict[UserId, int]] = field(factory=dict)
    _present: set[UserId] = field(factory=set)
    _leaving: dict[UserId, int] = field(
        factory=dict
    )  # absent users, each with the number of `mark_absent`

    def count(self, user_id: UserId) -> int:
        """Return the number of connections of a user over all nodes."""
        others = sum(users.get(user_id, 0) for users in self.others.values())
        return self.own.get(user_id, 0) + others

    def is_elsewhere(self, user_id: UserId) -> bool:
        """Whether a user has a connection at another node."""
        return any(user_id in users for users in self.others.values())

    def totals(self) -> dict[UserId, int]:
        """Return the number of connections of each user that has one."""
        return total_of([self.own, *self.others.values()])

    def add_own(self, user_id: UserId, connections: int) -> bool:
        """Add connections of this node (-1 removes one); return whether the user has any here."""
        count = self.own.pop(user_id, 0) + connections
        if count:
            self.own[user_id] = count
        return bool(count)

    def update(self, node: NodeId, users: Mapping[UserId, int]) -> None:
        """Set counts of another node; 0 removes a user."""
        counts = self.others.setdefault(node, {})
        counts.update(users)
        for user_id in users:
            if not counts[user_id]:
                del counts[user_id]
        if not counts:
            del self.others[node]

    def replace(self, node: NodeId, users: Mapping[UserId, int]) -> set[UserId]:
        """Set all counts of another node; return the users whose count may have changed."""
        before = self.others.pop(node, {})
        self.update(node, users)
        return before.keys() | users.keys()

    def mark_present(self, user_id: UserId) -> int | None:
        """Note that a user has a connection.

        Returns:
            0 if the user was not present; the number of its `mark_absent` if it has returned within
            the grace period; None if it was present.
        """
        number = self._leaving.pop(user_id, None)
        if number is not None:
            return number
        if user_id in self._present:
            return None
        self._present.add(user_id)
        return 0

    def mark_absent(self, user_id: UserId, number: int) -> bool:
        """Note that a user has no connection, with a number; return whether that is a change."""
        if user_id not in self._present or user_id in self._leaving:
            return False
        self._leaving[user_id] = number
        return True

    def remove(self, user_id: UserId) -> None:
        """Remove a user without a connection at once."""
        self._present.discard(user_id)

    def expire(self, user_id: UserId, number: int) -> bool:
        """Remove a user that became absent with a number; return False if it has returned."""
        if self._leaving.get(user_id) != number:
            return False
        del self._leaving[user_id]
        self._present.remove(user_id)
        return True


def total_of(counts: Sequence[Mapping[UserId, int]]) -> dict[UserId, int]:
    """Return the sum of the counts of several nodes."""
    totals: dict[UserId, int] = {}
    for users in counts:
        for user_id, connections in users.items():
            totals[user_id] = totals.get(user_id, 0) + connections
    return totals
