"""Helpers for the tests of key sets: signers, names of keys, and a check of an error."""

from collections.abc import Callable

import pytest

from netra_trio.auth.jwk import Key, parse_keys
from netra_trio.auth.key_set import KeySet
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused
from support.keyserver import SIGNERS, Signer

RSA, EC, ED = (SIGNERS[name] for name in ("RS256", "ES256", "EdDSA"))
NEW = Signer("ES256", "new", EC.private)
MARK = "mallory-was-here"


def kids(body: bytes) -> list[str | None]:
    """Return the names of the usable keys of a key set."""
    return [key.kid for key in parse_keys(body)]


def named(kid: str) -> Callable[[tuple[Key, ...]], Key | None]:
    """Return a function that finds a key by its name."""

    def look(keys: tuple[Key, ...]) -> Key | None:
        return next((key for key in keys if key.kid == kid), None)

    return look


async def unavailable(keys: KeySet, kid: str = "unknown") -> None:
    """Check that a token with this key is refused with SERVICE_UNAVAILABLE."""
    with pytest.raises(Refused) as caught:
        await keys.find(named(kid))
    fault = caught.value.problem
    assert (fault.code, fault.status) == (ErrorCode.SERVICE_UNAVAILABLE, 503)
    assert fault.recoverable
    assert fault.retry_after_ms == 2000
    assert kid not in fault.error
