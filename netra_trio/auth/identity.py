"""The identity that a token or a ticket carries, and the checks that both share."""

import math

from attrs import frozen

from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.keepalive import LEEWAY
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.stores.base import User

USER_ID_CHARACTERS = 255  # an OpenID Connect subject's bound, section 2 of its core specification


@frozen
class Identity:
    """Who a connection belongs to.

    Attributes:
        user_id: The token's `sub`.
        expires_at: Unix seconds at which the token ends; infinity where nobody had to show one.
        permissions: What the token allows besides.
    """

    user_id: UserId
    expires_at: float = math.inf
    permissions: frozenset[str] = frozenset()

    @property
    def is_anonymous(self) -> bool:
        """Whether there was no token, so that there is no user in the table either."""
        return self.expires_at == math.inf


def is_user_id(value: object) -> bool:
    """Whether this may be the id of a user."""
    return type(value) is str and 1 <= len(value) <= USER_ID_CHARACTERS and value.isprintable()


def check_expiry(expires_at: float, now: float) -> None:
    """Check that a token has not ended; both are Unix seconds.

    Raises:
        Refused: TOKEN_EXPIRED.
    """
    if now >= expires_at + LEEWAY:
        raise Refused(problem(ErrorCode.TOKEN_EXPIRED, "The token has expired."))


def user_refusal(user: User | None) -> Problem | None:
    """Return why this user may not be here, None if it may."""
    if user is None:
        return problem(ErrorCode.USER_NOT_FOUND, "There is no such user.")
    if not user.enabled:
        return problem(ErrorCode.USER_DISABLED, "The user is disabled.")
    return None


def invalid_token(text: str) -> Refused:
    """Return the refusal of a token or ticket, with INVALID_TOKEN."""
    return Refused(problem(ErrorCode.INVALID_TOKEN, text))
