"""Whether a listener still receives: by probes that go the way of all messages."""

import trio
from attrs import define

PROBE_SECONDS = 1.0  # between two probes
DEAF_SECONDS = 3.0  # without a probe that was sent: the listener needs a new connection


@define(eq=False)
class Ear:
    """The signs of life of one listener."""

    heard_at: float | None = None  # made before the event loop runs
    _unheard_since: float | None = None

    def hear(self) -> None:
        """Note that something has arrived."""
        self.heard_at = trio.current_time()
        self._unheard_since = None

    def expect(self, sent_at: float) -> None:
        """Note that the server has accepted a probe, sent at this time."""
        if self.heard_at is None:
            self.heard_at = sent_at
        elif sent_at > self.heard_at and self._unheard_since is None:
            self._unheard_since = sent_at

    def excuse(self) -> None:
        """Note that the listener does not read now: what has not arrived means nothing."""
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
