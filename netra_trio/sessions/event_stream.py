"""What a session says: its numbered events, whoever reads them, and who waits for room.

    journal = EventStream(settings, acknowledging=True, wall_clock=time.time)
    journal.attach(outbox)                  # a socket reads it from here on
    journal.append(event, size, correlation_id)
    frames = journal.take(outbox, max_bytes=65536)

A run writes here, a connection's writer takes from here, and neither knows the other. A socket that
was replaced gets nothing any more, whatever its writer still asks for.
"""

from collections.abc import Callable, Iterable

import trio

from netra_trio.config.settings import Settings
from netra_trio.ids import CorrelationId
from netra_trio.protocol.codec import Encoded, encode_event, encode_problem
from netra_trio.protocol.messages import Event
from netra_trio.protocol.problem import Problem
from netra_trio.sessions.delivery import Delivery
from netra_trio.sessions.event_log import Entry, EventLog, Rewound
from netra_trio.sessions.outbox import Outbox
from netra_trio.sessions.transcript import Transcript
from netra_trio.telemetry.metrics import Metrics

WRITER_TURNS = 4  # of the loop until a writer has taken what it was rung for: it waits two itself


class EventStream:
    """The events of one session.

    Args:
        settings: The limits.
        acknowledging: Whether the client acknowledges events.
        wall_clock: Returns Unix seconds.
        figures: Where it is counted.

    Attributes:
        log: The events, with their numbers.
        transcript: What a client that comes back is told of runs; None where none can.
        delivery: Sees what goes out.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        acknowledging: bool,
        wall_clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        resumes = settings.resume_window_ms > 0
        self.log = EventLog(
            max_events=settings.replay_events,
            max_bytes=settings.replay_bytes,
            acknowledging=acknowledging,
            keeps_ring=resumes,
        )
        self.transcript = Transcript() if resumes else None
        self.acknowledging = acknowledging
        self.delivery = Delivery(metrics)
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._outbox: Outbox | None = None
        self._room = trio.lowlevel.ParkingLot()
        self._was_full = False

    # What a connection does with it. None of it waits.

    @property
    def is_attached(self) -> bool:
        """Whether there is a socket."""
        return self._outbox is not None

    def attach(self, outbox: Outbox) -> None:
        """Let this socket's writer be told of news, in place of any other."""
        self._outbox = outbox
        if self.log.has_pending:
            outbox.ring()

    def detach(self, outbox: Outbox) -> bool:
        """Forget the socket; return whether it was still the one."""
        if self._outbox is not outbox:
            return False
        self._outbox = None
        self.delivery.settle()
        self.delivery.lost()
        return True

    def acknowledge(self, seq: int) -> None:
        """Let go of every event up to `seq`; of a plain client it means nothing.

        Raises:
            ValueError: If `seq` was never written.
        """
        if self.acknowledging:
            self._forget(self.log.acknowledge(seq))

    def knows(self, seq: int) -> bool:
        """Whether a client may have seen this number."""
        return seq <= self.log.written

    def rewind(self, last_seq: int) -> Rewound:
        """Let the next socket go on after `last_seq`.

        Raises:
            ValueError: If `last_seq` was never written.
        """
        rewound = self.log.rewind(last_seq)
        self._forget(rewound.forgotten)
        return rewound

    def take(self, outbox: Outbox, *, max_bytes: int, lags: bool = False) -> list[bytes]:
        """Return the next events for a socket, encoded; none for one that was replaced.

        Args:
            outbox: Whose writer asks.
            max_bytes: Of all of them together, as the log counts.
            lags: Whether the transport blocked in the write before.
        """
        if self._outbox is not outbox:
            return []
        entries = self.log.take(max_bytes=max_bytes, merge=lags or self._was_full)
        self._was_full = False
        if entries:
            self.delivery.took(entries)
            if not self.acknowledging:
                self._forget(self.log.trim())
                self._room.unpark_all()
        return [
            encode_event(e.event, e.timestamp, e.correlation_id, e.seq, e.seq_from) for e in entries
        ]

    def has_pending(self, outbox: Outbox) -> bool:
        """Whether there is something to write for this socket."""
        return self._outbox is outbox and self.log.has_pending

    # What runs and their session do with it.

    async def wait_for_room(self, size: int) -> None:
        """Wait until an event of `size` bytes fits; cancelling is safe.

        A log that is full makes room by merging what was never written; before that a writer that
        keeps up has its turn, so that its client gets every delta as it was.
        """
        if self.log.has_room(size):
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        for _ in range(WRITER_TURNS if self.is_attached else 1):
            await trio.lowlevel.checkpoint()
            if self.log.has_room(size):
                return
        while True:
            self._was_full = True
            self.log.merge()
            if self.log.has_room(size):
                return
            await self._room.park()

    def append(
        self,
        event: Event | Encoded,
        size: int,
        correlation_id: CorrelationId,
        *,
        reserved: bool = False,
        more: bool = False,
        is_last: bool = False,
    ) -> None:
        """Put an event into the log and tell the socket, if there is one.

        Where `more` follows in a moment, that tells the socket of both: a wake less. What `is_last`
        leaves nothing to wait for.
        """
        self.log.append(event, size, reserved, self._wall_clock(), correlation_id)
        if not self.acknowledging:
            self._forget(self.log.trim())
        if self._outbox is not None and not (more and self.log.has_room(0)):
            self._outbox.ring(is_last=is_last)

    async def tell(self, fault: Problem, correlation_id: CorrelationId | None) -> None:
        """Send an error; without a socket nobody is there to be told, and asks again."""
        if self._outbox is not None:
            self._metrics.note_error(fault.code)
            await self._outbox.put(encode_problem(fault, self._wall_clock(), correlation_id))

    def _forget(self, entries: Iterable[Entry]) -> None:
        if not entries:
            return
        if self.transcript is not None:
            self.transcript.forget(entries)
        if self._room:
            self._room.unpark_all()
