"""Verifies tokens: from a JSON Web Token to an `Identity`.

>>> import trio
>>> verifier = TokenVerifier("0123456789abcdef0123456789abcdef")
>>> token = verifier.sign("alice", expires_at=1000.0)
>>> trio.run(verifier.verify, token, 999.0).user_id
'alice'
"""

import math
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import jwt

from netra_trio.auth.identity import (
    USER_ID_CHARACTERS,
    Identity,
    check_expiry,
    invalid_token,
    is_user_id,
)
from netra_trio.auth.jwk import Key, PublicKey, matching
from netra_trio.auth.key_server import KeyServer
from netra_trio.auth.key_set import KeySet
from netra_trio.auth.provider import IdentityProvider
from netra_trio.config.settings import (
    KEY_BYTES,
    KEY_SERVER_ALGORITHMS,
    Settings,
    default_algorithms,
)
from netra_trio.errors import SettingsError
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.keepalive import LEEWAY
from netra_trio.protocol.problem import Refused, problem

TOKEN_CHARACTERS = 8192  # half of the request head that carries it; ten megabytes take 14 ms


class TokenVerifier:
    """Verifies JSON Web Tokens with a shared secret, with the keys of a key server, or with both.

    The two never mix: an HMAC is checked with the secret only, and the signature of a public key
    with a key of the key server that is for this algorithm. Keys that a token contains or refers to
    (`jwk`, `jku`, `x5c`, `x5u`) are ignored.

    A token without a `kid` is tried with each key of its algorithm, eight at most. If none fits, or
    the `kid` is unknown, verification waits for fresh keys, because the login service may have
    started to use a new key. The `KeySet` bounds the requests to the key server.

    Args:
        secret: The key of the HMAC, if any.
        keys: The keys of the key server, if any.
        algorithms: The accepted algorithms; by default the usual ones for the given keys. Without
            a secret and keys every token is refused.
        issuer: The required `iss` claim; None accepts any.
        audience: The required member of the `aud` claim; None accepts any.
        provider: The OpenID Connect provider of the keys, if they are those of one.

    Attributes:
        provider: The same.
    """

    def __init__(
        self,
        secret: str | None = None,
        *,
        keys: KeySet | None = None,
        algorithms: Iterable[str] | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        provider: IdentityProvider | None = None,
    ) -> None:
        self.provider = provider
        default = default_algorithms(has_secret=secret is not None, has_keys=keys is not None)
        listed = default if algorithms is None else tuple(algorithms)
        self._secret = secret
        self._keys = keys
        self._shared = tuple(name for name in listed if name in KEY_BYTES and secret is not None)
        self._public = tuple(n for n in listed if n in KEY_SERVER_ALGORITHMS and keys is not None)
        self._issuer = issuer
        self._audience = audience

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the verifier for these settings.

        Raises:
            SettingsError: There is neither a secret nor a key server, or there is a provider, and
                no issuer or audience that its tokens must have.
        """
        if settings.jwt_secret_key is None and not settings.has_public_keys:
            raise SettingsError(
                "JWT_SECRET_KEY: not set, expected a secret for tokens; set it, or JWT_JWKS_URL or "
                "OIDC_ISSUER"
            )
        if settings.oidc_issuer and not (settings.jwt_issuer and settings.jwt_audience):
            raise SettingsError(
                "JWT_ISSUER, JWT_AUDIENCE: not set, expected both with OIDC_ISSUER; without "
                "them, tokens for other clients of the provider are accepted; set OIDC_CLIENT_ID"
            )
        url, issuer = settings.jwt_jwks_url, settings.oidc_issuer
        provider = IdentityProvider(issuer) if issuer is not None and url is None else None
        source = provider if url is None else KeyServer(url)
        return cls(
            settings.jwt_secret_key,
            keys=None if source is None else KeySet(source.fetch),
            algorithms=settings.jwt_algorithms,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            provider=provider,
        )

    @property
    def can_sign(self) -> bool:
        """Whether there is a secret to sign with."""
        return bool(self._shared)

    @property
    def is_key_server_available(self) -> bool | None:
        """Whether the last fetch from the key server succeeded; None without a key server."""
        return None if self._keys is None else self._keys.is_available

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the keys of the key server fresh inside this block; do nothing without one."""
        if self._keys is None:
            yield
        else:
            async with self._keys.open():
                yield

    async def verify(self, token: str, now: float) -> Identity:
        """Return the identity that a token proves; `now` is Unix seconds.

        Waits for fresh keys only, 6 s at most. Cancelling is safe.

        Raises:
            Refused: INVALID_TOKEN or TOKEN_EXPIRED, with a text that gives the reason and contains
                no part of the token; SERVICE_UNAVAILABLE, if its key is unknown and the key server
                does not answer.
        """
        if len(token) > TOKEN_CHARACTERS:
            raise invalid_token(f"The token has more than {TOKEN_CHARACTERS} characters.")
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm in self._shared and self._secret is not None:
            claims = self._decode(token, algorithm, self._secret)
        elif algorithm in self._public and self._keys is not None:
            claims = await self._decode_with(self._keys, token, algorithm, kid)
        else:
            raise invalid_token("The token's algorithm is not accepted here.")
        return self._identity(claims, now)

    def sign(self, user_id: str, *, expires_at: float, permissions: Iterable[str] = ()) -> str:
        """Return a token of this user that this verifier accepts until `expires_at` (Unix seconds).

        Raises:
            SettingsError: There is no secret to sign with.
        """
        if self._secret is None or not self._shared:
            raise SettingsError(
                "JWT_SECRET_KEY: there is no secret for tokens, or JWT_ALGORITHMS has no algorithm "
                f"for it ({', '.join(KEY_BYTES)}); get a token from the login whose keys are at "
                "JWT_JWKS_URL, or that OIDC_ISSUER names"
            )
        claims: dict[str, Any] = {"sub": user_id, "exp": int(expires_at)}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audience is not None:
            claims["aud"] = self._audience
        granted = sorted(permissions)
        if granted:
            claims["permissions"] = granted
        return jwt.encode(claims, self._secret, algorithm=self._shared[0])

    async def _decode_with(
        self, keys: KeySet, token: str, algorithm: str, kid: str | None
    ) -> dict[str, Any]:
        """Return the claims, verified with the key that the token names or one that fits."""
        claims = await keys.find(partial(self._try, token, algorithm, kid))
        if claims is None:
            raise invalid_token(_UNKNOWN_KEY if kid is not None else _NO_MATCH)
        return claims

    def _try(
        self, token: str, algorithm: str, kid: str | None, keys: tuple[Key, ...]
    ) -> dict[str, Any] | None:
        """Return the claims; None if these keys do not verify the token and fresh ones may."""
        fitting = matching(keys, algorithm, kid)
        for key in fitting:
            try:
                return self._decode(token, algorithm, key.public)
            except _WrongSignature:
                continue
        if kid is None:
            return None
        if fitting:
            raise invalid_token(_NO_MATCH)
        if any(key.kid == kid for key in keys):
            raise invalid_token("The token's key is not for its algorithm.")
        return None

    def _decode(self, token: str, algorithm: str, key: str | PublicKey) -> dict[str, Any]:
        """Return the claims, verified with this key and this algorithm only."""
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # Times are checked in `_identity`, against the clock of the caller.
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                    "verify_sub": False,  # checked in `_identity` too
                    "verify_jti": False,  # optional, and not used
                },
            )
        except jwt.InvalidSignatureError:
            raise _WrongSignature from None
        except jwt.MissingRequiredClaimError as error:
            raise invalid_token(f'The token lacks the claim "{error.claim}".') from None
        except jwt.PyJWTError as error:
            raise invalid_token(_WHY.get(type(error), _MALFORMED)) from None
        except _PARSERS_RAISE:
            raise invalid_token(_MALFORMED) from None

    def _identity(self, claims: dict[str, Any], now: float) -> Identity:
        user_id = claims["sub"]
        if not is_user_id(user_id):
            expected = f"a printable text of 1 to {USER_ID_CHARACTERS} characters"
            raise invalid_token(f'The token\'s "sub" is not {expected}.')
        expires_at = _time(claims, "exp")
        not_before = -math.inf if claims.get("nbf") is None else _time(claims, "nbf")
        check_expiry(expires_at, now)
        if now < not_before - LEEWAY:
            raise invalid_token("The token is not valid yet.")
        return Identity(UserId(user_id), expires_at, _permissions(claims))


