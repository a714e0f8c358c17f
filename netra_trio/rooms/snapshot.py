"""The interface `Snapshot`: the runs of a thread, for a connection that begins to watch it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from netra_trio.protocol.fields import JsonObject
from netra_trio.rooms.event import RoomEvent


class Snapshot(Protocol):
    """The runs of a thread that have not ended, taken on all nodes after the room was subscribed.

    The join first waits until the room has received every event up to `offset`. Then it applies the
    events since the subscription, and returns the runs as of the offset of the room.
    """

    @property
    def offset(self) -> int:
        """The newest offset that any part of the snapshot includes; 0 for none."""
        ...

    def apply(self, event: RoomEvent) -> None:
        """Apply an event; no effect if it is included. Called in the order of offsets."""
        ...

    def runs(self, without: Sequence[RoomEvent] = ()) -> tuple[JsonObject, ...]:
        """Return the runs for `room_joined.runs`.

        Args:
            without: The newest events, oldest first, which the connection gets after this: the
                runs are returned as they were before them.
        """
        ...


TakeSnapshot: TypeAlias = Callable[[], Awaitable[Snapshot]]
"""Takes a snapshot; it waits for other nodes, for a second at most."""
