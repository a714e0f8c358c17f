"""The token of a client, and where the next one comes from.

token = await Tokens(None, get_token).get()
"""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.client.errors import TokenFailed, TokenUnavailable
from netra_trio.client.sockets import NoAnswer

GetToken = Callable[[], Awaitable[str]]


class Tokens:
    """Keeps a token until it is told to forget it.

    Args:
        token: The token; None where there is a function for it.
        get_token: Returns a new one; None where there is only the one.

    Raises:
        ValueError: Neither is given, or both, or the token is none.
    """

    def __init__(self, token: str | None, get_token: GetToken | None) -> None:
        if (token is None) == (get_token is None):
            raise ValueError("give token or get_token, one of them")
        if token is not None and not _fits(token):
            raise ValueError(_UNFIT)
        self._token = token
        self._get_token = get_token

    @property
    def can_renew(self) -> bool:
        """Whether there may be another one."""
        return self._get_token is not None

    def forget(self) -> None:
        """Ask for another one next time, where there is somebody to ask."""
        if self.can_renew:
            self._token = None

    async def get(self) -> str:
        """Return the token. Cancelling is as safe as it is in `get_token`.

        Raises:
            NoAnswer: There is none right now.
            TokenFailed: There will be none.
        """
        if self._token is None:
            assert self._get_token is not None  # noqa: S101 - the constructor has looked
            try:
                token = await self._get_token()
            except (TokenUnavailable, OSError, trio.TooSlowError) as error:
                raise NoAnswer(f"there is no token now ({type(error).__name__})") from None
            except Exception as error:
                # Its text is the program's own: it may quote anything, so it is only the cause.
                raise TokenFailed(f"get_token raised {type(error).__name__}") from error
            if not _fits(token):
                raise TokenFailed(f"get_token: {_UNFIT}")
            self._token = token
        return self._token


def _fits(token: str) -> bool:
    """Whether it can stand in a header: an exception of the network would show it."""
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


_UNFIT = "expected a token without blanks and line ends in it"
