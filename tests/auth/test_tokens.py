"""Tokens and tickets: invalid ones are refused with a reason that contains no part of them."""

import base64
import hmac
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

import jwt
import orjson
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from support.versions import is_before

from netra_trio.auth.identity import USER_ID_CHARACTERS, Identity
from netra_trio.auth.tickets import (
    FILE_TICKETS,
    TICKET_SECONDS,
    TICKETS,
    TICKETS_PER_USER,
    LocalTickets,
    _digest,
)
from netra_trio.auth.tokens import TOKEN_CHARACTERS, TokenVerifier
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.keepalive import LEEWAY
from netra_trio.protocol.problem import Refused

SECRET = "a-secret-of-at-least-thirty-two-bytes"
OTHER = "another-secret-of-thirty-two-bytes-or-more"
NOW = 1_800_000_000.0
HEADER = '{"alg":"HS256","typ":"JWT"}'
MARK = "mallory-was-here"

VERIFIER = TokenVerifier(SECRET)

_T = TypeVar("_T")


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(payload: str, *, header: str = HEADER, key: str = SECRET, digest: str = "sha256") -> str:
    """Return a signed token whose header and payload are any text."""
    signed = f"{base64url(header.encode())}.{base64url(payload.encode())}"
    return f"{signed}.{base64url(hmac.digest(key.encode(), signed.encode(), digest))}"


def claims(**more: Any) -> str:
    """Return a valid payload with these changes; a claim that is `...` is left out."""
    payload = {"sub": MARK, "exp": NOW + 60, **more}
    return orjson.dumps({k: v for k, v in payload.items() if v is not ...}).decode()


def with_claim(name: str, json: str) -> str:
    """Return a token with one claim as JSON text that no encoder writes."""
    rest = claims(**{name: ...})
    return raw(f'{rest[:-1]},"{name}":{json}}}')


def refusal(token: str, verifier: TokenVerifier = VERIFIER, now: float = NOW) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        trio.run(verifier.verify, token, now)
    fault = caught.value.problem
    assert fault.status == 401
    assert not fault.recoverable
    text = f"{fault.error} {fault.help} {caught.value}"
    assert MARK not in text
    assert not any(part in text for part in token.split(".") if len(part) > 3)
    # No traceback in the log shows the texts of the parsers.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(fault.code), fault.error


def accepted(token: str, verifier: TokenVerifier = VERIFIER, now: float = NOW) -> Identity:
    return trio.run(verifier.verify, token, now)


MALFORMED = "The token is malformed."
SHAPE = "The token is not three parts in base64url with dots between them."
HEADER_FAULT = 'The token\'s header has a "kid" that is no string, or extensions ("crit", "b64").'
# PyJWT rejects it by itself since 2.13, before this server's own check.
B64_FAULT = HEADER_FAULT if is_before("pyjwt", 2, 13) else MALFORMED
ALGORITHM = "The token's algorithm is not accepted here."
SIGNATURE = "The token's signature does not match."
SUBJECT = 'The token\'s "sub" is not a printable text of 1 to 255 characters.'
NO_TIME = 'The token\'s "exp" is not a number of seconds.'
NO_SUB, NO_EXP = 'The token lacks the claim "sub".', 'The token lacks the claim "exp".'
DEEP = "[" * 2000 + "]" * 2000

