"""The identity that a token or a ticket carries, and the checks that both share."""

import math
from typing import Self

from attrs import frozen

from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.keepalive import LEEWAY
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.stores.base import User

USER_ID_CHARACTERS = 255  # the greatest length of `sub` in OpenID Connect Core 1.0


@frozen
class Identity:
    """The user of a connection.

    Attributes:
        user_id: The `sub` claim of the token.
        expires_at: Unix seconds at which the token expires; infinity without a token.
        permissions: The permissions that the token grants.
    """

    user_id: UserId
    expires_at: float = math.inf
    permissions: frozenset[str] = frozenset()

    @property
    def is_anonymous(self) -> bool:
        """Whether there was no token; an anonymous user has no row in the store."""
        return self.expires_at == math.inf

    def dump(self) -> JsonObject:
        """Return it as JSON, for `load` on another node."""
        return {
            "user_id": self.user_id,
            "expires_at": None if self.is_anonymous else self.expires_at,
            "permissions": sorted(self.permissions),
        }

    @classmethod
    def load(cls, dumped: JsonObject) -> Self:
        """Return the identity that `dump` was called on."""
        expires_at = dumped["expires_at"]
        return cls(
            UserId(dumped["user_id"]),
            math.inf if expires_at is None else expires_at,
            frozenset(dumped["permissions"]),
        )


def is_user_id(value: object) -> bool:
    """Whether this is a valid user id."""
    return type(value) is str and 1 <= len(value) <= USER_ID_CHARACTERS and value.isprintable()


def check_expiry(expires_at: float, now: float) -> None:
    """Check that a token has not expired; both times are Unix seconds.

    Raises:
        Refused: TOKEN_EXPIRED.
    """
    if now >= expires_at + LEEWAY:
        raise Refused(problem(ErrorCode.TOKEN_EXPIRED, "The token has expired."))


def user_refusal(user: User | None) -> Problem | None:
    """Return why this user is refused, None if the user is allowed."""
    if user is None:
        return problem(ErrorCode.USER_NOT_FOUND, "There is no such user.")
    if not user.enabled:
        return problem(ErrorCode.USER_DISABLED, "The user is disabled.")
    return None


def invalid_token(text: str) -> Refused:
    """Return the exception that refuses a token or ticket, with INVALID_TOKEN."""
    return Refused(problem(ErrorCode.INVALID_TOKEN, text))