_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)  # unsigned tokens end with the dot

_MALFORMED = "The token is malformed."
_HEADER = 'The token\'s header has a "kid" that is no string, or extensions ("crit", "b64").'
_NO_MATCH = "The token's signature does not match."
_UNKNOWN_KEY = "The token's key is not known."

_WHY: dict[type[jwt.PyJWTError], str] = {
    jwt.InvalidIssuerError: "The token is from another issuer.",
    jwt.InvalidAudienceError: "The token is for another audience.",
}

# Exceptions that the parsers raise for hostile input, besides their own classes.
_PARSERS_RAISE = (ValueError, TypeError, OverflowError, RecursionError, UnicodeError)


class _WrongSignature(Refused):
    """The signature of the token does not match its content and the key."""

    def __init__(self) -> None:
        super().__init__(problem(ErrorCode.INVALID_TOKEN, _NO_MATCH))


def _header(token: str) -> dict[str, Any]:
    """Return the header of a token, which is not verified yet.

    Raises:
        Refused: INVALID_TOKEN, if there is no header, or it requires an unsupported extension.
    """
    if not _SHAPE.fullmatch(token):
        raise invalid_token("The token is not three parts in base64url with dots between them.")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.DecodeError, *_PARSERS_RAISE):
        raise invalid_token(_MALFORMED) from None
    except jwt.InvalidTokenError:
        raise invalid_token(_HEADER) from None
    if "crit" in header or header.get("b64", True) is not True:
        raise invalid_token(_HEADER)
    return header


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    try:
        seconds = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an integer that is too large for a float
        seconds = math.nan
    if not math.isfinite(seconds):
        raise invalid_token(f'The token\'s "{name}" is not a number of seconds.')
    return seconds


def _permissions(claims: dict[str, Any]) -> frozenset[str]:
    """Return the permissions of both claims; a claim of any other shape grants none.

    Identity providers write `scope` as a text with spaces or as an array, and write null or objects
    for what they do not use. Neither claim is required, so that neither refuses the user.
    """
    scope = claims.get("scope")
    listed = scope.split() if type(scope) is str else _strings(scope)
    return frozenset(_strings(claims.get("permissions"))) | frozenset(listed)


def _strings(value: object) -> list[str]:
    """Return an array of strings, or an empty one for any other value."""
    return value if type(value) is list and all(type(each) is str for each in value) else []
