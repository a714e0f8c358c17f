"""The pause before a process that has ended is started again.

>>> backoff = Backoff()
>>> [backoff.next(lived=0.0) for _ in range(3)], backoff.next(lived=60.0)
([0.1, 0.2, 0.4], 0.1)
"""

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0
STABLE_SECONDS = 30.0  # a process that lived so long starts again after the first pause


class Backoff:
    """Pauses that double, for one process."""

    def __init__(self) -> None:
        self._seconds = FIRST_SECONDS

    def next(self, *, lived: float) -> float:
        """Return the pause in seconds after a process that lived for some seconds."""
        if lived >= STABLE_SECONDS:
            self._seconds = FIRST_SECONDS
        pause, self._seconds = self._seconds, min(self._seconds * 2, LONGEST_SECONDS)
        return pause
