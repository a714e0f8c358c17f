"""The token of a client, and its renewal.

token = await Tokens(None, get_token).get()
"""

import math
from collections.abc import Awaitable, Callable

import trio

from netra_trio.client.errors import TokenFailed, TokenUnavailable
from netra_trio.client.retry import doubled
from netra_trio.client.sockets import NoAnswer

TOKEN_SECONDS = 5.0  # between two calls of `get_token` while the present token is valid
LONGEST_SECONDS = 30.0  # that grows to: half of the minute that is left at the first warning
SPREAD = 0.25  # of it, at random: the tokens of many clients may end together

GetToken = Callable[[], Awaitable[str]]


class Renewals:
    """When to ask for a new token: spaced, with back-off, over all connections.

    >>> renewals = Renewals()
    >>> renewals.pause(now=0.0, left=60.0)
    0.0
    >>> renewals.started(0.0, chance=0.0)
    >>> renewals.pause(now=1.0, left=60.0), renewals.pause(now=100.0, left=60.0)
    (4.0, 0.0)
    """

    def __init__(self) -> None:
        self._attempts = 0
        self._last_at = -math.inf
        self._chance = 0.0

    def pause(self, now: float, left: float) -> float:
        """Return the seconds until the next attempt.

        Args:
            now: The present time, in seconds.
            left: Seconds that the present token lasts.
        """
        back_off = doubled(TOKEN_SECONDS, LONGEST_SECONDS, self._attempts - 1)
        # A token that ends sooner gets its attempts sooner, but never closer together.
        gap = max(TOKEN_SECONDS, min(back_off, left / 2)) * (1 + SPREAD * self._chance)
        return max(0.0, self._last_at + gap - now)

    def started(self, now: float, chance: float) -> None:
        """Note an attempt, with a random number from 0 to 1."""
        # The server warns a minute before the end: a token that has lasted ends the back-off.
        is_calm = now - self._last_at > LONGEST_SECONDS * (1 + SPREAD) + TOKEN_SECONDS
        self._attempts = 1 if is_calm else self._attempts + 1
        self._last_at, self._chance = now, chance


class Tokens:
    """Keeps a token until `forget` is called.

    Args:
        token: The token; None if there is a function for it.
        get_token: Returns a new one; None if there is only one token.

    Attributes:
        renewals: When to renew it.

    Raises:
        ValueError: Not exactly one of the two is given, or the token is not valid in a header.
    """

    def __init__(self, token: str | None, get_token: GetToken | None) -> None:
        if (token is None) == (get_token is None):
            raise ValueError("give token or get_token, one of them")
        if token is not None and not _fits(token):
            raise ValueError(_UNFIT)
        self._token = token
        self._get_token = get_token
        self.renewals = Renewals()

    @property
    def can_renew(self) -> bool:
        """Whether there is a function that returns a new token."""
        return self._get_token is not None

    def forget(self) -> None:
        """Call `get_token` next time; does nothing if there is only one token."""
        if self.can_renew:
            self._token = None

    async def get(self) -> str:
        """Return the token. Cancelling is as safe as it is in `get_token`.

        Raises:
            NoAnswer: There is no token now.
            TokenFailed: `get_token` failed.
        """
        if self._token is None:
            assert self._get_token is not None  # noqa: S101 - the constructor has checked
            try:
                token = await self._get_token()
            except (TokenUnavailable, OSError, trio.TooSlowError) as error:
                raise NoAnswer(f"there is no token now ({type(error).__name__})") from None
            except Exception as error:
                # The text of that exception may contain the token, so it is only the cause.
                raise TokenFailed(f"get_token raised {type(error).__name__}") from error
            if not _fits(token):
                raise TokenFailed(f"get_token: {_UNFIT}")
            self._token = token
        return self._token


def _fits(token: str) -> bool:
    """Return whether a token is valid in a header; an error of the HTTP library would show it."""
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


_UNFIT = "expected a token without blanks and line ends"
