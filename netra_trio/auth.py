"""Who is there: token to `Identity`, and tickets that stand for a token once.

>>> verifier = TokenVerifier(secret="0123456789abcdef0123456789abcdef")
>>> token = verifier.sign("alice", expires_at=1000.0)
>>> verifier.verify(token, now=999.0).user_id
'alice'
"""

import math
import secrets
from collections import deque
from collections.abc import Iterable
from typing import Any, Self

import jwt
from attrs import frozen

from netra_trio.codes import ErrorCode
from netra_trio.errors import Problem, Refused, SettingsError, problem
from netra_trio.ids import UserId
from netra_trio.interfaces import User
from netra_trio.protocol.liveness import LEEWAY
from netra_trio.settings import Settings

TOKEN_CHARACTERS = 8192  # half of the request head that carries it; ten megabytes take 14 ms
USER_ID_CHARACTERS = 255  # an OpenID Connect subject's bound, section 2 of its core specification

TICKET_SECONDS = 30  # the contract's figure, section 1
TICKETS_PER_USER = 20  # ten tabs that open twice within a ticket's life
TICKETS = 20_000  # two for each connection that the default limit allows


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


class TokenVerifier:
    """Verifies JSON Web Tokens with a shared secret.

    Args:
        secret: The key of the HMAC.
        algorithms: The algorithms that are accepted.
        issuer: What `iss` has to be; None for anything.
        audience: What `aud` has to contain; None for anything.
    """

    def __init__(
        self,
        secret: str,
        *,
        algorithms: Iterable[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
    ) -> None:
        self._secret = secret
        self._algorithms = tuple(algorithms)
        self._issuer = issuer
        self._audience = audience

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the verifier that the settings ask for.

        Raises:
            SettingsError: If they have no secret.
        """
        if settings.jwt_secret_key is None:
            raise SettingsError("JWT_SECRET_KEY: not set, expected a secret for tokens")
        return cls(
            settings.jwt_secret_key,
            algorithms=settings.jwt_algorithms,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
        )

    def verify(self, token: str, now: float) -> Identity:
        """Return whose token it is; `now` is Unix seconds.

        Raises:
            Refused: INVALID_TOKEN or TOKEN_EXPIRED, with a text that says what is wrong with the
                token and has nothing of it.
        """
        if len(token) > TOKEN_CHARACTERS:
            raise _invalid(f"The token has more than {TOKEN_CHARACTERS} characters.")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=list(self._algorithms),
                issuer=self._issuer,
                audience=self._audience,
                # Times are checked below, against the caller's clock.
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                    "verify_sub": False,  # checked below too
                },
            )
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f'The token lacks the claim "{error.claim}".') from None
        except jwt.PyJWTError as error:
            raise _invalid(_WHY.get(type(error), "The token is malformed.")) from None
        except (ValueError, TypeError, OverflowError, RecursionError, UnicodeError):
            # What a hostile header or payload makes the parsers below raise.
            raise _invalid("The token is malformed.") from None
        return self._identity(claims, now)

    def sign(self, user_id: str, *, expires_at: float, permissions: Iterable[str] = ()) -> str:
        """Return a token of this user that this verifier accepts until `expires_at` (Unix s)."""
        claims: dict[str, Any] = {"sub": user_id, "exp": int(expires_at)}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audience is not None:
            claims["aud"] = self._audience
        granted = sorted(permissions)
        if granted:
            claims["permissions"] = granted
        return jwt.encode(claims, self._secret, algorithm=self._algorithms[0])

    def _identity(self, claims: dict[str, Any], now: float) -> Identity:
        user_id = claims["sub"]
        if (
            type(user_id) is not str
            or not 1 <= len(user_id) <= USER_ID_CHARACTERS
            or not user_id.isprintable()
        ):
            expected = f"a printable text of 1 to {USER_ID_CHARACTERS} characters"
            raise _invalid(f'The token\'s "sub" is not {expected}.')
        expires_at = _time(claims, "exp")
        not_before = _time(claims, "nbf") if "nbf" in claims else -math.inf
        check_expiry(expires_at, now)
        if now < not_before - LEEWAY:
            raise _invalid("The token is not valid yet.")
        return Identity(UserId(user_id), expires_at, _permissions(claims))


class Tickets:
    """Tickets that have been given out and not been used, within bounds.

    A user's oldest ticket goes when there are more than `TICKETS_PER_USER`.
    """

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[Identity, float]] = {}  # in the order of their deadlines
        self._by_user: dict[UserId, deque[str]] = {}

    def issue(self, identity: Identity, now: float) -> str:
        """Return a new ticket, good once and for 30 seconds; `now` is seconds of any clock.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if too many tickets are out.
        """
        self._drop_expired(now)
        own = self._by_user.get(identity.user_id)
        if own is not None and len(own) >= TICKETS_PER_USER:
            self._remove(own[0])
        if len(self._tickets) >= TICKETS:
            raise Refused(
                problem(
                    ErrorCode.SERVICE_UNAVAILABLE,
                    "Too many tickets are waiting to be used.",
                    retry_after_ms=TICKET_SECONDS * 1000,
                )
            )
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = (identity, now + TICKET_SECONDS)
        self._by_user.setdefault(identity.user_id, deque()).append(ticket)
        return ticket

    def redeem(self, ticket: str, now: float) -> Identity:
        """Return whose ticket it is, and use it up.

        Raises:
            Refused: INVALID_TOKEN, if it was used, has expired or never was.
        """
        self._drop_expired(now)
        if ticket not in self._tickets:
            raise _invalid("The ticket was used already, has expired, or never was.")
        return self._remove(ticket)

    def __len__(self) -> int:
        return len(self._tickets)

    def _drop_expired(self, now: float) -> None:
        while self._tickets:
            oldest = next(iter(self._tickets))
            if self._tickets[oldest][1] > now:
                break
            self._remove(oldest)

    def _remove(self, ticket: str) -> Identity:
        identity, _ = self._tickets.pop(ticket)
        own = self._by_user[identity.user_id]
        own.remove(ticket)
        if not own:
            del self._by_user[identity.user_id]
        return identity


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


_WHY: dict[type[jwt.PyJWTError], str] = {
    jwt.InvalidSignatureError: "The token's signature does not match.",
    jwt.InvalidAlgorithmError: "The token's algorithm is not accepted here.",
    jwt.InvalidIssuerError: "The token is from another issuer.",
    jwt.InvalidAudienceError: "The token is for another audience.",
}


def _invalid(text: str) -> Refused:
    return Refused(problem(ErrorCode.INVALID_TOKEN, text))


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    try:
        seconds = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an integer beyond every float
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _invalid(f'The token\'s "{name}" is not a number of seconds.')
    return seconds


def _permissions(claims: dict[str, Any]) -> frozenset[str]:
    listed = claims.get("permissions", [])
    scope = claims.get("scope", "")
    if type(listed) is not list or not all(type(item) is str for item in listed):
        raise _invalid('The token\'s "permissions" is not an array of strings.')
    if type(scope) is not str:
        raise _invalid('The token\'s "scope" is not a string.')
    return frozenset(listed) | frozenset(scope.split())
