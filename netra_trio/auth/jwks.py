"""The public keys of a key server (JWKS), kept fresh: RFC 7517, RFC 7518, RFC 8037.

    keys = KeySet(KeyServer("https://login.example.com/jwks").fetch)
    async with keys.open():
        found = await keys.find(lambda known: next(iter(matching(known, "RS256", "k1")), None))

An outage of the key server logs nobody out: the keys it gave last stay good until it answers again.
Its answer is judged as a stranger's: whatever it sends, the worst that comes of it is a failure.
"""

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpx2
import jwt
import orjson
import structlog
import trio
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from netra_trio.errors import NetraError
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, Refused, problem

ANSWER_SECONDS = 3.0  # for a whole answer, from the first byte of the connection to its last
ANSWER_BYTES = 256 * 1024  # of it: a hundred keys with their certificates
KEYS = 100  # of one answer are looked at; servers have two or three
TRIED = 8  # keys at most for one token: each costs 0.1 ms, and a server has three of a kind at most
RSA_BITS = (2048, 8192)  # least by RFC 7518, 3.3; beyond the most one signature takes milliseconds
RSA_EXPONENT_BITS = 64  # everybody uses 17 bits; a long one makes each signature slow

REFRESH_SECONDS = 300.0  # from a good answer to the next question: a revoked key ends by then
GAP_SECONDS = 2.0  # between the starts of two fetches, whoever asks for them and however often
BACK_OFF_SECONDS = (1.0, 30.0)  # after failures nobody waits for: from, to; the gap holds besides
WAITING = 64  # tokens that wait for a fetch at once; beyond it SERVICE_UNAVAILABLE

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class KeysUnavailable(NetraError):
    """The key server did not give keys; the text says why and has nothing of its URL."""


@frozen
class Key:
    """A public key that tokens are verified with.

    Attributes:
        kid: Its name, None where it has none.
        algorithm: The one algorithm that it is for.
        public: The key itself.
    """

    kid: str | None
    algorithm: str
    public: PublicKey


@frozen
class _Kind:
    """What a type of key is for, and which members of a JWK are its public half."""

    algorithm: str
    members: tuple[str, ...]
    curve: str | None = None


_KINDS = {
    "RSA": _Kind("RS256", ("n", "e")),
    "EC": _Kind("ES256", ("x", "y"), "P-256"),
    "OKP": _Kind("EdDSA", ("x",), "Ed25519"),
}
"""The types of keys that are used, by `kty`; no `oct`, as nobody publishes a shared secret."""


def parse_keys(body: bytes) -> tuple[Key, ...]:
    """Return the usable keys of a JSON Web Key Set; those that are not are passed over.

    Of a key with private parts only the public half is read.

    Raises:
        KeysUnavailable: It is none, or has no usable key.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:  # too deep a nesting is one too
        raise KeysUnavailable("its answer is not JSON") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise KeysUnavailable('its answer is no object with an array of "keys"')
    keys = tuple(key for jwk in listed[:KEYS] if (key := _usable(jwk)) is not None)
    if not keys:
        raise KeysUnavailable(f"none of its {len(listed)} keys can be used")
    return keys


def matching(keys: tuple[Key, ...], algorithm: str, kid: str | None) -> tuple[Key, ...]:
    """Return the keys to try for a token; a `kid` has to be the key's own, to the letter."""
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
    """Whether the key is of the right curve and meant for verifying signatures of its kind."""
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
        # Without the private members there is nothing here but a public key.
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


