"""What has come in of a session, and what of it to acknowledge: rules; the caller brings `now`.

>>> delivery = Delivery()
>>> delivery.begin("sess_1", last_seq=0, replayed=0)
>>> delivery.take(1, 3).is_new, delivery.take(2, 2).is_new
(True, False)
>>> delivery.ack(now=0.0, held_from=None)
3
"""

from math import inf

from attrs import define, frozen

ACK_NUMBERS = 32  # so many unacknowledged numbers are acknowledged at once; the contract, section 4
ACK_SECONDS = 1.0  # and fewer every so often; likewise


@frozen
class Taken:
    """What became of an event.

    Attributes:
        is_new: Whether it is to be shown: seen for the first time.
        missing: The first and the last number that never came, where some did not.
    """

    is_new: bool
    missing: tuple[int, int] | None = None


@define
class Delivery:
    """The place in a session's numbers.

    Attributes:
        session_id: The session; None before the first welcome.
        last_seq: The highest number that came.
        acknowledged: The highest number that was acknowledged.
        replay_to: The last number that was in the log when the connection opened; 0 once it came.
    """

    session_id: str | None = None
    last_seq: int = 0
    acknowledged: int = 0
    replay_to: int = 0
    _acked_at: float = -inf

    def caught_up(self) -> bool:
        """Whether all that was in the log when the connection opened has come; True once."""
        if not self.replay_to or self.last_seq < self.replay_to:
            return False
        self.replay_to = 0
        return True

    def query(self) -> dict[str, str]:
        """Return what to put into the query of an opening."""
        if self.session_id is None:
            return {}
        return {"session_id": self.session_id, "last_seq": str(self.last_seq)}

    def begin(self, session_id: str, *, last_seq: int, replayed: int) -> None:
        """Go on after a welcome: events follow after `last_seq`, `replayed` numbers at once."""
        self.session_id = session_id
        # What the opening said was seen is acknowledged by it.
        self.last_seq = self.acknowledged = last_seq
        self.replay_to = last_seq + replayed if replayed else 0
        self._acked_at = -inf

    def take(self, first: int, last: int) -> Taken:
        """Take in the event that stands for the numbers from `first` to `last`.

        A server of this contract leaves nothing out, and merges nothing across what was seen. If
        it does, that is told and no text is shown twice.
        """
        before = self.last_seq
        if last <= before:
            return Taken(is_new=False)
        self.last_seq = last
        if first <= before:
            return Taken(is_new=False, missing=(before + 1, last))
        return Taken(is_new=True, missing=(before + 1, first - 1) if first > before + 1 else None)

    def ack(self, now: float, held_from: int | None) -> int | None:
        """Return the number to acknowledge now, None where there is none; it is taken as sent.

        Args:
            now: Seconds.
            held_from: The oldest number that a reader of events has yet to take.
        """
        if now < self.ack_at(held_from):
            return None
        self._acked_at = now
        self.acknowledged = self._ackable(held_from)
        return self.acknowledged

    def ack_at(self, held_from: int | None) -> float:
        """Return when the next acknowledgement is due; infinity where there is nothing."""
        waiting = self._ackable(held_from) - self.acknowledged
        if waiting <= 0:
            return inf
        return -inf if waiting >= ACK_NUMBERS else self._acked_at + ACK_SECONDS

    def _ackable(self, held_from: int | None) -> int:
        return self.last_seq if held_from is None else min(self.last_seq, held_from - 1)
