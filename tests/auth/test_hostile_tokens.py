"""Tokens made to deceive a verifier that has a secret and all three kinds of public keys.

Each row is refused with its code and its reason; neither an error nor a log line has any of it.
"""

import base64
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs
from support.keyserver import SIGNERS, Signer, base64url, key_server, key_set
from support.versions import is_before

from netra_trio.auth.jwk import KeysUnavailable
from netra_trio.auth.key_set import GAP_SECONDS, KeySet
from netra_trio.auth.tokens import TOKEN_CHARACTERS, TokenVerifier
from netra_trio.config.settings import Settings
from netra_trio.endpoints.answer import refusal
from netra_trio.endpoints.request import Request
from netra_trio.errors import SettingsError
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused
from netra_trio.telemetry.log_sink import LogSink

SECRET = "a-secret-of-at-least-thirty-two-bytes"
NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://login.example.com", "netra"
MARK = "mallory-was-here"

RSA, EC, ED = (SIGNERS[name] for name in ("RS256", "ES256", "EdDSA"))
OTHER_RSA = Signer.new("RS256", RSA.kid)
OTHER_EC = Signer.new("ES256", EC.kid)
OTHER_ED = Signer.new("EdDSA", ED.kid)

MALFORMED = "The token is malformed."
SHAPE = "The token is not three parts in base64url with dots between them."
HEADER = 'The token\'s header has a "kid" that is no string, or extensions ("crit", "b64").'
# PyJWT rejects it by itself since 2.13, before this server's own check.
B64_FAULT = HEADER if is_before("pyjwt", 2, 13) else MALFORMED
ALGORITHM = "The token's algorithm is not accepted here."
SIGNATURE = "The token's signature does not match."
UNKNOWN = "The token's key is not known."
OTHER_KIND = "The token's key is not for its algorithm."
SUBJECT = 'The token\'s "sub" is not a printable text of 1 to 255 characters.'
NO_TIME = 'The token\'s "exp" is not a number of seconds.'
EXPIRED = "The token has expired."


def claims(**more: Any) -> dict[str, Any]:
    known = {"sub": MARK, "exp": int(NOW) + 60, "iss": ISSUER, "aud": AUDIENCE, **more}
    return {name: value for name, value in known.items() if value is not ...}


def good(signer: Signer = RSA, **header: Any) -> str:
    return signer.sign(claims(), **header)


def having(signer: Signer = RSA, **more: Any) -> str:
    return signer.sign(claims(**more))


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64url(data)


def joined(header: Any, payload: Any = None, signature: bytes = b"x" * 64) -> str:
    """Return a token of any header and payload, JSON or bytes, with any signature."""
    body = claims() if payload is None else payload
    return f"{segment(header)}.{segment(body)}.{base64url(signature)}"


def rightly(signer: Signer, header: Any = None, payload: Any = None) -> str:
    """Return a token of any header and payload with a valid signature."""
    known = {"alg": signer.algorithm, "kid": signer.kid} if header is None else header
    signed = joined(known, payload).rpartition(".")[0]
    algorithm: Any = jwt.get_algorithm_by_name(signer.algorithm)
    return f"{signed}.{base64url(algorithm.sign(signed.encode(), signer.private))}"


def keyed(key: bytes, alg: str = "HS256", **header: Any) -> str:
    """Return a token with an HMAC over any key."""
    signed = joined({"alg": alg, "typ": "JWT", **header}).rpartition(".")[0]
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), f'sha{alg[2:]}'))}"


def public(signer: Signer, encoding: Encoding = Encoding.PEM) -> bytes:
    return signer.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def raw_key(signer: Signer) -> bytes:
    if isinstance(signer.private, ed25519.Ed25519PrivateKey):
        return signer.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return signer.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def swapped(head: str, tail: str) -> str:
    """Return one token with the signature of another."""
    return f"{head.rpartition('.')[0]}.{tail.rpartition('.')[2]}"