class KeyServer:
    """Asks a key server over HTTP; the proxies of the environment are heeded.

    Args:
        url: Where the key set is, `http` or `https`.
        seconds: For the whole answer.
        tls: Whom to trust; the system's authorities where none is given.
    """

    def __init__(
        self, url: str, *, seconds: float = ANSWER_SECONDS, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._tls = tls

    async def fetch(self) -> bytes:
        """Return the body of one answer; a redirect is not followed. Cancelling is safe.

        Raises:
            KeysUnavailable: There was no good answer in time.
        """
        body = bytearray()
        with trio.move_on_after(self._seconds) as scope:
            try:
                await self._ask(body, scope)
            except httpx2.ConnectError as error:
                # The only text that is told: it says what is wrong with a certificate.
                raise KeysUnavailable(f"it cannot be reached ({_root_of(error)})") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
                raise KeysUnavailable(f"it cannot be asked ({type(error).__name__})") from None
        if len(body) > ANSWER_BYTES:
            raise KeysUnavailable(f"its answer has more than {ANSWER_BYTES} bytes")
        if scope.cancelled_caught:
            raise KeysUnavailable(f"it did not answer within {self._seconds:g} s")
        return bytes(body)

    async def _ask(self, body: bytearray, scope: trio.CancelScope) -> None:
        """Read an answer into `body`; where it is too long, end with the scope."""
        # A connection for each question: one kept for minutes would be cut by the time it is used.
        # Encodings are not asked for, and not undone: a small body could hold a large one.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with (
            httpx2.AsyncClient(verify=self._trust(), timeout=None) as client,
            client.stream("GET", self._url, headers=headers, follow_redirects=False) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise KeysUnavailable(f"it answered with status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise KeysUnavailable("it answered with an encoding that was not asked for")
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > ANSWER_BYTES:
                    # Not by leaving the loop: the client's generators would then be left to the
                    # garbage collector.
                    scope.cancel()

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            is_tls = urlsplit(self._url).scheme.lower() == "https"
            # To read the system's authorities takes 20 ms and more: once, and only where needed.
            self._tls = (
                httpx2.create_ssl_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        return self._tls


def _root_of(error: BaseException) -> str:
    """Return in a few words what an error came from at first."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return (str(error) or type(error).__name__)[:200]


class KeySet:
    """The keys that a key server gave last.

    Fetches are made by one task, one at a time, and never begin within `GAP_SECONDS` of each other:
    that is all that a flood of tokens with unknown keys can cost the key server.

    Args:
        fetch: Returns the body of a key set, or raises `KeysUnavailable`; bounded in time.
        jitter: Returns a number from 0 to 1, by which the back-offs of many servers differ.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._fetch = fetch
        self._jitter = jitter
        self._keys: tuple[Key, ...] = ()
        self._is_open = False
        self._has_worked: bool | None = None  # the last fetch; None before the first has ended
        self._failures = 0  # in a row
        self._started = self._ended = 0  # fetches; the newest that ended is number `_ended`
        self._waiting = 0
        self._news = trio.Event()  # set and replaced when a fetch has ended
        self._wanted = trio.Event()  # set by who waits; replaced when a fetch starts

    @property
    def is_available(self) -> bool:
        """Whether the key server gave keys when it was last asked."""
        return self._has_worked is True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the keys fresh until this is left; the first fetch starts at once, beside it.

        A key server that is down does not hold the start up. On leaving, whoever still waits is
        refused.
        """
        async with trio.open_nursery() as nursery:
            self._is_open = True
            nursery.start_soon(self._keep_fresh)
            try:
                yield
            finally:
                self._is_open = False
                self._tell()
                nursery.cancel_scope.cancel()

    async def find(self, look: Callable[[tuple[Key, ...]], _T | None]) -> _T | None:
        """Return what `look` finds in the keys; where it is nothing, in those of a newer fetch.

        `look` is called with the keys there are, and again whenever new ones come, until a fetch
        has ended that started after this call. So None means that the key server, asked
        now, does not have it either. What `look` raises passes through. Takes 6 s at most: two
        fetches that end in the last moment. Cancelling is safe and ends no fetch.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if that fetch failed, too many wait already, or this is
                not open.
        """
        found = look(self._keys)
        if found is not None:
            return found
        if not self._is_open or self._waiting >= WAITING:
            raise Refused(_unavailable())
        self._waiting += 1
        try:
            return await self._find_fresh(look)
        finally:
            self._waiting -= 1

    async def _find_fresh(self, look: Callable[[tuple[Key, ...]], _T | None]) -> _T | None:
        asked_after = self._started
        self._wanted.set()
        while True:
            await self._news.wait()
            found = look(self._keys)
            if found is not None:
                return found
            is_newer = self._ended > asked_after
            if not self._is_open or (is_newer and not self._has_worked):
                raise Refused(_unavailable())
            if is_newer:
                return None

    async def _keep_fresh(self) -> None:
        while True:
            gap = trio.current_time() + GAP_SECONDS
            self._wanted = trio.Event()
            self._started += 1
            await self._fetch_once()
            self._ended = self._started
            self._tell()
            with trio.move_on_after(self._pause()):
                await self._wanted.wait()
            await trio.sleep_until(gap)

    async def _fetch_once(self) -> None:
        """Replace the keys, or leave them as they are; only cancelling is raised."""
        unforeseen: Exception | None = None
        try:
            self._keys = parse_keys(await self._fetch())
        except KeysUnavailable as error:
            reason = str(error)
        except Exception as error:
            reason, unforeseen = f"asking it failed ({type(error).__name__})", error
        else:
            if not self._has_worked:
                _log.info("keys_available", keys=len(self._keys))
            self._has_worked, self._failures = True, 0
            return
        if self._has_worked is not False:
            _log.warning("keys_unavailable", reason=reason, exc_info=unforeseen)
        self._has_worked = False
        self._failures += 1

    def _pause(self) -> float:
        """Return for how long to rest after a fetch, in seconds, unless somebody waits."""
        if self._has_worked:
            return REFRESH_SECONDS
        least, most = BACK_OFF_SECONDS
        # The exponent is bounded: after a day of failures the power would be no float.
        ceiling = min(most, least * 2.0 ** min(self._failures, 10))
        return least + (ceiling - least) * self._jitter()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _unavailable() -> Problem:
    return problem(
        ErrorCode.SERVICE_UNAVAILABLE,
        "The key of the token is not known, and the key server cannot be asked for it now.",
        retry_after_ms=round(GAP_SECONDS * 1000),
    )
