"""Whether a listener still receives: by probes that go the way of all messages."""

import trio
from attrs import define

PROBE_SECONDS = 1.0  # between two probes
SILENT_SECONDS = 3.0  # without a probe that was sent: the listener needs a new connection


@define(eq=False)
class Listening:
    """The signs of life of one listener.

    Attributes:
        received_at: When something arrived last.
        is_reading: Whether it reads now; while messages wait to be taken, it does not.
    """

    received_at: float | None = None  # made before the event loop runs
    is_reading: bool = True
    _missing_since: float | None = None

    def note_received(self) -> None:
        """Note that something has arrived."""
        self.received_at = trio.current_time()
        self._missing_since = None

    def note_probe(self, sent_at: float) -> None:
        """Note that the server has accepted a probe, sent at this time."""
        if self.received_at is None:
            self.received_at = sent_at
        if not self.is_reading:
            self._missing_since = None
        elif sent_at > self.received_at and self._missing_since is None:
            self._missing_since = sent_at

    def forget(self) -> None:
        """Expect only what is sent from now on."""
        self._missing_since = None

    @property
    def is_silent(self) -> bool:
        """Whether a probe has not arrived for too long."""
        since = self._missing_since
        return since is not None and trio.current_time() - since > SILENT_SECONDS

    @property
    def lag(self) -> float:
        """The age of the newest sign of life, in seconds."""
        return 0.0 if self.received_at is None else trio.current_time() - self.received_at