HOSTILE = {
    "empty": ("", SHAPE),
    "no token": (MARK, SHAPE),
    "two parts": (f"{MARK}.{MARK}", SHAPE),
    "four parts": (f"{raw(claims())}.{MARK}", SHAPE),
    "dots": ("..", SHAPE),
    "blanks around": (f" {raw(claims())} ", SHAPE),
    "not base64": ("!!!!.????.####", SHAPE),
    "not ASCII": ("t\u00f6k\u00e9n.\u20ac.\U0001f600", SHAPE),
    "a lone surrogate": ("\ud800.\udfff.\ud800", SHAPE),
    "null bytes": ("\x00.\x00.\x00", SHAPE),
    "alg none": (raw(claims(), header='{"alg":"none"}'), ALGORITHM),
    "alg none, unsigned": (
        raw(claims(), header='{"alg":"none"}').rpartition(".")[0] + ".",
        ALGORITHM,
    ),
    "alg None": (raw(claims(), header='{"alg":"nOnE"}'), ALGORITHM),
    "alg RS256 over the secret": (raw(claims(), header='{"alg":"RS256"}'), ALGORITHM),
    "alg ES256 over the secret": (raw(claims(), header='{"alg":"ES256"}'), ALGORITHM),
    "alg HS512": (raw(claims(), header='{"alg":"HS512"}', digest="sha512"), ALGORITHM),
    "alg in lower case": (raw(claims(), header='{"alg":"hs256"}'), ALGORITHM),
    "alg a list": (raw(claims(), header='{"alg":["HS256"]}'), ALGORITHM),
    "alg an object": (raw(claims(), header='{"alg":{}}'), ALGORITHM),
    "alg null": (raw(claims(), header='{"alg":null}'), ALGORITHM),
    "no alg": (raw(claims(), header='{"typ":"JWT"}'), ALGORITHM),
    "header no object": (raw(claims(), header='["HS256"]'), MALFORMED),
    "header no JSON": (raw(claims(), header="HS256"), MALFORMED),
    "header a bomb": (raw(claims(), header=DEEP), MALFORMED),
    "header with kid 5": (raw(claims(), header='{"alg":"HS256","kid":5}'), HEADER_FAULT),
    "header with crit": (raw(claims(), header='{"alg":"HS256","crit":["x"]}'), HEADER_FAULT),
    "header with b64 false": (raw(claims(), header='{"alg":"HS256","b64":false}'), B64_FAULT),
    "wrong key": (raw(claims(), key=OTHER), SIGNATURE),
    "empty key": (raw(claims(), key=""), SIGNATURE),
    "no signature": (raw(claims()).rpartition(".")[0] + ".", SIGNATURE),
    "cut signature": (raw(claims())[:-3], SIGNATURE),
    "other payload": (
        ".".join([raw(claims()).split(".")[0], *raw(claims(sub="bob")).split(".")[1:2], "AAAA"]),
        SIGNATURE,
    ),
    "payload no object": (raw("[]"), MALFORMED),
    "payload a string": (raw(f'"{MARK}"'), MALFORMED),
    "payload no JSON": (raw(MARK), MALFORMED),
    "payload an endless bomb": (raw("[" * 6000), MALFORMED),
    "payload null": (raw("null"), MALFORMED),
    "no sub": (raw(claims(sub=...)), NO_SUB),
    "sub null": (raw(claims(sub=None)), NO_SUB),
    "sub empty": (raw(claims(sub="")), SUBJECT),
    "sub a number": (raw(claims(sub=5)), SUBJECT),
    "sub true": (raw(claims(sub=True)), SUBJECT),
    "sub a list": (raw(claims(sub=[MARK])), SUBJECT),
    "sub an object": (raw(claims(sub={MARK: 1})), SUBJECT),
    "sub too long": (raw(claims(sub="x" * (USER_ID_CHARACTERS + 1))), SUBJECT),
    "sub with a line": (raw(claims(sub=f"{MARK}\n")), SUBJECT),
    "sub with a null byte": (raw(claims(sub=f"{MARK}\x00")), SUBJECT),
    "sub with an override": (raw(claims(sub=f"\u202e{MARK}")), SUBJECT),
    "sub a lone surrogate": (with_claim("sub", '"\\ud800"'), SUBJECT),
    "no exp": (raw(claims(exp=...)), NO_EXP),
    "exp null": (raw(claims(exp=None)), NO_EXP),
    "exp true": (raw(claims(exp=True)), NO_TIME),
    "exp a string": (raw(claims(exp=str(NOW + 60))), NO_TIME),
    "exp a list": (raw(claims(exp=[NOW])), NO_TIME),
    "exp infinite": (with_claim("exp", "Infinity"), NO_TIME),
    "exp minus infinite": (with_claim("exp", "-Infinity"), NO_TIME),
    "exp not a number": (with_claim("exp", "NaN"), NO_TIME),
    "exp 1e999": (with_claim("exp", "1e999"), NO_TIME),
    "exp beyond every float": (with_claim("exp", "9" * 400), NO_TIME),
    "exp beyond every digit": (with_claim("exp", "9" * 5000), MALFORMED),
    "nbf true": (raw(claims(nbf=True)), NO_TIME.replace("exp", "nbf")),
    "nbf infinite": (with_claim("nbf", "Infinity"), NO_TIME.replace("exp", "nbf")),
    "nbf to come": (raw(claims(nbf=NOW + 11)), "The token is not valid yet."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_invalid_token_is_refused_with_its_reason(name: str) -> None:
    token, reason = HOSTILE[name]
    assert refusal(token) == ("INVALID_TOKEN", reason)


def test_a_bomb_in_the_payload_of_an_expired_token() -> None:
    # The reason depends on the recursion limit of json in this Python.
    code, _ = refusal(raw('{"sub":"a","exp":1,"x":' + DEEP + "}"))
    assert code in {"INVALID_TOKEN", "TOKEN_EXPIRED"}


@pytest.mark.parametrize("exp", [-1, 0, -1e300, NOW - LEEWAY, NOW - 1e6])
def test_an_expired_token(exp: float) -> None:
    assert refusal(raw(claims(exp=exp))) == ("TOKEN_EXPIRED", "The token has expired.")


@pytest.mark.parametrize("exp", [NOW + 1, NOW + 0.5, int(NOW) + 60, 2**63, 1e300])
def test_a_valid_token(exp: float) -> None:
    identity = accepted(raw(claims(exp=exp)))
    assert identity.expires_at == exp
    assert not identity.is_anonymous


def test_the_leeway_at_its_bound() -> None:
    token = raw(claims(exp=NOW, nbf=NOW))
    assert accepted(token, now=NOW + LEEWAY - 0.25).expires_at == NOW
    assert refusal(token, now=NOW + LEEWAY)[0] == "TOKEN_EXPIRED"
    assert accepted(token, now=NOW - LEEWAY).user_id == MARK
    assert refusal(token, now=NOW - LEEWAY - 0.25) == (
        "INVALID_TOKEN",
        "The token is not valid yet.",
    )


def test_the_longest_user_id() -> None:
    for user in ("x" * USER_ID_CHARACTERS, "\u00e9" * USER_ID_CHARACTERS, "auth0|5 \U0001f600"):
        assert accepted(raw(claims(sub=user))).user_id == user


def padded(length: int) -> str:
    """Return a valid token of exactly this many characters."""
    for pad in range(length):
        token = raw(claims(pad="x" * (length * 3 // 4 - 200 + pad)))
        if len(token) == length:
            return token
    raise AssertionError


def test_the_longest_token_and_one_character_beyond() -> None:
    assert accepted(padded(TOKEN_CHARACTERS)).user_id == MARK
    assert refusal(padded(TOKEN_CHARACTERS + 1)) == (
        "INVALID_TOKEN",
        "The token has more than 8192 characters.",
    )
    assert refusal("x" * 10_000_000)[0] == "INVALID_TOKEN"


ISSUER = "The token is from another issuer."
AUDIENCE = "The token is for another audience."
NO_ISSUER, NO_AUDIENCE = NO_SUB.replace("sub", "iss"), NO_SUB.replace("sub", "aud")
STRICT = TokenVerifier(SECRET, issuer="https://issuer.example", audience="netra")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"iss": "https://issuer.example", "aud": "netra"}, None),
        ({"iss": "https://issuer.example", "aud": ["other", "netra"]}, None),
        ({"aud": "netra"}, NO_ISSUER),
        ({"iss": "https://issuer.example"}, NO_AUDIENCE),
        ({"iss": "https://issuer.example", "aud": []}, NO_AUDIENCE),
        ({"iss": "https://issuer.example", "aud": None}, NO_AUDIENCE),
        ({"iss": f"https://{MARK}.example", "aud": "netra"}, ISSUER),
        ({"iss": "https://issuer.example/", "aud": "netra"}, ISSUER),
        ({"iss": "HTTPS://issuer.example", "aud": "netra"}, ISSUER),
        ({"iss": ["https://issuer.example"], "aud": "netra"}, ISSUER),
        ({"iss": None, "aud": "netra"}, ISSUER),
        ({"iss": "https://issuer.example", "aud": MARK}, AUDIENCE),
        ({"iss": "https://issuer.example", "aud": "netra2"}, AUDIENCE),
        ({"iss": "https://issuer.example", "aud": ["netra", 5]}, AUDIENCE),
        ({"iss": "https://issuer.example", "aud": {"netra": 1}}, AUDIENCE),
        ({"iss": "https://issuer.example", "aud": 5}, AUDIENCE),
    ],
)
def test_a_configured_issuer_and_audience_are_required(
    more: dict[str, Any], reason: str | None
) -> None:
    token = raw(claims(**more))
    if reason is None:
        assert accepted(token, STRICT).user_id == MARK
    else:
        assert refusal(token, STRICT) == ("INVALID_TOKEN", reason)
    # Without configuration any issuer and audience is accepted.
    assert accepted(token).user_id == MARK


def test_permissions_from_both_claims() -> None:
    assert accepted(raw(claims())).permissions == frozenset()
    token = raw(claims(permissions=["a", "b c"], scope=" d  a\te "))
    assert accepted(token).permissions == {"a", "b c", "d", "e"}
    listed = raw(claims(permissions=["a"], scope=["api1", "b c"]))
    assert accepted(listed).permissions == {"a", "api1", "b c"}


FOREIGN = [None, True, 5, 1.5, {}, {"netra:admin": True}, ["netra:admin", 5], [["netra:admin"]]]


@pytest.mark.parametrize("value", [*FOREIGN, "netra:admin"], ids=repr)
def test_permissions_of_another_shape_grant_nothing(value: Any) -> None:
    identity = accepted(raw(claims(permissions=value, scope="a")))
    assert (identity.user_id, identity.permissions) == (MARK, frozenset({"a"}))


@pytest.mark.parametrize("value", FOREIGN, ids=repr)
def test_a_scope_of_another_shape_grants_nothing(value: Any) -> None:
    identity = accepted(raw(claims(permissions=["a"], scope=value)))
    assert (identity.user_id, identity.permissions) == (MARK, frozenset({"a"}))


@pytest.mark.parametrize(
    "more",
    [
        {"nbf": None},
        *({name: value} for name in ("jti", "iat", "aud", "iss", "azp") for value in FOREIGN),
    ],
    ids=repr,
)
def test_an_optional_claim_of_another_shape_does_not_refuse(more: dict[str, Any]) -> None:
    assert accepted(raw(claims(**more))).user_id == MARK


def test_a_signed_token_is_accepted() -> None:
    token = STRICT.sign("alice", expires_at=NOW + 60.9, permissions=("b", "a"))
    assert accepted(token, STRICT) == Identity(UserId("alice"), NOW + 60, frozenset({"a", "b"}))
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["permissions"] == ["a", "b"]
    bare = VERIFIER.sign("alice", expires_at=NOW)
    assert jwt.decode(bare, options={"verify_signature": False}) == {"sub": "alice", "exp": NOW}


def test_a_configured_algorithm_is_used() -> None:
    verifier = TokenVerifier(SECRET * 2, algorithms=("HS512", "HS256"))
    assert jwt.get_unverified_header(verifier.sign("a", expires_at=NOW + 60))["alg"] == "HS512"
    assert accepted(verifier.sign("a", expires_at=NOW + 60), verifier).user_id == "a"
    assert accepted(raw(claims(), key=SECRET * 2), verifier).user_id == MARK
    assert refusal(raw(claims(), header='{"alg":"HS384"}'), verifier)[1] == ALGORITHM


def test_an_identity_without_expiry_is_anonymous() -> None:
    assert Identity(UserId("anonymous-1")).is_anonymous


@given(st.text(st.characters()) | st.lists(st.text("abcAZ09-_=", max_size=40)).map(".".join))
@example("\ud800")
def test_any_text_is_refused(token: str) -> None:
    with pytest.raises(Refused):
        trio.run(VERIFIER.verify, token, NOW)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = ("sub", "exp", "nbf", "iat", "jti", "iss", "aud", "permissions", "scope", "crit")


@given(
    st.dictionaries(st.sampled_from(NAMES), JSON),
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "cty", "jku"]), JSON),
)
def test_any_signed_claims_give_an_identity_or_a_refusal(
    payload: dict[str, Any], header: dict[str, Any]
) -> None:
    token = raw(
        orjson.dumps({"sub": "a", "exp": NOW + 1, **payload}).decode(),
        header=orjson.dumps({"alg": "HS256", **header}).decode(),
    )
    for verifier in (VERIFIER, STRICT):
        try:
            identity = trio.run(verifier.verify, token, NOW)
        except Refused as refused:
            assert refused.problem.code in {ErrorCode.INVALID_TOKEN, ErrorCode.TOKEN_EXPIRED}  # noqa: PT017
        else:
            assert identity.user_id.isprintable()
            assert math.isfinite(identity.expires_at)
            assert identity.expires_at > NOW - LEEWAY


