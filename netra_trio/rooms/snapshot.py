"""The interface `Snapshot`: the runs of a thread, for a connection that begins to watch it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from netra_trio.protocol.fields import JsonObject
from netra_trio.rooms.event import RoomEvent


class Snapshot(Protocol):
    """The runs of a thread that have not ended, taken on all nodes after the room was subscribed.

    The room first waits until it has received every event up to `offset`; then it applies what it
    has received since it was subscribed, and shows the runs as of its own offset.
    """

    @property
    def offset(self) -> int:
        """The newest offset that any part of the snapshot includes; 0 for none."""
        ...

    def apply(self, event: RoomEvent) -> None:
        """Include an event; no effect for one that is included. Called in the order of offsets."""
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
