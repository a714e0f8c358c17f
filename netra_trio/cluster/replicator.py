"""The replicator: copies the events of all sessions of a node to the directory.

Events that are held are sent at once, all others up to `FLUSH_SECONDS` later, the batches of all
sessions together. A flush does not wait for the answer to the one before, and a limited number of
them is on the way: beyond it, new events wait in the sessions' own logs, which have bounds.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog
import trio

from netra_trio.broker.base import Appended, Directory
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import SessionId
from netra_trio.sessions.replica import Collected, Replica

FLUSH_SECONDS = 0.1  # after a new event: at a model's pace, a few events are in each batch
HOLD_SECONDS = 0.05  # that a confirmation waits for its copy, before it is sent without
NOTE_SECONDS = 2.0  # that it waits for the store then, as the end of a run does
FLUSHES = 8  # on the way at the same time
RETRY_SECONDS = 0.25  # after the directory did not answer

NoteUncopied: TypeAlias = Callable[[SessionId, int], Awaitable[None]]

_Answers: TypeAlias = Awaitable[Sequence[Appended]]

_log = structlog.get_logger(__name__)


class Replicator:
    """Copies sessions to the directory.

    Args:
        directory: Receives the batches.
        note_uncopied: Notes in the store which event of a session is sent without a copy. So no
            other node takes the copy for complete.
    """

    def __init__(self, directory: Directory, note_uncopied: NoteUncopied) -> None:
        self._directory = directory
        self._note_uncopied = note_uncopied
        self._changed: dict[Replica, None] = {}
        self._has_changed = trio.Event()
        self._urgent = trio.Event()
        # The number of the first held event of each, and when it gives up; the earliest first.
        self._holding: dict[Replica, tuple[int, float]] = {}
        self._is_holding = trio.Event()
        self._slots = trio.Semaphore(FLUSHES)
        self._settled = trio.Event()  # set with each answer, and replaced

    def note(self, replica: Replica, is_held: bool) -> None:
        """Note that a session has something to copy."""
        if not self._changed:
            self._has_changed.set()
        self._changed[replica] = None
        if is_held:
            self._urgent.set()
            if replica not in self._holding:
                self._holding[replica] = (replica.held_from, trio.current_time() + HOLD_SECONDS)
                self._is_holding.set()

    def hurry(self) -> None:
        """Copy at once what has changed."""
        self._urgent.set()

    @property
    def unreplicated(self) -> int:
        """The number of sessions that have something to copy."""
        return len(self._changed)

    def forget(self, replica: Replica) -> None:
        """Copy a session no longer."""
        self._changed.pop(replica, None)
        self._holding.pop(replica, None)

    async def flush(self, replica: Replica, *, seconds: float) -> bool:
        """Wait until a session is copied completely; return whether it is."""
        with trio.move_on_after(seconds):
            while not replica.is_complete and not replica.is_fenced:
                self.note(replica, is_held=False)
                self._urgent.set()
                await self._settled.wait()
        return replica.is_complete

    async def run(self) -> None:
        """Copy what changes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up_late, nursery)
            while True:
                if not self._changed:
                    self._has_changed = trio.Event()
                    await self._has_changed.wait()
                with trio.move_on_after(FLUSH_SECONDS):
                    await self._urgent.wait()
                await self._slots.acquire()
                self._urgent = trio.Event()
                self._flush(nursery)

    def _flush(self, nursery: trio.Nursery) -> None:
        changed, self._changed = self._changed, {}
        replicas: list[Replica] = []
        collected: list[Collected] = []
        for replica in changed:
            part = replica.collect()
            if part is not None:
                replicas.append(replica)
                collected.append(part)
        if not collected:
            self._slots.release()
            return
        nursery.start_soon(self._settle, replicas, collected, self._send(collected))

    def _send(self, collected: Sequence[Collected]) -> _Answers:
        return self._directory.append([part.batch for part in collected])

    async def _settle(
        self, replicas: Sequence[Replica], collected: Sequence[Collected], answers: _Answers
    ) -> None:
        results: Sequence[Appended | None]
        try:
            results = await answers
        except BrokerUnavailable:
            results = [None] * len(collected)
            await trio.sleep(RETRY_SECONDS)
        finally:
            self._slots.release()
        for replica, part, result in zip(replicas, collected, results, strict=True):
            try:
                replica.settle(part, result)
            except Exception:  # of one session: all others are still copied
                _log.exception("settle_failed", session_id=replica.record.session_id)
        self._settled.set()
        self._settled = trio.Event()

    async def _give_up_late(self, nursery: trio.Nursery) -> None:
        """Let go what is held for too long, until cancelled."""
        while True:
            if not self._holding:
                self._is_holding = trio.Event()
                await self._is_holding.wait()
            first = next(iter(self._holding.values()), None)
            if first is None:  # it was forgotten before this task ran
                continue
            await trio.sleep_until(first[1])
            now = trio.current_time()
            for replica, (held_from, due) in list(self._holding.items()):
                if due > now:
                    break
                del self._holding[replica]
                if replica.held_from == held_from:
                    nursery.start_soon(self._give_up, replica, held_from)
                elif replica.is_holding:  # a later event
                    self._holding[replica] = (replica.held_from, now + HOLD_SECONDS)

    async def _give_up(self, replica: Replica, held_from: int) -> None:
        """Let the events of a session go without a copy, unless they are copied meanwhile."""
        session_id = replica.record.session_id
        with trio.move_on_after(NOTE_SECONDS):
            try:
                await self._note_uncopied(session_id, held_from)
            except StoreUnavailable:
                _log.warning("session_not_noted", session_id=session_id)
        if replica.held_from == held_from:
            _log.info("session_unreplicated", session_id=session_id)
            replica.give_up()
        elif replica.is_holding and replica not in self._holding:
            self._holding[replica] = (replica.held_from, trio.current_time() + HOLD_SECONDS)
            self._is_holding.set()