# Tickets.

ALICE = Identity(UserId("alice"), NOW + 60, frozenset({"netra:admin"}))


def at_once(call: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a call that has no checkpoint."""
    try:
        call.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("it waited")


def used_up(tickets: LocalTickets, ticket: str, now: float = 0.0) -> bool:
    try:
        at_once(tickets.redeem(ticket, now))
    except Refused as refused:
        assert refused.problem.code is ErrorCode.INVALID_TOKEN  # noqa: PT017
        assert ticket not in refused.problem.error  # noqa: PT017
        return True
    return False


def test_a_ticket_is_valid_once() -> None:
    tickets = LocalTickets()
    ticket = at_once(tickets.issue(ALICE, 0.0))
    assert len(ticket) == 32
    assert ticket.isascii()
    assert at_once(tickets.redeem(ticket, 0.0)) is ALICE
    assert used_up(tickets, ticket)
    assert len(tickets) == 0
    assert tickets._kept._by_user == {}


@pytest.mark.parametrize("ticket", ["guess", "\ud800", "\u00e9" * 32, "x" * 100_000])
def test_an_unknown_ticket_is_refused(ticket: str) -> None:
    assert used_up(LocalTickets(), ticket)


def test_a_ticket_expires_after_exactly_30_seconds() -> None:
    tickets = LocalTickets()
    first, second = at_once(tickets.issue(ALICE, 100.0)), at_once(tickets.issue(ALICE, 100.0))
    assert TICKET_SECONDS == 30
    assert at_once(tickets.redeem(first, 129.75)) is ALICE
    assert used_up(tickets, second, 130.0)
    assert len(tickets) == 0
    assert tickets._kept._by_user == {}


def test_the_oldest_ticket_of_a_user_is_dropped_above_the_bound() -> None:
    tickets = LocalTickets()
    own = [at_once(tickets.issue(ALICE, 0.0)) for _ in range(TICKETS_PER_USER)]
    bobs = at_once(tickets.issue(Identity(UserId("bob")), 0.0))
    assert len(set(own)) == len(tickets) - 1 == TICKETS_PER_USER
    beyond = at_once(tickets.issue(ALICE, 0.0))
    assert len(tickets) == TICKETS_PER_USER + 1
    assert used_up(tickets, own[0])
    assert not any(used_up(tickets, ticket) for ticket in [*own[1:], bobs, beyond])
    assert tickets._kept._by_user == {}


def test_the_number_of_tickets_is_bounded() -> None:
    tickets = LocalTickets()
    for number in range(TICKETS):
        last = at_once(tickets.issue(Identity(UserId(f"user-{number}")), 0.0))
    with pytest.raises(Refused) as caught:
        at_once(tickets.issue(ALICE, 29.75))
    assert caught.value.problem.code is ErrorCode.SERVICE_UNAVAILABLE
    assert caught.value.problem.retry_after_ms == 30_000
    assert "alice" not in tickets._kept._by_user
    # A used ticket makes room for another.
    at_once(tickets.redeem(last, 29.75))
    ticket = at_once(tickets.issue(ALICE, 29.75))
    with pytest.raises(Refused):
        at_once(tickets.issue(Identity(UserId("bob")), 29.75))
    # So does a user above the bound of a user.
    assert len(tickets) == TICKETS
    # After 30 seconds all others have expired, and their users are forgotten.
    assert at_once(tickets.redeem(ticket, 30.0)) is ALICE
    assert len(tickets) == 0
    assert tickets._kept._by_user == {}


def test_the_oldest_ticket_for_a_file_is_dropped_above_the_bound() -> None:
    tickets, file_id = LocalTickets(), FileId("file_1")

    def issue(user: str) -> str:
        return at_once(tickets.issue_for_file(Identity(UserId(user)), file_id, 0.0))

    def is_valid(ticket: str) -> bool:
        try:
            at_once(tickets.check_for_file(ticket, file_id, 299.75))
        except Refused:
            return False
        return True

    first, second, *_ = [issue(f"user-{number}") for number in range(FILE_TICKETS)]
    assert is_valid(first)
    beyond = issue("alice")
    assert [is_valid(ticket) for ticket in (first, second, beyond)] == [False, True, True]
    assert len(tickets._for_files) == FILE_TICKETS
    assert "user-0" not in tickets._for_files._by_user


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(-3, 12), st.integers(0, 80).map(lambda n: n / 4)
        ),
        max_size=120,
    )
)
def test_tickets_against_a_simple_model(steps: list[tuple[str, int, float]]) -> None:
    tickets, now = LocalTickets(), 0.0
    out: list[tuple[str, str, float]] = []  # ticket, user, issued at
    for user, which, step in steps:
        now += step / 8
        out = [entry for entry in out if now - entry[2] < TICKET_SECONDS]
        if which < 9:
            own = [entry for entry in out if entry[1] == user]
            if len(own) == TICKETS_PER_USER:
                out.remove(own[0])
            out.append((at_once(tickets.issue(Identity(UserId(user)), now)), user, now))
        elif out:
            ticket, owner, _ = out.pop(which % len(out))
            assert at_once(tickets.redeem(ticket, now)).user_id == owner
            assert used_up(tickets, ticket, now)
    tickets._kept._drop_expired(now)
    assert list(tickets._kept._tickets) == [_digest(ticket) for ticket, *_ in out]
    assert {name: list(own) for name, own in tickets._kept._by_user.items()} == {
        name: [_digest(ticket) for ticket, owner, _ in out if owner == name] for _, name, _ in out
    }


def test_the_helpers_sign_correctly() -> None:
    # The tokens above are signed by hand: a mistake there must not look like a refusal.
    signed = jwt.encode({"sub": MARK, "exp": NOW + 60}, SECRET, algorithm="HS256")
    assert accepted(signed) == accepted(raw(claims()))
