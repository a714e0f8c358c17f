"""The sessions in memory that sent events before these were copied to the directory.

uncopied = MemoryUncopied()
uncopied.note(session_id, 17)
"""

import trio

from netra_trio.ids import SessionId
from netra_trio.stores.base import UNCOPIED_SECONDS


class MemoryUncopied:
    """The numbers of events that were sent without copies, for `UNCOPIED_SECONDS`."""

    def __init__(self) -> None:
        self._noted: dict[SessionId, tuple[int, float]] = {}  # a number, and when it was noted

    def note(self, session_id: SessionId, number: int) -> None:
        """Note that a session sends an event, and later ones, that no other node can know."""
        now = trio.current_time()
        noted = self._noted
        noted.pop(session_id, None)
        for old in [old for old, (_, at) in noted.items() if at + UNCOPIED_SECONDS <= now]:
            del noted[old]
        noted[session_id] = (number, now)

    def find(self, session_id: SessionId) -> int | None:
        """Return the number that was noted last for a session, None if none was."""
        number, _ = self._noted.get(session_id, (None, 0.0))
        return number
