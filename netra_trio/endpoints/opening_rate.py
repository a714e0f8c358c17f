"""The rate of openings: those of one user, and the rejected ones of one address.

rate = OpeningRate(settings.opening_rate, settings.opening_burst)
rate.take(identity.user_id, now)
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Generic, TypeVar

from netra_trio.ids import UserId
from netra_trio.protocol.problem import Refused, rate_limited
from netra_trio.protocol.ratelimit import TokenBucket

IPV6_PREFIX = 64  # bits of an IPv6 address that one customer of a provider shares

_Key = TypeVar("_Key")


class _Buckets(Generic[_Key]):
    """A token bucket for each key; those that are full again are forgotten."""

    def __init__(self, rate: int, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._full_after = burst / rate  # seconds
        self._buckets: OrderedDict[_Key, tuple[TokenBucket, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: _Key, now: float) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        self._forget(now)
        bucket, _ = self._buckets.pop(key, (None, now))
        if bucket is None:
            bucket = TokenBucket(rate=self._rate, burst=self._burst, now=now)
        self._buckets[key] = bucket, now
        return bucket.take(now)

    def _forget(self, now: float) -> None:
        while self._buckets:
            _, used_at = next(iter(self._buckets.values()))
            if used_at + self._full_after > now:
                return
            self._buckets.popitem(last=False)


class OpeningRate:
    """Limits how often a connection is opened.

    Of an address only rejected openings count, so that the users behind one address do not limit
    each other. Addresses that are not public are those of proxies and of the own network: they are
    not limited.

    Args:
        rate: Openings in a second, after the burst.
        burst: Openings at once.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._rate = rate
        self._users: _Buckets[UserId] = _Buckets(rate, burst)
        self._rejected: _Buckets[str] = _Buckets(rate, burst)
        self._blocked: dict[str, float] = {}  # networks, and until when

    def take(self, user_id: UserId, now: float) -> None:
        """Count an opening of a user; `now` is seconds of any clock.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        self.check(self._users.take(user_id, now))

    def check(self, wait: float) -> None:
        """Check that an opening need not wait.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        if wait:
            text = f"Too many openings: a user may open {self._rate} connections a second."
            raise Refused(rate_limited(text, wait))

    def check_address(self, address: str, now: float) -> None:
        """Check that an address has not had too many openings rejected.

        Raises:
            Refused: RATE_LIMIT_EXCEEDED.
        """
        if not self._blocked:
            return
        until = self._blocked.get(_public_network(address) or "", now)
        if until > now:
            text = "Too many rejected openings of this address."
            raise Refused(rate_limited(text, until - now))

    def note_rejected(self, address: str, now: float) -> None:
        """Count a rejected opening of an address."""
        for blocked in [other for other, until in self._blocked.items() if until <= now]:
            del self._blocked[blocked]
        network = _public_network(address)
        if network is not None and (wait := self._rejected.take(network, now)):
            self._blocked[network] = now + wait


def _public_network(address: str) -> str | None:
    """Return a public address, in IPv6 its network: a host has as many addresses as it likes."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if not parsed.is_global:
        return None
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, IPV6_PREFIX), strict=False))
    return address
