"""The token of a client, and its renewal.

token = await Tokens(None, get_token).get()
"""

from collections.abc import Awaitable, Callable

import trio

from netra_trio.client.errors import TokenFailed, TokenUnavailable
from netra_trio.client.sockets import NoAnswer

GetToken = Callable[[], Awaitable[str]]


class Tokens:
    """Keeps a token until `forget` is called.

    Args:
        token: The token; None if there is a function for it.
        get_token: Returns a new one; None if there is only one token.

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
