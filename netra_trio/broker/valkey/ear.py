"""Whether a listener still receives: by probes that go the way of all messages."""

import trio
from attrs import define

PROBE_SECONDS = 1.0  # between two probes
DEAF_SECONDS = 3.0  # without a probe that was sent: the listener needs a new connection


@define(eq=False)
class Ear:
    """The signs of life of one listener.

    Attributes:
        heard_at: When something arrived last.
        is_reading: Whether it reads now; while messages wait to be taken, it does not.
    """

    heard_at: float | None = None  # made before the event loop runs
    is_reading: bool = True
    _unheard_since: float | None = None

    def hear(self) -> None:
        """Note that something has arrived."""
        self.heard_at = trio.current_time()
        self._unheard_since = None

    def expect(self, sent_at: float) -> None:
        """Note that the server has accepted a probe, sent at this time."""
        if self.heard_at is None:
            self.heard_at = sent_at
        if not self.is_reading:
            self._unheard_since = None
        elif sent_at > self.heard_at and self._unheard_since is None:
            self._unheard_since = sent_at

    def forget(self) -> None:
        """Expect only what is sent from now on."""
        self._unheard_since = None

    @property
    def is_deaf(self) -> bool:
        """Whether a probe has not arrived for too long."""
        since = self._unheard_since
        return since is not None and trio.current_time() - since > DEAF_SECONDS

    @property
    def lag(self) -> float:
        """The age of the newest sign of life, in seconds."""
        return 0.0 if self.heard_at is None else trio.current_time() - self.heard_at
