"""The keys of a key server, refreshed regularly and on demand.

    keys = KeySet(KeyServer("https://login.example.com/jwks").fetch)
    async with keys.open():
        found = await keys.find(lambda known: next(iter(matching(known, "RS256", "k1")), None))

During an outage of the key server the last keys stay valid, so that no user is logged out.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
import trio

from netra_trio.auth.jwk import Key, KeysUnavailable, parse_keys
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, Refused, problem

REFRESH_SECONDS = 300.0  # between successful fetches: bounds the use of a revoked key
GAP_SECONDS = 2.0  # minimum between the starts of two fetches
BACK_OFF_SECONDS = (1.0, 30.0)  # shortest and longest pause after a failed fetch
WAITING = 64  # tokens that wait for a fetch at the same time; above it SERVICE_UNAVAILABLE

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class KeySet:
    """The latest keys of a key server.

    One task makes the fetches, one at a time, and starts them at least `GAP_SECONDS` apart. This
    bounds the requests that a flood of tokens with unknown keys can cause.

    Args:
        fetch: Returns the body of a key set, or raises `KeysUnavailable`; limits its own time.
        jitter: Returns a number from 0 to 1, which spreads the retries of many servers.
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
        self._has_worked: bool | None = None  # result of the last fetch; None before the first one
        self._failures = 0  # consecutive
        self._started = self._ended = 0  # numbers of the last fetch that started, and that ended
        self._waiting = 0
        self._fetched = trio.Event()  # set and replaced when a fetch has ended
        self._wanted = trio.Event()  # set to request a fetch; replaced when one starts

    @property
    def is_available(self) -> bool:
        """Whether the last fetch succeeded."""
        return self._has_worked is True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the keys fresh inside this block; the first fetch starts at once, in the background.

        A key server that is down does not delay the start. When the block ends, waiting calls of
        `find` are refused.
        """
        async with trio.open_nursery() as nursery:
            self._is_open = True
            nursery.start_soon(self._keep_fresh)
            try:
                yield
            finally:
                self._is_open = False
                self._notify()
                nursery.cancel_scope.cancel()

    async def find(self, look: Callable[[tuple[Key, ...]], _T | None]) -> _T | None:
        """Return what `look` finds in the current keys, or else in those of a later fetch.

        `look` is called with the current keys, and again after each fetch, until a fetch has ended
        that started after this call. None therefore means that the key server does not have the
        key now. Exceptions of `look` are propagated. Takes 6 s at most, the time of two fetches.
        Cancelling is safe and does not cancel a fetch.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if that fetch failed, too many calls wait already, or this
                key set is not open.
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
            await self._fetched.wait()
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
            self._notify()
            with trio.move_on_after(self._pause()):
                await self._wanted.wait()
            await trio.sleep_until(gap)

    async def _fetch_once(self) -> None:
        """Replace the keys if a fetch succeeds; raises nothing but cancellation."""
        unexpected: Exception | None = None
        try:
            self._keys = parse_keys(await self._fetch())
        except KeysUnavailable as error:
            reason = str(error)
        except Exception as error:
            reason, unexpected = f"asking it failed ({type(error).__name__})", error
        else:
            if not self._has_worked:
                _log.info("keys_available", keys=len(self._keys))
            self._has_worked, self._failures = True, 0
            return
        if self._has_worked is not False:
            _log.warning("keys_unavailable", reason=reason, exc_info=unexpected)
        self._has_worked = False
        self._failures += 1

    def _pause(self) -> float:
        """Return the pause after a fetch in seconds; a request for a fetch ends it early."""
        if self._has_worked:
            return REFRESH_SECONDS
        least, most = BACK_OFF_SECONDS
        # The exponent is bounded: after a day of failures the power would exceed a float.
        ceiling = min(most, least * 2.0 ** min(self._failures, 10))
        return least + (ceiling - least) * self._jitter()

    def _notify(self) -> None:
        self._fetched.set()
        self._fetched = trio.Event()


def _unavailable() -> Problem:
    return problem(
        ErrorCode.SERVICE_UNAVAILABLE,
        "The key of the token is not known, and the key server is not available now.",
        retry_after_ms=round(GAP_SECONDS * 1000),
    )
