"""The numbers of a session's events: which were received, and which to acknowledge.

Rules only; the caller passes the time.

>>> sequence = SequenceTracker()
>>> sequence.begin("sess_1", last_seq=0, replayed=0)
>>> sequence.receive(1, 3).is_new, sequence.receive(2, 2).is_new
(True, False)
>>> sequence.ack(now=0.0, held_from=None)
3
"""

from math import inf

from attrs import define, frozen

ACK_NUMBERS = 32  # this many unacknowledged numbers are acknowledged at once (docs/protocol.md)
ACK_SECONDS = 1.0  # fewer wait at most this long (docs/protocol.md)


@frozen
class Receipt:
    """The result of receiving an event.

    Attributes:
        is_new: Whether the event is to be delivered: it is received for the first time.
        missing: The first and the last number that never came, where some are missing.
    """

    is_new: bool
    missing: tuple[int, int] | None = None


@define
class SequenceTracker:
    """The position in a session's numbers.

    Attributes:
        session_id: The session; None before the first hello.
        last_seq: The highest number that was received.
        acknowledged: The highest number that was acknowledged.
        replay_to: The last number that was in the server's log when the connection opened; 0 once
            it was received.
    """

    session_id: str | None = None
    last_seq: int = 0
    acknowledged: int = 0
    replay_to: int = 0
    _acked_at: float = -inf

    def caught_up(self) -> bool:
        """Return whether the replay of this connection is complete; True only once."""
        if not self.replay_to or self.last_seq < self.replay_to:
            return False
        self.replay_to = 0
        return True

    def query(self) -> dict[str, str]:
        """Return the query parameters that resume the session."""
        if self.session_id is None:
            return {}
        return {"session_id": self.session_id, "last_seq": str(self.last_seq)}

    def begin(self, session_id: str, *, last_seq: int, replayed: int) -> None:
        """Begin a connection: events follow after `last_seq`, `replayed` numbers at once."""
        self.session_id = session_id
        # The `last_seq` of the upgrade request is an acknowledgement, too.
        self.last_seq = self.acknowledged = last_seq
        self.replay_to = last_seq + replayed if replayed else 0
        self._acked_at = -inf

    def receive(self, first: int, last: int) -> Receipt:
        """Receive the event that covers the numbers from `first` to `last`.

        A conforming server skips no number, and does not merge events across a number that was
        received. If one does, the missing numbers are reported, and no text is delivered twice.
        """
        before = self.last_seq
        if last <= before:
            return Receipt(is_new=False)
        self.last_seq = last
        if first <= before:
            return Receipt(is_new=False, missing=(before + 1, last))
        return Receipt(is_new=True, missing=(before + 1, first - 1) if first > before + 1 else None)

    def ack(self, now: float, held_from: int | None) -> int | None:
        """Return the number to acknowledge now, or None; it counts as acknowledged afterwards.

        Args:
            now: Seconds.
            held_from: The oldest number that a reader of events has not taken yet.
        """
        if now < self.ack_at(held_from):
            return None
        self._acked_at = now
        self.acknowledged = self._ackable(held_from)
        return self.acknowledged

    def ack_at(self, held_from: int | None) -> float:
        """Return when the next acknowledgement is due; infinity if there is none."""
        waiting = self._ackable(held_from) - self.acknowledged
        if waiting <= 0:
            return inf
        return -inf if waiting >= ACK_NUMBERS else self._acked_at + ACK_SECONDS

    def _ackable(self, held_from: int | None) -> int:
        return self.last_seq if held_from is None else min(self.last_seq, held_from - 1)
