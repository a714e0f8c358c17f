"""Key sets: the keys that are usable, and the keys that are tried for a token."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from support.keyserver import Signer, base64url, key_set
from support.keysets import EC, ED, MARK, RSA, kids

from netra_trio.auth.jwk import _KINDS, KEYS, TRIED, Key, KeysUnavailable, matching, parse_keys
from netra_trio.config.settings import KEY_SERVER_ALGORITHMS


def reason(body: bytes) -> str:
    with pytest.raises(KeysUnavailable) as caught:
        parse_keys(body)
    assert MARK not in str(caught.value)
    assert len(str(caught.value)) < 100
    return str(caught.value)


def test_each_kind_of_key_is_for_one_algorithm() -> None:
    keys = parse_keys(key_set(RSA, EC, ED))
    assert [(key.kid, key.algorithm) for key in keys] == [
        ("RS256-1", "RS256"),
        ("ES256-1", "ES256"),
        ("EdDSA-1", "EdDSA"),
    ]
    assert [key.public for key in keys] == [s.private.public_key() for s in (RSA, EC, ED)]
    assert tuple(kind.algorithm for kind in _KINDS.values()) == KEY_SERVER_ALGORITHMS


SMALL = Signer(
    "RS256",
    "small",
    rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - it is refused
)
P384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
ED448 = OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True)
OTHER_POINT = Signer.new("ES256", "other").jwk()
LONG = base64url(b"\xff" * 4096)

UNUSABLE: dict[str, Any] = {
    "no object": MARK,
    "null": None,
    "no kty": RSA.jwk(kty=...),
    "kty a list": RSA.jwk(kty=["RSA"]),
    "kty in lower case": RSA.jwk(kty="rsa"),
    "a shared secret": {"kty": "oct", "k": LONG, "kid": MARK},
    "RSA of 1024 bits": SMALL.jwk(),
    "RSA of 32768 bits": RSA.jwk(n=LONG),
    "RSA with a long exponent": RSA.jwk(e=RSA.jwk()["n"][:100]),
    "RSA with exponent 1": RSA.jwk(e="AQ"),
    "RSA with an empty exponent": RSA.jwk(e=""),
    "RSA without a modulus": RSA.jwk(n=...),
    "RSA with a modulus of a wrong type": RSA.jwk(n=5),
    "RSA with a modulus of no base64": RSA.jwk(n="\u00f6" * 400),
    "EC of another curve": {**P384, "kid": MARK},
    "EC that says P-256 and is not": {**P384, "crv": "P-256"},
    "EC off the curve": EC.jwk(y=OTHER_POINT["y"]),
    "EC without a curve": EC.jwk(crv=...),
    "EC with a curve of a wrong type": EC.jwk(crv=["P-256"]),
    "EC with one coordinate": EC.jwk(y=...),
    "Ed448": {**ED448, "kid": MARK},
    "Ed25519 cut short": ED.jwk(x=ED.jwk()["x"][:-4]),
    "Ed25519 without x": ED.jwk(x=None),
    "for encryption": RSA.jwk(use="enc"),
    "for a use of a wrong type": RSA.jwk(use=["sig"]),
    "for another algorithm": RSA.jwk(alg="RS512"),
    "for PSS": RSA.jwk(alg="PS256"),
    "for HS256": RSA.jwk(alg="HS256"),
    "for an algorithm of a wrong type": EC.jwk(alg=5),
    "for signing": RSA.jwk(key_ops=["sign"]),
    "for nothing": RSA.jwk(key_ops=[]),
    "for operations of a wrong type": RSA.jwk(key_ops="verify"),
    "kid a number": RSA.jwk(kid=5),
    "kid an object": RSA.jwk(kid={"a": 1}),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_key_is_skipped(name: str) -> None:
    assert reason(key_set(UNUSABLE[name])) == "none of its 1 keys can be used"
    assert kids(key_set(UNUSABLE[name], EC, UNUSABLE[name])) == ["ES256-1"]


@pytest.mark.parametrize(
    "more",
    [
        {"use": ..., "alg": ..., "key_ops": ...},
        {"key_ops": ["sign", "verify"]},
        {"x5c": [MARK], "x5t": 5, "oth": {}, "ext": True},
        {"d": MARK, "p": MARK},
    ],
)
def test_a_key_with_other_members_is_usable(more: dict[str, Any]) -> None:
    (key,) = parse_keys(key_set(RSA.jwk(**more)))
    assert key.public == RSA.private.public_key()


def test_only_the_public_members_of_a_private_key_are_read() -> None:
    assert isinstance(EC.private, ec.EllipticCurvePrivateKey)
    private = ECAlgorithm.to_jwk(EC.private, as_dict=True)
    assert "d" in private
    (key,) = parse_keys(key_set(private))
    assert key == Key(None, "ES256", EC.private.public_key())


def test_at_most_a_hundred_keys_are_read() -> None:
    junk: list[Any] = [{}] * (KEYS - 1)
    assert kids(key_set(*junk, EC)) == ["ES256-1"]
    assert reason(key_set(*junk, {}, EC)) == "none of its 101 keys can be used"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "its answer is not JSON"),
        (b"\xff", "its answer is not JSON"),
        (MARK.encode(), "its answer is not JSON"),
        (b"[" * 100_000, "its answer is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "its answer is not JSON"),
        (b"[]", 'its answer is no object with an array of "keys"'),
        (b'{"keys": {}}', 'its answer is no object with an array of "keys"'),
        (b'{"keys": []}', "none of its 0 keys can be used"),
        (b'{"keys": [' + b"9" * 10_000 + b"]}", "its answer is not JSON"),
    ],
)
def test_an_invalid_key_set_is_refused(body: bytes, why: str) -> None:
    assert reason(body) == why


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
MEMBERS = ("kty", "crv", "n", "e", "x", "y", "d", "use", "alg", "key_ops", "kid")


@given(st.sampled_from([RSA, EC, ED]), st.dictionaries(st.sampled_from(MEMBERS), JSON))
def test_any_key_is_usable_or_skipped(signer: Signer, wrong: dict[str, Any]) -> None:
    names = kids(key_set(signer.jwk(**wrong), EC))
    assert len(names) in {1, 2}
    assert names[-1] == "ES256-1"


@given(st.binary() | JSON.map(lambda value: repr(value).encode("utf-8", "replace")))
def test_any_other_body_is_refused(body: bytes) -> None:
    with pytest.raises(KeysUnavailable):
        parse_keys(body)


def test_the_keys_that_are_tried_for_a_token() -> None:
    nameless = Signer.new("ES256", None)
    keys = parse_keys(key_set(RSA, EC, nameless, RSA.jwk(kid="")))
    assert [key.kid for key in matching(keys, "RS256", None)] == ["RS256-1", ""]
    assert [key.kid for key in matching(keys, "ES256", None)] == ["ES256-1", None]
    assert [key.kid for key in matching(keys, "RS256", "RS256-1")] == ["RS256-1"]
    assert [key.kid for key in matching(keys, "RS256", "")] == [""]
    for kid in ("ES256-1", "rs256-1", "RS256-1 ", "RS256-1\x00", "None"):
        assert matching(keys, "RS256", kid) == ()
    assert len(matching(keys * 10, "ES256", None)) == TRIED
    assert matching(keys, "HS256", None) == ()
