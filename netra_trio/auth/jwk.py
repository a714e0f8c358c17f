"""Public keys in the form of RFC 7517 (JWK): which are usable, and which fit a token.

>>> parse_keys(b'{"keys": []}')
Traceback (most recent call last):
netra_trio.auth.jwk.KeysUnavailable: none of its 0 keys can be used

RFC 7518 and RFC 8037 define the types of keys.
"""

from typing import Any, TypeAlias

import jwt
import orjson
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from netra_trio.errors import NetraError

KEYS = 100  # of one answer that are read; servers have two or three
TRIED = 8  # keys that are tried for one token: each costs 0.1 ms; servers have up to three per kind
RSA_BITS = (2048, 8192)  # minimum of RFC 7518, 3.3; above the maximum a check takes milliseconds
RSA_EXPONENT_BITS = 64  # the usual exponent has 17 bits; a long one makes each check slow

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class KeysUnavailable(NetraError):
    """The key server provided no keys; the text gives the reason, without its URL."""


@frozen
class Key:
    """A public key that verifies tokens.

    Attributes:
        kid: Its key id, if it has one.
        algorithm: The only algorithm that it is used with.
        public: The key.
    """

    kid: str | None
    algorithm: str
    public: PublicKey


@frozen
class _Kind:
    """The use of a type of key, and the members of a JWK that are public."""

    algorithm: str
    members: tuple[str, ...]
    curve: str | None = None


_KINDS = {
    "RSA": _Kind("RS256", ("n", "e")),
    "EC": _Kind("ES256", ("x", "y"), "P-256"),
    "OKP": _Kind("EdDSA", ("x",), "Ed25519"),
}
"""The supported types of keys by `kty`; not `oct`, which is a shared secret."""


def parse_keys(body: bytes) -> tuple[Key, ...]:
    """Return the usable keys of a JSON Web Key Set; other keys are skipped.

    Only the public members of a key are read.

    Raises:
        KeysUnavailable: The body is not a key set, or has no usable key.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:  # raised for too deep nesting too
        raise KeysUnavailable("its answer is not JSON") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise KeysUnavailable('its answer is no object with an array of "keys"')
    keys = tuple(key for jwk in listed[:KEYS] if (key := _usable(jwk)) is not None)
    if not keys:
        raise KeysUnavailable(f"none of its {len(listed)} keys can be used")
    return keys


def matching(keys: tuple[Key, ...], algorithm: str, kid: str | None) -> tuple[Key, ...]:
    """Return the keys to try for a token; a `kid` must equal that of the key."""
    fitting = (k for k in keys if k.algorithm == algorithm and kid in {None, k.kid})
    return tuple(fitting)[:TRIED]


def _usable(jwk: Any) -> Key | None:
    if not isinstance(jwk, dict):
        return None
    kty, kid = jwk.get("kty"), jwk.get("kid")
    kind = _KINDS.get(kty) if isinstance(kty, str) else None
    if kind is None or not (kid is None or isinstance(kid, str)) or not _is_for(jwk, kind):
        return None
    public = _public_key(jwk, kind)
    return None if public is None else Key(kid, kind.algorithm, public)


def _is_for(jwk: dict[str, Any], kind: _Kind) -> bool:
    """Whether the key has the right curve and is intended for verifying signatures."""
    operations = jwk.get("key_ops", ["verify"])
    return (
        (kind.curve is None or jwk.get("crv") == kind.curve)
        and jwk.get("use", "sig") == "sig"
        and jwk.get("alg", kind.algorithm) == kind.algorithm
        and isinstance(operations, list)
        and "verify" in operations
    )


def _public_key(jwk: dict[str, Any], kind: _Kind) -> PublicKey | None:
    public = {name: jwk.get(name) for name in kind.members}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    try:
        # Without the private members this can only be a public key.
        key: Any = get_default_algorithms()[kind.algorithm].from_jwk(
            {"kty": jwk["kty"], "crv": kind.curve, **public}
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return None
    if isinstance(key, RSAPublicKey) and not (
        RSA_BITS[0] <= key.key_size <= RSA_BITS[1]
        and key.public_numbers().e.bit_length() <= RSA_EXPONENT_BITS
    ):
        return None
    return key  # type: ignore[no-any-return]
