"""Keys of a key server: what is usable, when it is asked, who waits, and what a lie can do.

The rules run in virtual time with a made-up source; the asking runs against a real server.
"""

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from structlog.testing import capture_logs
from support.keyserver import (
    LIES,
    SIGNERS,
    LoopbackKeyServer,
    Signer,
    base64url,
    http_answer,
    key_server,
    key_set,
)

from netra_trio.auth.jwks import (
    _KINDS,
    ANSWER_BYTES,
    BACK_OFF_SECONDS,
    GAP_SECONDS,
    KEYS,
    REFRESH_SECONDS,
    TRIED,
    WAITING,
    Key,
    KeyServer,
    KeySet,
    KeysUnavailable,
    matching,
    parse_keys,
)
from netra_trio.config.settings import KEY_SERVER_ALGORITHMS
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused

RSA, EC, ED = (SIGNERS[name] for name in ("RS256", "ES256", "EdDSA"))
MARK = "mallory-was-here"


# What is usable.


def kids(body: bytes) -> list[str | None]:
    return [key.kid for key in parse_keys(body)]


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

PASSED_OVER: dict[str, Any] = {
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


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_key_that_is_passed_over(name: str) -> None:
    assert reason(key_set(PASSED_OVER[name])) == "none of its 1 keys can be used"
    assert kids(key_set(PASSED_OVER[name], EC, PASSED_OVER[name])) == ["ES256-1"]


@pytest.mark.parametrize(
    "more",
    [
        {"use": ..., "alg": ..., "key_ops": ...},
        {"key_ops": ["sign", "verify"]},
        {"x5c": [MARK], "x5t": 5, "oth": {}, "ext": True},
        {"d": MARK, "p": MARK},
    ],
)
def test_a_key_that_is_used(more: dict[str, Any]) -> None:
    (key,) = parse_keys(key_set(RSA.jwk(**more)))
    assert key.public == RSA.private.public_key()


def test_of_a_private_key_only_the_public_half_is_read() -> None:
    assert isinstance(EC.private, ec.EllipticCurvePrivateKey)
    private = ECAlgorithm.to_jwk(EC.private, as_dict=True)
    assert "d" in private
    (key,) = parse_keys(key_set(private))
    assert key == Key(None, "ES256", EC.private.public_key())


def test_no_more_than_a_hundred_keys_are_looked_at() -> None:
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
def test_what_is_no_key_set(body: bytes, why: str) -> None:
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
def test_any_key_is_usable_or_passed_over(signer: Signer, wrong: dict[str, Any]) -> None:
    names = kids(key_set(signer.jwk(**wrong), EC))
    assert len(names) in {1, 2}
    assert names[-1] == "ES256-1"


@given(st.binary() | JSON.map(lambda value: repr(value).encode("utf-8", "replace")))
def test_any_body_is_a_key_set_or_none(body: bytes) -> None:
    with pytest.raises(KeysUnavailable):
        parse_keys(body)


def test_which_keys_are_tried() -> None:
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


# When the key server is asked.

GOOD = key_set(RSA)
NEW = Signer("ES256", "new", EC.private)


@define
class Source:
    """What stands for a key server; an answer is what holds when the question is asked."""

    answer: bytes | Exception = GOOD
    seconds: float = 0.5
    starts: list[float] = field(factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    async def fetch(self) -> bytes:
        self.starts.append(trio.current_time())
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        answer = self.answer
        try:
            await trio.sleep(self.seconds)
        finally:
            self._at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


DOWN = KeysUnavailable("it is down")


@asynccontextmanager
async def opened(source: Source, *, jitter: float = 0.0) -> AsyncIterator[KeySet]:
    keys = KeySet(source.fetch, jitter=lambda: jitter)
    async with keys.open():
        yield keys


def named(kid: str) -> Callable[[tuple[Key, ...]], Key | None]:
    def look(keys: tuple[Key, ...]) -> Key | None:
        return next((key for key in keys if key.kid == kid), None)

    return look


async def unavailable(keys: KeySet, kid: str = "unknown") -> None:
    with pytest.raises(Refused) as caught:
        await keys.find(named(kid))
    fault = caught.value.problem
    assert (fault.code, fault.status) == (ErrorCode.SERVICE_UNAVAILABLE, 503)
    assert fault.recoverable
    assert fault.retry_after_ms == 2000
    assert kid not in fault.error


async def test_the_start_does_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(seconds=2.5)
    async with opened(source) as keys:
        assert trio.current_time() == 0
        assert not keys.is_available
        # Whoever comes at once waits for the fetch that is under way, and not for another.
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == 2.5
        assert keys.is_available


async def test_a_good_answer_is_good_for_five_minutes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(3 * REFRESH_SECONDS)
        source.answer = key_set(NEW)
        await trio.sleep(REFRESH_SECONDS)
        assert source.starts == [0, 300.5, 601, 901.5]
        assert keys.is_available
        # What is not published any more is gone.
        assert await keys.find(named("new")) is not None
        assert await keys.find(named("RS256-1")) is None


@pytest.mark.parametrize(
    ("jitter", "pauses"), [(0.0, [2] * 8), (1.0, [2.5, 4.5, 8.5, 16.5, 30.5, 30.5, 30.5, 30.5])]
)
async def test_the_back_off(
    jitter: float, pauses: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    source = Source(DOWN)
    async with opened(source, jitter=jitter):
        await trio.sleep(sum(pauses) + 0.1)
        gaps = [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)]
        assert gaps == pauses
        assert BACK_OFF_SECONDS == (1.0, 30.0)
        # After a success the count begins afresh.
        source.answer = GOOD
        await trio.sleep(31)
        source.answer, source.starts[:] = DOWN, []
        await trio.sleep(REFRESH_SECONDS + 10)
        first, second = source.starts[:2]
        assert second - first == pauses[0]


async def test_the_back_off_after_days(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN, seconds=0)
    async with opened(source, jitter=1.0):
        await trio.sleep(5 * 24 * 3600)
        assert source.starts[-1] - source.starts[-2] == 30


async def test_an_outage_keeps_the_keys(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(1)
        source.answer = DOWN
        await trio.sleep(3600)
        assert not keys.is_available
        assert await keys.find(named("RS256-1")) is not None
        await unavailable(keys)
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None
        assert keys.is_available


@pytest.mark.parametrize("answer", [b"<html>", key_set(), b"[]", RuntimeError(MARK), OSError(MARK)])
async def test_a_lie_is_an_outage(
    answer: bytes | Exception, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(1)
        source.answer = answer
        await unavailable(keys)
        assert await keys.find(named("RS256-1")) is not None
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None


async def test_a_start_without_the_key_server(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN)
    async with opened(source) as keys:
        await unavailable(keys, "RS256-1")
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() < 10


async def test_a_change_is_a_line_and_an_attempt_is_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(DOWN)
    with capture_logs() as logs:
        async with opened(source):
            await trio.sleep(1000)
            source.answer = GOOD
            await trio.sleep(1000)
            source.answer = RuntimeError(MARK)
            await trio.sleep(1000)
            source.answer = b"[]"
            await trio.sleep(1000)
    assert [(line["event"], line.get("reason"), line.get("keys")) for line in logs] == [
        ("keys_unavailable", "it is down", None),
        ("keys_available", None, 1),
        ("keys_unavailable", "asking it failed (RuntimeError)", None),
    ]
    assert logs[0]["exc_info"] is None
    assert isinstance(logs[2]["exc_info"], RuntimeError), "what nobody foresaw has its traceback"


# Who waits.


async def test_a_new_key_is_asked_for_at_once(autojump_clock: trio.testing.MockClock) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(100)
        source.answer = key_set(NEW)
        assert await keys.find(named("new")) is not None
        assert trio.current_time() == 100.5
        # The next one is asked for two seconds after the last question began, not earlier.
        assert await keys.find(named("unknown")) is None
        assert trio.current_time() == 102.5
        assert source.starts == [0, 100, 102]


async def test_an_answer_to_an_older_question_is_not_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(seconds=2.9)
    async with opened(source) as keys:
        await trio.sleep(0.1)
        source.answer = key_set(NEW)  # too late for the question that is under way
        assert await keys.find(named("new")) is not None
        assert source.starts == [0, 2.9]
        assert trio.current_time() == pytest.approx(5.8)


async def test_an_old_failure_refuses_nobody(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN)
    async with opened(source) as keys:
        await trio.sleep(0.1)
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert source.starts == [0, 2]


async def test_who_waits_ends_a_back_off(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(DOWN)
    async with opened(source, jitter=1.0) as keys:
        await trio.sleep(65)
        assert source.starts[-1] == 62.5
        source.answer = GOOD
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == 65.5


async def test_a_flood_costs_a_question_in_two_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    outcomes = {"unknown": 0, "unavailable": 0}

    async def ask(keys: KeySet, number: int) -> None:
        try:
            assert await keys.find(named(f"flood-{number}")) is None
            outcomes["unknown"] += 1
        except Refused:
            outcomes["unavailable"] += 1

    async def flood(keys: KeySet, nursery: trio.Nursery) -> None:
        for number in range(20_000):
            nursery.start_soon(ask, keys, number)
            await trio.sleep(0.001)

    async with opened(source) as keys, trio.open_nursery() as nursery:
        await trio.sleep(10.0005)  # never at the very moment of a question's end
        nursery.start_soon(flood, keys, nursery)
        await trio.sleep(10)
        # A rotation under the flood: refused with 503 for two seconds at most, then known.
        source.answer = key_set(RSA, NEW)
        began = trio.current_time()
        while True:
            try:
                assert await keys.find(named("new")) is not None
                break
            except Refused:
                await trio.sleep(0.1)
        assert trio.current_time() - began <= GAP_SECONDS + source.seconds + 0.1
        await trio.sleep(1)
        # And who has a key of old is not kept waiting at all.
        assert keys._waiting == WAITING
        began = trio.current_time()
        assert await keys.find(named("RS256-1")) is not None
        assert trio.current_time() == began
    assert source.most_at_once == 1
    gaps = [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)]
    assert min(gaps) >= GAP_SECONDS
    assert len(source.starts) <= 2 + 22 / GAP_SECONDS
    assert outcomes["unknown"] + outcomes["unavailable"] == 20_000
    assert outcomes["unknown"] >= WAITING * 9
    assert keys._waiting == 0


async def test_sixty_four_wait_and_one_more_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    async with opened(source) as keys:
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            for number in range(WAITING):
                nursery.start_soon(keys.find, named(f"flood-{number}"))
            await trio.testing.wait_all_tasks_blocked()
            await unavailable(keys)
            assert trio.current_time() == 10
        assert await keys.find(named("unknown")) is None
        assert keys._waiting == 0


async def test_who_goes_away_ends_no_question(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(seconds=1)
    found: list[Key | None] = []

    async def ask(keys: KeySet) -> None:
        found.append(await keys.find(named("new")))

    async with opened(source) as keys:
        await trio.sleep(10)
        source.answer = key_set(NEW)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.5) as impatience:
                nursery.start_soon(ask, keys)
                await keys.find(named("new"))
            assert impatience.cancelled_caught
            assert keys._waiting == 1
        assert [key.kid for key in found if key] == ["new"]
        assert trio.current_time() == 11
        assert source.starts == [0, 10]
        # One that leaves alone has asked all the same, and nobody is the worse for it.
        with trio.move_on_after(0.5):
            await keys.find(named("unknown"))
        assert keys._waiting == 0
        await trio.sleep(10)
        assert source.starts == [0, 10, 12]


async def test_what_a_look_raises_passes_through(autojump_clock: trio.testing.MockClock) -> None:
    def look(keys: tuple[Key, ...]) -> Key | None:
        if keys:
            raise LookupError(MARK)
        return None

    async with opened(Source()) as keys:
        with pytest.raises(LookupError):
            await keys.find(look)
        assert keys._waiting == 0


async def test_on_leaving_nobody_is_left_waiting(autojump_clock: trio.testing.MockClock) -> None:
    source = Source(seconds=math.inf)
    keys = KeySet(source.fetch)
    await unavailable(keys)
    async with trio.open_nursery() as nursery:
        async with keys.open():
            nursery.start_soon(unavailable, keys)
            await trio.testing.wait_all_tasks_blocked()
        await unavailable(keys)
    assert trio.current_time() == 0


# The asking, over a real network.


async def why(server: LoopbackKeyServer, **options: Any) -> str:
    with pytest.raises(KeysUnavailable) as caught:
        await KeyServer(server.url, **options).fetch()
    text = str(caught.value)
    assert "://" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


async def test_a_real_answer() -> None:
    with key_server(RSA, EC) as server:
        assert kids(await KeyServer(server.url).fetch()) == ["RS256-1", "ES256-1"]
        assert server.requests == 1
        server.publish(NEW)
        assert kids(await KeyServer(server.url).fetch()) == ["new"]


WHY = {
    "not HTTP": "it cannot be asked (RemoteProtocolError)",
    "a closed door": "it cannot be asked (RemoteProtocolError)",
    "half an answer": "it cannot be asked (RemoteProtocolError)",
    "status 500": "it answered with status 500",
    "status 204": "it answered with status 204",
    "ten megabytes": f"its answer has more than {ANSWER_BYTES} bytes",
    "a gzip bomb": "it answered with an encoding that was not asked for",
    "an unknown encoding": "it answered with an encoding that was not asked for",
}


@pytest.mark.parametrize("name", LIES)
async def test_a_real_lie(name: str) -> None:
    async def fetch_and_parse(server: KeyServer) -> None:
        parse_keys(await server.fetch())

    with key_server() as server:
        server.answer = LIES[name]
        with pytest.raises(KeysUnavailable) as caught:
            await fetch_and_parse(KeyServer(server.url))
        assert str(caught.value) == WHY.get(name, str(caught.value))
        assert server.requests == 1


async def test_the_largest_answer_and_one_byte_more() -> None:
    with key_server() as server:
        body = key_set(RSA)
        body += b" " * (ANSWER_BYTES - len(body))
        server.answer = http_answer(body)
        assert kids(await KeyServer(server.url).fetch()) == ["RS256-1"]
        server.answer = http_answer(body + b" ")
        assert "more than" in await why(server)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 T", "308 P"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    with key_server(RSA) as target, key_server() as server:
        server.answer = http_answer(b"", f"Location: {target.url}", status=status)
        assert await why(server) == f"it answered with status {status[:3]}"
        assert (server.requests, target.requests) == (1, 0)


async def test_one_that_is_gone_and_comes_back() -> None:
    with key_server(RSA) as server:
        server.stop()
        assert (await why(server)).startswith("it cannot be reached (")
        server.start()
        assert kids(await KeyServer(server.url).fetch()) == ["RS256-1"]


async def test_one_that_never_answers_or_a_byte_at_a_time() -> None:
    with key_server(RSA) as server:
        began = trio.current_time()
        server.is_mute = True
        assert await why(server, seconds=0.3) == "it did not answer within 0.3 s"
        server.is_mute, server.pause = False, 0.05  # there is always progress
        assert await why(server, seconds=0.3) == "it did not answer within 0.3 s"
        assert 0.6 <= trio.current_time() - began < 3
        assert server.requests == 2


async def test_cancelling_a_question() -> None:
    with key_server(RSA) as server:
        server.is_mute = True
        with trio.move_on_after(0.2) as impatience:
            await KeyServer(server.url).fetch()
        assert impatience.cancelled_caught


async def test_a_certificate_that_nobody_vouches_for() -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with key_server(RSA, tls=tls) as server:
        assert "certificate verify failed" in await why(server)
        assert server.requests == 0
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        assert kids(await KeyServer(server.url, tls=trusting).fetch()) == ["RS256-1"]


async def test_a_real_rotation_outage_and_flood() -> None:
    with key_server(RSA) as server:
        keys = KeySet(KeyServer(server.url).fetch)
        async with keys.open():
            assert await keys.find(named("RS256-1")) is not None
            server.publish(RSA, NEW)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(partial(_flooding, keys, f"flood-{number}"))
                while True:
                    try:
                        assert await keys.find(named("new")) is not None
                        break
                    except Refused:
                        await trio.sleep(0.1)
            seconds = trio.current_time() - began
            # The first one comes too early for the answer of before, which is two seconds old.
            assert server.requests <= 2 + seconds / GAP_SECONDS
            server.stop()
            await unavailable(keys)
            assert await keys.find(named("RS256-1")) is not None
            assert not keys.is_available
            server.publish(NEW)
            server.start()
            assert await keys.find(named("unknown")) is None
            assert await keys.find(named("new")) is not None
            assert keys.is_available


async def _flooding(keys: KeySet, kid: str) -> None:
    try:
        assert await keys.find(named(kid)) is None
    except Refused as refused:
        assert refused.problem.code is ErrorCode.SERVICE_UNAVAILABLE  # noqa: PT017
