"""The HTTP endpoints from outside: discovery, tickets, health, tokens, CORS, limits."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import jwt
import pytest
import trio
from support.server import (
    SECRET,
    SUBPROTOCOL,
    Answer,
    Server,
    ask,
    bearer,
    check_error,
    open_client,
    serving,
    sign,
    write_agents,
)

DEPLOYED = {
    "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
    "DATABASE_URL": "sqlite:///netra.db",
}
LOCAL = ("Origin", "http://localhost:3000")
FOREIGN = ("Origin", "https://evil.example")
CORS = {
    "access-control-allow-origin": "http://localhost:3000",
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-allow-headers": (
        "authorization, content-type, content-disposition, last-event-id"
    ),
    "access-control-expose-headers": "retry-after",
    "access-control-max-age": "600",
}
PATHS = {
    "/ws/config": ("GET", "HEAD", "OPTIONS"),
    "/ws/ticket": ("POST", "OPTIONS"),
    "/ws/health": ("GET", "HEAD", "OPTIONS"),
    "/ws/dev-token": ("POST", "OPTIONS"),
}
WAITING_AGENT = """
from pathlib import Path

import trio

async def wait(run):
    await run.emit("waiting")
    while not Path("go").exists():
        await trio.sleep(0.01)
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("dev")) as server:
        yield server


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("production"), ENVIRONMENT="production", **DEPLOYED
    ) as server:
        yield server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with limits of its own and without CORS headers."""
    with serving(
        tmp_path_factory.mktemp("other"),
        WEBSOCKET_ENABLE_CORS="false",
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="7",
        WEBSOCKET_MAX_MESSAGE_RATE="600",
        WEBSOCKET_HEARTBEAT_INTERVAL="12000",
        WEBSOCKET_MAX_MESSAGE_SIZE="4096",
        JWT_ISSUER="https://issuer.example",
        JWT_AUDIENCE="netra",
    ) as server:
        yield server


def raw(
    server: Server, method: str, path: str, *headers: tuple[str, str], body: str = ""
) -> Answer:
    """Send a request in bytes, exactly as given; the Host header is not added."""
    lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ask(server.address, ("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def refused(answer: httpx2.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    check_error(answer.json(), code)


# --- /ws/config


def test_the_discovery_document(dev: Server) -> None:
    answer = dev.http("GET", "/ws/config")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert abs(document["websocket_config"].pop("server_time") - time.time()) < 60
    assert document == {
        "websocket_config": {
            "version": "1.0",
            "features": {
                "json_first": True,
                "auth_required": True,
                "heartbeat_supported": True,
                "reconnection_supported": True,
                "rate_limiting": True,
                "message_queuing": True,
                "resume": True,
                "tickets": True,
            },
            "endpoints": {
                "websocket": "/ws",
                "service_discovery": "/ws/config",
                "ticket": "/ws/ticket",
                "health": "/ws/health",
                "files": "/ws/files",
            },
            "connection_limits": {
                "max_connections_per_user": 5,
                "max_message_rate": 60,
                "heartbeat_interval": 30000,
                "max_message_size": 10240,
                "resume_window": 120_000,
                "max_file_size": 26_214_400,
            },
            "auth": {"methods": ["header", "subprotocol", "ticket", "query"]},
        }
    }


async def test_discovery_and_hello_follow_the_settings(other: Server) -> None:
    config = other.http("GET", "/ws/config").json()["websocket_config"]
    assert config["connection_limits"] == {
        "max_connections_per_user": 7,
        "max_message_rate": 600,
        "heartbeat_interval": 12000,
        "max_message_size": 4096,
        "resume_window": 120_000,
        "max_file_size": 26_214_400,
    }
    token = sign(iss="https://issuer.example", aud="netra")
    async with other.connect(token=token) as client:
        payload = client.hello["payload"]
        assert payload["limits"] == config["connection_limits"]
        assert payload["features"] == config["features"]
        assert payload["heartbeat_interval"] == 12000


def test_discovery_has_no_user_data(dev: Server) -> None:
    with_token = dev.http("GET", "/ws/config", [bearer("somebody-special")]).json()
    assert "somebody-special" not in str(with_token)
    assert with_token.keys() == {"websocket_config"}


# --- methods and paths


@pytest.mark.parametrize("path", PATHS)
def test_methods_of_a_path(dev: Server, path: str) -> None:
    allowed = PATHS[path]
    options = dev.http("OPTIONS", path)
    assert (options.status_code, options.content) == (204, b"")
    assert set(options.headers["allow"].split(", ")) == set(allowed)
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = dev.http(method, path)
        if method in allowed:
            assert answer.status_code not in {404, 405}
            continue
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == set(allowed)
        if method != "HEAD":
            check_error(answer.json(), "BAD_REQUEST")


@pytest.mark.parametrize("path", ["/ws/config", "/ws/health"])
def test_head_is_get_without_a_body(dev: Server, path: str) -> None:
    get, head = dev.http("GET", path), dev.http("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "cache-control", "x-content-type-options"):
        assert head.headers[name] == get.headers[name]
    # The connection can still be used: the next answer over it is whole.
    with httpx2.Client(trust_env=False) as client:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            assert client.request(method, f"http://{dev.address}{path}").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/ws/configs", "/ws/config/", "/wsx", "/%00", "/\\"])
def test_other_paths_are_404(dev: Server, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = raw(dev, method, path, ("Host", dev.address))
        error = answer.refuses(404, "BAD_REQUEST")
        assert "/ws/config" in error["help"]


@pytest.mark.parametrize("path", ["/ws", "/ws/"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_websocket_path_without_an_upgrade_is_426(dev: Server, path: str, method: str) -> None:
    answer = dev.http(method, path, [bearer()])
    refused(answer, 426, "BAD_REQUEST")
    assert answer.headers["upgrade"] == "websocket"


# --- /ws/ticket


async def test_a_ticket_works_once(dev: Server) -> None:
    answer = dev.http("POST", "/ws/ticket", [bearer("alice")])
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body.keys() == {"ticket", "expires_in"}
    assert body["expires_in"] == 30
    opened = dev.upgrade(f"?ticket={body['ticket']}", ("Sec-WebSocket-Protocol", SUBPROTOCOL))
    assert (opened.status, opened.headers["sec-websocket-protocol"]) == (101, SUBPROTOCOL)
    dev.upgrade(f"?ticket={body['ticket']}").refuses(401, "INVALID_TOKEN")


def test_tickets_differ(dev: Server) -> None:
    assert len({dev.ticket() for _ in range(10)}) == 10


def test_a_ticket_needs_a_token_in_its_header(dev: Server) -> None:
    refused(dev.http("POST", "/ws/ticket"), 401, "AUTH_REQUIRED")
    refused(dev.http("POST", f"/ws/ticket?token={sign()}"), 401, "AUTH_REQUIRED")
    refused(
        dev.http("POST", "/ws/ticket", [("Authorization", "Bearer wrong")]), 401, "INVALID_TOKEN"
    )
    refused(dev.http("POST", "/ws/ticket", [bearer(seconds=-60)]), 401, "TOKEN_EXPIRED")
    refused(dev.http("POST", "/ws/ticket", [bearer(), bearer()]), 401, "INVALID_TOKEN")
    both = f"/ws/ticket?token={sign()}"
    refused(dev.http("POST", both, [bearer()]), 401, "INVALID_TOKEN")


def test_a_ticket_request_is_rejected_by_the_earlier_check(dev: Server, production: Server) -> None:
    wrong = ("Authorization", "Bearer wrong")
    refused(dev.http("POST", "/ws/ticket", [FOREIGN, wrong]), 403, "ORIGIN_NOT_ALLOWED")
    refused(production.http("POST", "/ws/ticket", [wrong]), 401, "INVALID_TOKEN")
    refused(production.http("POST", "/ws/ticket", [bearer()]), 403, "USER_NOT_FOUND")


def test_a_page_can_read_why_a_ticket_is_rejected(dev: Server) -> None:
    answer = dev.http("POST", "/ws/ticket", [LOCAL])
    refused(answer, 401, "AUTH_REQUIRED")
    assert answer.headers["access-control-allow-origin"] == LOCAL[1]


async def test_a_connection_ends_when_the_tickets_token_does(dev: Server) -> None:
    # All but one or two of the 10 s of leeway have passed when it opens.
    ticket = dev.ticket("brief", seconds=-8)
    async with open_client(f"{dev.url}?ticket={ticket}") as client:
        frames, code = await client.rest()
    assert frames[0]["type"] == "connection_established"
    assert frames[-1]["payload"]["code"] == "TOKEN_EXPIRED"
    assert code == 4401


# --- /ws/health


def test_a_healthy_server(dev: Server, production: Server) -> None:
    for server in (dev, production):
        answer = server.http("GET", "/ws/health")
        assert answer.status_code == 200
        assert answer.json() == {"status": "healthy", "checks": {"store": "ok", "files": "ok"}}


async def test_a_draining_server_is_503(tmp_path: Path) -> None:
    write_agents(tmp_path, WAITING_AGENT)
    with serving(
        tmp_path, "--agent", "outside_agents:wait", WEBSOCKET_DRAIN_TIMEOUT="600000"
    ) as server:
        async with server.connect() as client:
            await client.say("wait")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            answer = server.http("GET", "/ws/health")
            assert (answer.status_code, answer.json()["status"]) == (503, "draining")
            assert answer.json()["checks"] == {"store": "ok", "files": "ok"}
            assert server.http("HEAD", "/ws/health").status_code == 503
            assert server.http("GET", "/ws/config").status_code == 200
            (tmp_path / "go").touch()
            await client.rest()
        assert await trio.to_thread.run_sync(server.process.wait) == 0


# --- /ws/dev-token

ALICE = '{"user": "alice"}'


async def test_a_developer_gets_a_token(dev: Server) -> None:
    answer = dev.http("POST", "/ws/dev-token", json={"user": "alice"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body.keys() == {"token"}
    claims = jwt.decode(body["token"], SECRET, algorithms=["HS256"])
    assert claims["sub"] == "alice"
    assert "permissions" not in claims
    async with dev.connect(token=body["token"]) as client:
        assert client.hello["payload"]["user_id"] == "alice"


async def test_the_token_has_the_configured_issuer_and_audience(other: Server) -> None:
    token = other.http("POST", "/ws/dev-token", json={"user": "bob"}).json()["token"]
    async with other.connect(token=token) as client:
        assert client.hello["payload"]["user_id"] == "bob"
    other.upgrade("", bearer("bob")).refuses(401, "INVALID_TOKEN")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:{port}", "127.0.0.1:1", "[::1]:{port}", "LOCALHOST:80"]
)
def test_a_loopback_host_gets_a_development_token(dev: Server, host: str) -> None:
    named = ("Host", host.format(port=dev.port))
    for origin in ([], [LOCAL]):
        answer = raw(dev, "POST", "/ws/dev-token", named, *origin, body=ALICE)
        assert (answer.status, answer.body.keys()) == (200, {"token"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "localhost:",
        "localhost:x",
        "x@localhost",
        "",
    ],
)
def test_another_host_gets_no_development_token(dev: Server, host: str) -> None:
    named = ("Host", host.format(port=dev.port))
    raw(dev, "POST", "/ws/dev-token", named, body=ALICE).refuses(404, "BAD_REQUEST")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://localhost", ""])
def test_a_foreign_page_gets_no_development_token(dev: Server, origin: str) -> None:
    headers = [("Host", dev.address), ("Origin", origin)]
    raw(dev, "POST", "/ws/dev-token", *headers, body=ALICE).refuses(404, "BAD_REQUEST")
    raw(dev, "OPTIONS", "/ws/dev-token", *headers).refuses(404, "BAD_REQUEST")
    twice = [("Host", dev.address), LOCAL, LOCAL]
    raw(dev, "POST", "/ws/dev-token", *twice, body=ALICE).refuses(404, "BAD_REQUEST")


def test_outside_development_the_path_does_not_exist(production: Server) -> None:
    for headers in ([], [("Origin", "https://app.example.com")]):
        answer = production.http("POST", "/ws/dev-token", headers, json={"user": "alice"})
        refused(answer, 404, "BAD_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"user": ""}',
        '{"user": 5}',
        '{"user": null}',
        '{"user": "a\\nb"}',
        '{"user": "' + "x" * 300 + '"}',
        "\ufeff{}",
        "[" * 9000,
    ],
    ids=lambda body: body[:16],
)
def test_a_wrong_body_is_rejected(dev: Server, body: str) -> None:
    answer = dev.http("POST", "/ws/dev-token", content=body.encode())
    refused(answer, 400, "BAD_REQUEST")


def test_an_oversized_body_is_rejected(dev: Server) -> None:
    body = '{"user": "' + "x" * 20_000 + '"}'
    refused(dev.http("POST", "/ws/dev-token", content=body.encode()), 413, "BAD_REQUEST")

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    refused(dev.http("POST", "/ws/dev-token", content=endless()), 413, "BAD_REQUEST")
    assert dev.http("GET", "/ws/health").status_code == 200


# --- CORS


@pytest.mark.parametrize("path", PATHS)
def test_an_allowed_page_gets_cors_headers(dev: Server, path: str) -> None:
    for method in PATHS[path]:
        answer = dev.http(method, path, [LOCAL, bearer()])
        assert {name: answer.headers.get(name) for name in CORS} == CORS
        assert "origin" in answer.headers["vary"].lower()
        assert "access-control-allow-credentials" not in answer.headers


def test_a_browsers_preflight(dev: Server) -> None:
    wanted = [
        LOCAL,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ]
    answer = dev.http("OPTIONS", "/ws/ticket", wanted)
    assert answer.status_code == 204
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_page_gets_no_cors_headers(dev: Server, path: str) -> None:
    for method in PATHS[path]:
        answer = dev.http(method, path, [FOREIGN, bearer()])
        if method in {"GET", "HEAD"}:
            assert answer.status_code == 200
        elif path != "/ws/dev-token":
            refused(answer, 403, "ORIGIN_NOT_ALLOWED")
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cors_can_be_turned_off(other: Server) -> None:
    for method, path in (("GET", "/ws/config"), ("OPTIONS", "/ws/ticket"), ("HEAD", "/ws/health")):
        answer = other.http(method, path, [LOCAL])
        assert answer.status_code in {200, 204}
        assert not [name for name in answer.headers if name.startswith("access-control")]
    refused(other.http("POST", "/ws/ticket", [FOREIGN]), 403, "ORIGIN_NOT_ALLOWED")
    other.upgrade("", FOREIGN).refuses(403, "ORIGIN_NOT_ALLOWED")
    token = sign(iss="https://issuer.example", aud="netra")
    assert other.upgrade("", LOCAL, ("Authorization", f"Bearer {token}")).status == 101


def test_errors_have_cors_headers_for_an_allowed_page(dev: Server) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("PUT", "/ws/config", 405),
        ("GET", "/ws", 426),
    ):
        answer = dev.http(method, path, [LOCAL])
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == LOCAL[1]
