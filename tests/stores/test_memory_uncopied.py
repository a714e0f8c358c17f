"""The sessions in memory that sent events without copies."""

import trio
from trio.testing import MockClock

from netra_trio.ids import SessionId
from netra_trio.stores.base import UNCOPIED_SECONDS
from netra_trio.stores.memory_uncopied import MemoryUncopied

OLD, OTHER = SessionId("sess_old"), SessionId("sess_other")


async def test_the_newest_number_of_a_session_is_kept() -> None:
    uncopied = MemoryUncopied()
    uncopied.note(OLD, 1)
    uncopied.note(OLD, 2)
    assert (uncopied.find(OLD), uncopied.find(OTHER)) == (2, None)


async def test_numbers_are_dropped_in_time(autojump_clock: MockClock) -> None:
    uncopied = MemoryUncopied()
    uncopied.note(OLD, 1)
    await trio.sleep(UNCOPIED_SECONDS - 1)
    uncopied.note(OTHER, 1)
    assert uncopied.find(OLD) == 1
    await trio.sleep(1)
    uncopied.note(OTHER, 2)
    assert (uncopied.find(OLD), uncopied.find(OTHER)) == (None, 2)
