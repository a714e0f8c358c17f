"""Acceptance tests of origins and the connection limit, over real sockets."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio_websocket
from support.server import Server, bearer, open_client, serving, sign

APP = "https://app.example.com"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("production"),
        ENVIRONMENT="production",
        DATABASE_URL="sqlite:///netra.db",
        WEBSOCKET_ALLOWED_ORIGINS=f"{APP},https://*.example.org",
        AUTH_AUTO_PROVISION="true",
    ) as running:
        yield running


@pytest.mark.parametrize("origin", [APP, "https://eu.example.org", "https://a.eu.example.org"])
async def test_cors_origin_validation(production: Server, origin: str) -> None:
    async with production.connect(headers=[("Origin", origin)]) as client:
        await client.answers()
    answer = production.http("GET", "/ws/config", [("Origin", origin)])
    assert answer.headers["access-control-allow-origin"] == origin
    preflight = production.http("OPTIONS", "/ws/ticket", [("Origin", origin)])
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://evil-example.org",
        "https://example.org",
        "https://app.example.com@evil.example",
        "http://localhost:3000",
        "null",
    ],
)
async def test_malicious_origin_rejection(production: Server, origin: str) -> None:
    headers = [bearer(), ("Origin", origin)]
    with pytest.RaisesGroup(trio_websocket.ConnectionRejected, flatten_subgroups=True):
        async with open_client(production.url, headers=headers):
            pytest.fail("it was accepted")
    production.upgrade("", *headers).refuses(403, "ORIGIN_NOT_ALLOWED")
    answer = production.http("GET", "/ws/config", [("Origin", origin)])
    assert "access-control-allow-origin" not in answer.headers
    assert production.http("POST", "/ws/ticket", headers).status_code == 403
    # The log has a line for the first refusal of each origin, and may leave out later ones.
    production.process.wait_log("opening_refused", code="ORIGIN_NOT_ALLOWED", origin=origin)


@pytest.mark.parametrize("policy", ["evict_oldest", "reject"])
async def test_connection_limit_enforcement(tmp_path: Path, policy: str) -> None:
    with serving(
        tmp_path,
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="3",
        WEBSOCKET_CONNECTION_LIMIT_POLICY=policy,
    ) as server:
        async with AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(server.connect("alice")) for _ in range(3)
            ]
            if policy == "reject":
                answer = await trio.to_thread.run_sync(server.upgrade, "", bearer("alice"))
                answer.refuses(429, "CONNECTION_LIMIT_EXCEEDED")
                assert int(answer.headers["retry-after"]) >= 1
                await first.answers()
                await first.socket.aclose()
                await trio.to_thread.run_sync(server.process.wait_log, "connection_ended")
                fourth = await stack.enter_async_context(server.connect("alice"))
            else:
                fourth = await stack.enter_async_context(server.connect("alice"))
                frames, code = await first.rest()
                error = frames[-1]["payload"]
                assert error["code"] == "CONNECTION_LIMIT_EXCEEDED"
                assert error["recoverable"] is False
                assert code == 4429
            for client in (second, third, fourth):
                await client.answers()
            # Other users are not affected.
            async with server.connect("bob") as other:
                await other.answers()
        # Connections that have ended do not count for the limit.
        for number in range(5):
            async with server.connect("alice", token=sign("alice", n=number)) as client:
                await client.answers()
