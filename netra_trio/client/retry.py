"""When to connect again, and when not: rules to which the caller brings the chance.

>>> after_close(1012), after_close(4409), after_refusal(503)
(<Next.RETRY: 'retry'>, <Next.STOP: 'stop'>, <Next.RETRY: 'retry'>)
>>> back_off = BackOff()
>>> back_off.failed(), back_off.failed(), back_off.failed()
(None, None, None)
>>> back_off.pause(chance=0.5)
2.0
"""

from enum import Enum

from netra_trio.protocol.codes import ABNORMAL, CloseCode

BACK_OFF_SECONDS = (1.0, 30.0)  # the ceiling of the first pause, and of any; api's figures
PROGRESS_SECONDS = 30.0  # a connection that lasted so long was a good one, whatever came

_TOO_MANY, _UNAUTHORIZED, _SERVER_FAULTS = 429, 401, 500


class Next(Enum):
    """What to do after a connection or an opening failed."""

    RETRY = "retry"
    RENEW = "renew"  # with a new token
    STOP = "stop"  # until somebody asks for it


_AFTER_CLOSE = {
    CloseCode.GOING_AWAY: Next.RETRY,
    ABNORMAL: Next.RETRY,
    CloseCode.INTERNAL: Next.RETRY,
    CloseCode.RESTART: Next.RETRY,
    CloseCode.HEARTBEAT_MISSED: Next.RETRY,
    CloseCode.TOKEN_EXPIRED: Next.RENEW,
}
"""The contract's section 5; whatever is not in it is STOP."""


def after_close(code: int) -> Next:
    """Say what to do after a connection was closed with this code; 1006 for a lost line."""
    return _AFTER_CLOSE.get(code, Next.STOP)


def after_refusal(status: int) -> Next:
    """Say what to do after an opening was refused with this HTTP status.

    A gateway's 502 or 504 stands for a server that is not there, so every 5xx is tried again.
    """
    if status == _UNAUTHORIZED:
        return Next.RENEW
    return Next.RETRY if status == _TOO_MANY or status >= _SERVER_FAULTS else Next.STOP


class BackOff:
    """Pauses between attempts: exponential, with full jitter.

    Args:
        max_attempts: How many may fail in a row; None for any number.
    """

    def __init__(self, max_attempts: int | None = None) -> None:
        self._max_attempts = max_attempts
        self.failures = 0  # in a row

    @property
    def is_exhausted(self) -> bool:
        """Whether as many attempts failed in a row as may."""
        return self._max_attempts is not None and self.failures >= self._max_attempts

    def failed(self) -> None:
        """Count an attempt that failed, or a connection that was lost before it was any use."""
        self.failures += 1

    def progressed(self) -> None:
        """Begin afresh: the connection was of use."""
        self.failures = 0

    def pause(self, *, chance: float, at_least: float = 0.0) -> float:
        """Return for how long to wait before the next attempt, in seconds.

        Args:
            chance: A random number from 0 to 1.
            at_least: What the server asked for, in seconds. The jitter comes on top: all of a
                server's clients are told the same.
        """
        first, most = BACK_OFF_SECONDS
        # The exponent is bounded: after a day of failures the power would be no float.
        ceiling = min(most, first * 2.0 ** min(max(self.failures - 1, 0), 10))
        return at_least + ceiling * chance