def with_claim(text: str) -> str:
    """Return a token with a claim as JSON text that no encoder writes."""
    payload = json.dumps(claims(exp=...))[:-1] + f", {text}}}"
    return rightly(RSA, payload=payload.encode())


def padded(length: int) -> str:
    """Return a valid token of exactly this many characters."""
    for pad in range(length):
        token = RSA.sign(claims(pad="x" * ((length - 700) * 3 // 4 + pad)))
        if len(token) == length:
            return token
    raise AssertionError


DEEP = b"[" * 2000 + b"]" * 2000
HEAD, BODY, TAIL = good().split(".")
TURNED = base64url(b'{"alg":"RS256","kid":"RS256-1","alg":"none"}')

HOSTILE: dict[str, tuple[str, str]] = {
    # The key of one algorithm for another.
    "HS256 over RSA's PEM": (keyed(public(RSA)), SIGNATURE),
    "HS256 over RSA's PEM with its kid": (keyed(public(RSA), kid=RSA.kid), SIGNATURE),
    "HS256 over RSA's PEM cut": (keyed(public(RSA).strip(), kid=RSA.kid), SIGNATURE),
    "HS256 over RSA's DER": (keyed(public(RSA, Encoding.DER), kid=RSA.kid), SIGNATURE),
    "HS256 over RSA's JWK": (keyed(json.dumps(RSA.jwk()).encode(), kid=RSA.kid), SIGNATURE),
    "HS256 over the key set": (keyed(key_set(RSA, EC, ED)), SIGNATURE),
    "HS256 over EC's PEM": (keyed(public(EC), kid=EC.kid), SIGNATURE),
    "HS256 over EC's point": (keyed(raw_key(EC), kid=EC.kid), SIGNATURE),
    "HS256 over Ed25519's bytes": (keyed(raw_key(ED), kid=ED.kid), SIGNATURE),
    "HS256 over nothing": (keyed(b""), SIGNATURE),
    "HS512 over the secret": (keyed(SECRET.encode(), "HS512"), ALGORITHM),
    "HS384 over RSA's PEM": (keyed(public(RSA), "HS384"), ALGORITHM),
    "RS256 with an HMAC of the secret": (
        swapped(joined({"alg": "RS256", "kid": RSA.kid}), keyed(SECRET.encode())),
        SIGNATURE,
    ),
    "RS256 with EC's kid": (good(RSA, kid=EC.kid), OTHER_KIND),
    "RS256 with Ed25519's kid": (good(RSA, kid=ED.kid), OTHER_KIND),
    "ES256 with RSA's kid": (good(EC, kid=RSA.kid), OTHER_KIND),
    "ES256 with Ed25519's kid": (good(EC, kid=ED.kid), OTHER_KIND),
    "EdDSA with EC's kid": (good(ED, kid=EC.kid), OTHER_KIND),
    "EdDSA with RSA's kid": (good(ED, kid=RSA.kid), OTHER_KIND),
    "signed RS256, says ES256": (rightly(RSA, {"alg": "ES256", "kid": EC.kid}), SIGNATURE),
    "signed ES256, says EdDSA": (rightly(EC, {"alg": "EdDSA", "kid": ED.kid}), SIGNATURE),
    "signed EdDSA, says HS256": (rightly(ED, {"alg": "HS256", "kid": ED.kid}), SIGNATURE),
    "signed RS256, says HS256": (rightly(RSA, {"alg": "HS256", "kid": RSA.kid}), SIGNATURE),
    # No algorithm, or one that is not accepted.
    "none": (joined({"alg": "none"}, signature=b""), ALGORITHM),
    "None": (joined({"alg": "None", "kid": RSA.kid}, signature=b""), ALGORITHM),
    "nOnE": (joined({"alg": "nOnE"}), ALGORITHM),
    "rs256": (rightly(RSA, {"alg": "rs256", "kid": RSA.kid}), ALGORITHM),
    "RS256 and a blank": (rightly(RSA, {"alg": "RS256 ", "kid": RSA.kid}), ALGORITHM),
    "hs256": (joined({"alg": "hs256"}), ALGORITHM),
    "RS512": (rightly(RSA, {"alg": "RS512", "kid": RSA.kid}), ALGORITHM),
    "PS256": (rightly(RSA, {"alg": "PS256", "kid": RSA.kid}), ALGORITHM),
    "ES384": (rightly(EC, {"alg": "ES384", "kid": EC.kid}), ALGORITHM),
    "Ed25519": (rightly(ED, {"alg": "Ed25519", "kid": ED.kid}), ALGORITHM),
    "no alg": (rightly(RSA, {"kid": RSA.kid}), ALGORITHM),
    "alg a list": (rightly(RSA, {"alg": ["RS256"], "kid": RSA.kid}), ALGORITHM),
    "alg a number": (rightly(RSA, {"alg": 256, "kid": RSA.kid}), ALGORITHM),
    # Signatures.
    "no signature": (good().rpartition(".")[0] + ".", SIGNATURE),
    "signed by another RSA key": (good(OTHER_RSA), SIGNATURE),
    "signed by another EC key": (good(OTHER_EC), SIGNATURE),
    "signed by another Ed25519 key": (good(OTHER_ED), SIGNATURE),
    "signed by another, without kid": (good(OTHER_EC, kid=...), SIGNATURE),
    "the signature of another token": (swapped(having(sub="root"), good()), SIGNATURE),
    "the payload of another token": (
        f"{HEAD}.{having(sub='root').split('.')[1]}.{TAIL}",
        SIGNATURE,
    ),
    "ES256 of zeros": (joined({"alg": "ES256", "kid": EC.kid}, signature=bytes(64)), SIGNATURE),
    "ES256 too long": (joined({"alg": "ES256", "kid": EC.kid}, signature=b"x" * 65), SIGNATURE),
    "EdDSA of zeros": (joined({"alg": "EdDSA", "kid": ED.kid}, signature=bytes(64)), SIGNATURE),
    "RS256 of zeros": (joined({"alg": "RS256", "kid": RSA.kid}, signature=bytes(256)), SIGNATURE),
    # Keys that the token refers to, or contains.
    "kid a path": (good(kid="../../../../dev/null"), UNKNOWN),
    "kid of SQL": (good(kid="x' UNION SELECT 'AA' --"), UNKNOWN),
    "kid a URL": (good(kid="https://evil.example.com/key"), UNKNOWN),
    "kid with NUL": (good(kid=f"{RSA.kid}\x00"), UNKNOWN),
    "kid of a shell": (good(kid="| sleep 5"), UNKNOWN),
    "kid empty": (good(kid=""), UNKNOWN),
    "kid in another case": (good(kid="rs256-1"), UNKNOWN),
    "kid of a shared secret": (keyed(b"x" * 32, kid="shared"), SIGNATURE),
    "kid of 5000 characters": (good(kid="k" * 5000), UNKNOWN),
    "kid of 10000 characters": (
        good(kid="k" * 10_000),
        f"The token has more than {TOKEN_CHARACTERS} characters.",
    ),
    "kid a number": (rightly(RSA, {"alg": "RS256", "kid": 5}), HEADER),
    "kid null": (rightly(RSA, {"alg": "RS256", "kid": None}), HEADER),
    "kid a list": (rightly(RSA, {"alg": "RS256", "kid": [RSA.kid]}), HEADER),
    "jwk of the attacker": (good(OTHER_RSA, jwk=OTHER_RSA.jwk()), SIGNATURE),
    "jwk of the attacker, without kid": (good(OTHER_EC, kid=..., jwk=OTHER_EC.jwk()), SIGNATURE),
    "jku of the attacker": (good(OTHER_RSA, jku="https://evil.example.com/"), SIGNATURE),
    "jku and kid of the attacker": (good(OTHER_RSA, kid="e", jku="https://evil.example"), UNKNOWN),
    "x5u of the attacker": (good(OTHER_RSA, x5u="https://evil.example.com/"), SIGNATURE),
    "x5c of the attacker": (good(OTHER_RSA, x5c=[base64.b64encode(b"x").decode()]), SIGNATURE),
    # Headers.
    "header an array": (rightly(RSA, ["RS256"]), MALFORMED),
    "header a string": (rightly(RSA, "RS256"), MALFORMED),
    "header no JSON": (rightly(RSA, b"RS256"), MALFORMED),
    "header no UTF-8": (rightly(RSA, b'{"alg":"RS256\xff"}'), MALFORMED),
    "header a bomb": (rightly(RSA, DEEP), MALFORMED),
    "header with a huge number": (rightly(RSA, b'{"alg":' + b"9" * 5000 + b"}"), MALFORMED),
    "alg twice": (f"{TURNED}.{BODY}.{TAIL}", ALGORITHM),
    "crit": (good(crit=["exp"]), HEADER),
    "crit of b64": (rightly(RSA, {"alg": "RS256", "kid": RSA.kid, "crit": ["b64"]}), HEADER),
    "crit empty": (rightly(RSA, {"alg": "RS256", "kid": RSA.kid, "crit": []}), HEADER),
    "b64 false": (rightly(RSA, {"alg": "RS256", "kid": RSA.kid, "b64": False}), B64_FAULT),
    "b64 null": (rightly(RSA, {"alg": "RS256", "kid": RSA.kid, "b64": None}), HEADER),
    # Other shapes.
    "JWE in five parts": (f"{HEAD}.{BODY}.{BODY}.{BODY}.{TAIL}", SHAPE),
    "JWS as JSON": (json.dumps({"protected": HEAD, "payload": BODY, "signature": TAIL}), SHAPE),
    "detached": (f"{HEAD}..{TAIL}", SHAPE),
    "two dots": (f"{HEAD}..{BODY}.{TAIL}", SHAPE),
    "a dot more": (f"{good()}.", SHAPE),
    "bytes behind it": (f"{good()}{MARK}!", SHAPE),
    "letters behind it": (f"{good()}AAAA", SIGNATURE),
    "padded": (f"{HEAD}.{BODY}.{TAIL}==", SHAPE),
    "a blank before": (f" {good()}", SHAPE),
    "a line behind": (f"{good()}\n", SHAPE),
    "a line within": (f"{HEAD}.\n{BODY}.{TAIL}", SHAPE),
    "standard base64": (f"{HEAD}.{BODY}.a+/b{TAIL}", SHAPE),
    "not ASCII": (f"{HEAD}.{BODY}.{TAIL}\u00e9", SHAPE),
    "digits of another script": (f"{HEAD}.{BODY}.{TAIL}\u0665", SHAPE),
    "NUL": (f"{good()}\x00", SHAPE),
    "one more than the longest": (
        padded(TOKEN_CHARACTERS + 1),
        f"The token has more than {TOKEN_CHARACTERS} characters.",
    ),
    # Claims with a valid signature.
    "wrong issuer": (having(iss="https://evil.example.com"), "The token is from another issuer."),
    "issuer a list": (
        rightly(RSA, payload=claims(iss=[ISSUER])),
        "The token is from another issuer.",
    ),
    "no issuer": (having(iss=...), 'The token lacks the claim "iss".'),
    "wrong audience": (having(EC, aud="other"), "The token is for another audience."),
    "no audience": (having(ED, aud=...), 'The token lacks the claim "aud".'),
    "no exp": (having(exp=...), 'The token lacks the claim "exp".'),
    "exp a string": (having(exp=str(NOW + 60)), NO_TIME),
    "exp true": (having(exp=True), NO_TIME),
    "exp a list": (having(exp=[NOW + 60]), NO_TIME),
    "exp NaN": (with_claim('"exp": NaN'), NO_TIME),
    "exp 1e400": (with_claim('"exp": 1e400'), NO_TIME),
    "exp of 400 digits": (with_claim(f'"exp": {"9" * 400}'), NO_TIME),
    "exp of 5000 digits": (with_claim(f'"exp": {"9" * 5000}'), MALFORMED),
    "exp twice": (with_claim(f'"exp": {int(NOW) + 60}, "exp": 1'), EXPIRED),
    "expired": (having(EC, exp=int(NOW) - 11), EXPIRED),
    "nbf to come": (having(ED, nbf=int(NOW) + 11), "The token is not valid yet."),
    "no sub": (having(sub=...), 'The token lacks the claim "sub".'),
    "sub a number": (rightly(RSA, payload=claims(sub=5)), SUBJECT),
    "sub empty": (having(sub=""), SUBJECT),
    "sub of 256 characters": (having(sub="x" * 256), SUBJECT),
    "sub with control characters": (having(sub=f"{MARK}\x1b[31m"), SUBJECT),
    "payload an array": (rightly(RSA, payload=[MARK]), MALFORMED),
    "payload no JSON": (rightly(RSA, payload=MARK.encode()), MALFORMED),
    "payload a bomb": (rightly(RSA, payload=b"[" * 5000), MALFORMED),
    "payload no UTF-8": (rightly(RSA, payload=b'{"sub":"\xff"}'), MALFORMED),
}


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[TokenVerifier]:
    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        shared = {"kty": "oct", "k": base64url(b"x" * 32), "kid": "shared", "alg": "HS256"}
        return key_set(RSA, EC, ED, shared)

    keys = KeySet(fetch)
    verifier = TokenVerifier(SECRET, keys=keys, issuer=ISSUER, audience=AUDIENCE, **options)
    async with verifier.open():
        yield verifier


def check_silence(token: str, text: str) -> None:
    """Check that a text contains no part of a token."""
    assert MARK not in text
    for part in token.split("."):
        assert len(part) <= 3 or part not in text
    assert token not in text or len(token) <= 3


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_token(name: str, autojump_clock: trio.testing.MockClock) -> None:
    token, reason = HOSTILE[name]
    with capture_logs() as logs:
        async with opened() as verifier:
            with pytest.raises(Refused) as caught:
                await verifier.verify(token, NOW)
            fault = caught.value.problem
            request = Request({}, {}, (), "")
            refusal(fault, NOW, request, "/ws", LogSink().note)  # the log line of the refusal
            # A following valid token is accepted.
            assert (await verifier.verify(good(), NOW)).user_id == MARK
    code = ErrorCode.TOKEN_EXPIRED if reason == EXPIRED else ErrorCode.INVALID_TOKEN
    assert (fault.code, fault.error, fault.status) == (code, reason, 401)
    assert any(line["event"] == "opening_refused" for line in logs)
    check_silence(token, f"{fault} {caught.value!r} {logs}")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


async def test_valid_tokens_are_accepted(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as verifier:
        for signer in (RSA, EC, ED):
            for token in (
                good(signer),
                good(signer, kid=...),
                good(signer, typ="at+jwt", b64=True, jku="https://evil.example.com"),
                having(signer, aud=["other", AUDIENCE], nbf=int(NOW) + 10),
            ):
                assert (await verifier.verify(token, NOW)).user_id == MARK
        assert (await verifier.verify(keyed(SECRET.encode()), NOW)).user_id == MARK
        assert (await verifier.verify(padded(TOKEN_CHARACTERS), NOW)).user_id == MARK
        own = verifier.sign("alice", expires_at=NOW + 60)
        assert (await verifier.verify(own, NOW)).user_id == "alice"


async def test_only_listed_algorithms_are_accepted(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(algorithms=["EdDSA", "ES256"]) as verifier:
        assert not verifier.can_sign
        assert (await verifier.verify(good(ED), NOW)).user_id == MARK
        for token in (good(RSA), good(RSA, kid=...), keyed(SECRET.encode())):
            with pytest.raises(Refused, match="algorithm is not accepted"):
                await verifier.verify(token, NOW)


async def test_each_source_of_keys_alone(autojump_clock: trio.testing.MockClock) -> None:
    shared = TokenVerifier(SECRET)
    assert shared.is_key_server_available is None
    async with shared.open():
        for signer in (RSA, EC, ED):
            with pytest.raises(Refused, match="algorithm is not accepted"):
                await shared.verify(good(signer), NOW)

    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        return key_set(RSA)

    public_only = TokenVerifier(keys=KeySet(fetch), algorithms=["HS256", "RS256"])
    async with public_only.open():
        assert not public_only.can_sign
        before = public_only.is_key_server_available
        assert (await public_only.verify(good(), NOW)).user_id == MARK
        assert (before, public_only.is_key_server_available) == (False, True)
        for token in (keyed(SECRET.encode()), keyed(b""), keyed(b"None"), keyed(public(RSA))):
            with pytest.raises(Refused, match="algorithm is not accepted"):
                await public_only.verify(token, NOW)
        with pytest.raises(SettingsError, match="JWT_JWKS_URL"):
            public_only.sign("alice", expires_at=NOW)


def test_a_verifier_needs_a_source_of_keys() -> None:
    with pytest.raises(SettingsError, match="set it, or JWT_JWKS_URL"):
        TokenVerifier.of(Settings())
    assert TokenVerifier.of(Settings(jwt_secret_key=SECRET)).can_sign
    verifier = TokenVerifier.of(Settings(jwt_jwks_url="https://login.example.com/jwks"))
    assert (verifier.can_sign, verifier.is_key_server_available) == (False, False)


async def test_a_new_key_without_a_kid(autojump_clock: trio.testing.MockClock) -> None:
    """A token without kid whose key is not fetched yet waits for a fetch, as with a kid."""
    published, fetches = [RSA], []

    async def fetch() -> bytes:
        await trio.lowlevel.checkpoint()
        fetches.append(trio.current_time())
        if not published:
            raise KeysUnavailable("it is down")
        return key_set(*published)

    verifier = TokenVerifier(keys=KeySet(fetch))
    async with verifier.open():
        await trio.sleep(10)
        published[:] = [OTHER_RSA]
        assert (await verifier.verify(good(OTHER_RSA, kid=...), NOW)).user_id == MARK
        # A token of the revoked key waits too, and is refused.
        with pytest.raises(Refused, match="signature does not match"):
            await verifier.verify(good(RSA, kid=...), NOW)
        assert fetches == [0, 10, 10 + GAP_SECONDS]
        # While the key server is down, the token cannot be refused as invalid.
        published.clear()
        with pytest.raises(Refused) as caught:
            await verifier.verify(good(RSA, kid=...), NOW)
        assert caught.value.problem.code is ErrorCode.SERVICE_UNAVAILABLE
        assert (await verifier.verify(good(OTHER_RSA, kid=...), NOW)).user_id == MARK
        # A key with this kid is known: another fetch would only help an attacker who guesses.
        with pytest.raises(Refused, match="signature does not match"):
            await verifier.verify(good(RSA), NOW)


async def test_no_token_makes_the_server_ask_elsewhere() -> None:
    """URLs in a token are never fetched."""
    with key_server(RSA) as ours, key_server(OTHER_RSA) as theirs:
        verifier = TokenVerifier.of(Settings(jwt_jwks_url=ours.url))
        async with verifier.open():
            token = OTHER_RSA.sign(claims(), kid="theirs", jku=theirs.url, x5u=theirs.url)
            with pytest.raises(Refused, match="key is not known"):
                await verifier.verify(token, NOW)
        assert ours.requests <= 2
        assert theirs.requests == 0
