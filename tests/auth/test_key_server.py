"""Fetching keys from a real server, over loopback."""

import ssl
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from support.keyserver import LIES, LoopbackKeyServer, http_answer, key_server, key_set
from support.keysets import EC, NEW, RSA, kids, named, unavailable
from support.server import PATIENCE

from netra_trio.auth.jwk import KeysUnavailable, parse_keys
from netra_trio.auth.key_server import ANSWER_BYTES, KeyServer
from netra_trio.auth.key_set import GAP_SECONDS, KeySet
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused


async def why(server: LoopbackKeyServer, **options: Any) -> str:
    with pytest.raises(KeysUnavailable) as caught:
        await KeyServer(server.url, **options).fetch()
    text = str(caught.value)
    assert "://" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


async def test_a_valid_answer_is_returned() -> None:
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
async def test_an_invalid_answer_is_refused(name: str) -> None:
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


async def test_a_stopped_and_restarted_server() -> None:
    with key_server(RSA) as server:
        server.stop()
        assert (await why(server)).startswith("it cannot be reached (")
        server.start()
        assert kids(await KeyServer(server.url).fetch()) == ["RS256-1"]


async def test_a_server_that_answers_too_slowly() -> None:
    with key_server(RSA) as server:
        began = trio.current_time()
        server.is_mute = True
        assert await why(server, seconds=0.3) == "it did not answer within 0.3 s"
        server.is_mute, server.pause = False, 0.05  # there is progress all the time
        assert await why(server, seconds=0.3) == "it did not answer within 0.3 s"
        assert trio.current_time() - began >= 0.6
        with trio.fail_after(PATIENCE):
            while server.requests < 2:  # noqa: ASYNC110 - counted by another thread
                await trio.sleep(0.01)
        assert server.requests == 2


async def test_a_fetch_can_be_cancelled() -> None:
    with key_server(RSA) as server:
        server.is_mute = True
        with trio.move_on_after(0.2) as scope:
            await KeyServer(server.url).fetch()
        assert scope.cancelled_caught


async def test_an_untrusted_certificate_is_refused() -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with key_server(RSA, tls=tls) as server:
        assert "certificate verify failed" in await why(server)
        assert server.requests == 0
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        assert kids(await KeyServer(server.url, tls=trusting).fetch()) == ["RS256-1"]


async def test_rotation_outage_and_flood_over_a_real_network() -> None:
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
            # The first fetch is allowed at once, because the last one is two seconds old.
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
