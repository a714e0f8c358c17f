"""When to connect again, and when not. Rules only; the caller passes the random number.

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

BACK_OFF_SECONDS = (1.0, 30.0)  # the ceiling of the first pause, and of any (docs/client.md)
PROGRESS_SECONDS = 30.0  # a connection that lasted this long resets the back-off

_UNAUTHORIZED, _SERVER_FAULTS = 401, 500
_TEMPORARY = {408, 425, 429}  # Request Timeout, Too Early, Too Many Requests


class Next(Enum):
    """The next step after a failed connection or attempt."""

    RETRY = "retry"
    RENEW = "renew"  # with a new token
    STOP = "stop"  # until the application calls `reconnect`


_AFTER_CLOSE = {
    CloseCode.GOING_AWAY: Next.RETRY,
    ABNORMAL: Next.RETRY,
    CloseCode.INTERNAL: Next.RETRY,
    CloseCode.RESTART: Next.RETRY,
    CloseCode.HEARTBEAT_MISSED: Next.RETRY,
    CloseCode.TOKEN_EXPIRED: Next.RENEW,
}
"""By close code (docs/protocol.md, Close codes); every other code is STOP."""

_DESCRIPTIONS = {
    CloseCode.NORMAL: "the server closed the connection",
    CloseCode.GOING_AWAY: "the server went away",
    ABNORMAL: "the connection was lost",
    CloseCode.TOO_BIG: "a frame was too large",
    CloseCode.INTERNAL: "the server failed",
    CloseCode.RESTART: "the server restarts",
    CloseCode.ERROR_LIMIT: "the server refused too many frames",
    CloseCode.TOKEN_EXPIRED: "the token has expired; with get_token the client would renew it",
    CloseCode.USER_DISABLED: "the user is disabled or removed",
    CloseCode.HEARTBEAT_MISSED: "the server received nothing from the client for too long",
    CloseCode.TAKEN_OVER: "another connection has taken the session over",
    CloseCode.EVICTED: "the user has too many connections: close one, then reconnect",
}


def after_close(code: int) -> Next:
    """Return what to do after a close with this code; 1006 stands for a lost connection."""
    return _AFTER_CLOSE.get(code, Next.STOP)


def describe_close(code: int) -> str:
    """Return in words what a close code means."""
    return _DESCRIPTIONS.get(code, f"the server closed the connection with {code}")


def after_refusal(status: int, *, is_final: bool = True) -> Next:
    """Return what to do after an upgrade was refused with this HTTP status.

    Every 5xx is temporary: a gateway answers 502 or 504 while the server is down.

    Args:
        status: The HTTP status.
        is_final: Whether another refusal is final. It is not if a connection was open before and
            the answer is not one of the server: a proxy may answer anything while the server
            restarts.
    """
    if status == _UNAUTHORIZED:
        return Next.RENEW
    is_temporary = status in _TEMPORARY or status >= _SERVER_FAULTS
    return Next.RETRY if is_temporary or not is_final else Next.STOP


def doubled(first: float, most: float, times: int) -> float:
    """Return a pause that was doubled so often, at most `most`; `first` for no times or fewer."""
    # The exponent is bounded: after a day of failures the power would overflow a float.
    return min(most, first * 2.0 ** min(max(times, 0), 10))


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
        """Count a failed attempt, or a connection that was lost without progress."""
        self.failures += 1

    def progressed(self) -> None:
        """Reset the back-off after a connection that made progress."""
        self.failures = 0

    def pause(self, *, chance: float, at_least: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            chance: A random number from 0 to 1.
            at_least: The seconds that the server asked for. The jitter is added: the server gives
                the same number to all of its clients.
        """
        first, most = BACK_OFF_SECONDS
        return at_least + doubled(first, most, self.failures - 1) * chance
