"""The opening handshake from outside: every check, its answer, and their order."""

import base64
import signal
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from support.server import (
    SUBPROTOCOL,
    Answer,
    Server,
    ask,
    bearer,
    open_client,
    open_line,
    read_answer,
    serving,
    sign,
    upgrade_request,
    write_agents,
)

CONFIGURED = "https://app.example.com,https://*.example.org,https://odd.example.net:8443"
DEPLOYED = {"WEBSOCKET_ALLOWED_ORIGINS": CONFIGURED, "DATABASE_URL": "sqlite:///netra.db"}
HEAD_BYTES = 16 * 1024
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
    with serving(
        tmp_path_factory.mktemp("dev"), WEBSOCKET_MAX_CONNECTIONS_PER_USER="1000"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("staging"),
        **DEPLOYED,
        ENVIRONMENT="staging",
        AUTH_AUTO_PROVISION="true",
        WEBSOCKET_QUERY_TOKEN="false",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("production"),
        **DEPLOYED,
        ENVIRONMENT="production",
        AUTH_AUTO_PROVISION="true",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server without users or provisioning that requires an Origin."""
    with serving(
        tmp_path_factory.mktemp("closed"),
        AUTH_AUTO_PROVISION="false",
        WEBSOCKET_REQUIRE_ORIGIN="true",
    ) as server:
        yield server


def offer(*names: str) -> tuple[str, str]:
    return ("Sec-WebSocket-Protocol", ", ".join(names))


def in_subprotocol(token: str) -> str:
    return "jwt." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def origin(value: str) -> tuple[str, str]:
    return ("Origin", value)


# --- credentials

KINDS = ("header", "subprotocol", "ticket", "query")


def with_credentials(server: Server, kinds: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """Return the query and the headers with credentials of these kinds."""
    query: list[str] = []
    headers: list[tuple[str, str]] = []
    for kind in kinds:
        if kind == "header":
            headers.append(bearer())
        elif kind == "subprotocol":
            headers.append(offer(SUBPROTOCOL, in_subprotocol(sign())))
        elif kind == "ticket":
            query.append(f"ticket={server.ticket()}")
        else:
            query.append(f"token={sign()}")
    return ("?" + "&".join(query) if query else ""), headers


@pytest.mark.parametrize("path", ["/ws", "/ws/"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_credential_is_accepted(dev: Server, kind: str, path: str) -> None:
    query, headers = with_credentials(dev, (kind,))
    answer = dev.upgrade(query, *headers, path=path)
    assert answer.status == 101
    assert answer.headers.get("sec-websocket-protocol") == (
        SUBPROTOCOL if kind == "subprotocol" else None
    )
    assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize(
    "kinds", [*combinations(KINDS, 2), *((kind, kind) for kind in KINDS), KINDS], ids="+".join
)
def test_more_than_one_credential_is_rejected(dev: Server, kinds: tuple[str, ...]) -> None:
    query, headers = with_credentials(dev, kinds)
    error = dev.upgrade(query, *headers).refuses(401, "INVALID_TOKEN")
    assert "more than one" in error["error"]


def test_no_credential_is_rejected(dev: Server) -> None:
    answer = dev.upgrade()
    error = answer.refuses(401, "AUTH_REQUIRED")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not error["recoverable"]
    dev.upgrade("", ("Authorization", "Basic YWxpY2U6c2VjcmV0")).refuses(401, "AUTH_REQUIRED")


def test_the_bearer_scheme_is_case_insensitive(dev: Server) -> None:
    assert dev.upgrade("", ("Authorization", f"bEARER {sign()}")).status == 101


BAD_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "another key": ({"secret": "x" * 48}, "INVALID_TOKEN"),
    "expired": ({"seconds": -60}, "TOKEN_EXPIRED"),
    "no exp": ({"exp": None}, "INVALID_TOKEN"),
    "no sub": ({"sub": None}, "INVALID_TOKEN"),
    "exp is text": ({"exp": "2999-01-01"}, "INVALID_TOKEN"),
    "sub is a number": ({"sub": 7}, "INVALID_TOKEN"),
    "sub is empty": ({"sub": ""}, "INVALID_TOKEN"),
    "not yet": ({"nbf": int(time.time()) + 3600}, "INVALID_TOKEN"),
}


@pytest.mark.parametrize(
    "claims",
    [{"scope": ["api1"]}, {"scope": None}, {"permissions": None}, {"permissions": "netra:admin"}],
    ids=repr,
)
def test_an_optional_claim_of_another_shape_grants_nothing(
    dev: Server, claims: dict[str, Any]
) -> None:
    header = ("Authorization", f"Bearer {sign(**claims)}")
    assert dev.upgrade("", header).status == 101
    assert dev.http("GET", "/ws/stats", [header]).status_code == 403


@pytest.mark.parametrize("kind", ["header", "subprotocol", "query"])
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_rejected_and_not_quoted(dev: Server, name: str, kind: str) -> None:
    claims, code = BAD_TOKENS[name]
    token = sign(**claims)
    answer = {
        "header": lambda: dev.upgrade("", ("Authorization", f"Bearer {token}")),
        "subprotocol": lambda: dev.upgrade("", offer(SUBPROTOCOL, in_subprotocol(token))),
        "query": lambda: dev.upgrade(f"?token={token}"),
    }[kind]()
    error = answer.refuses(401, code)
    assert "retry_after_ms" not in error
    assert token.rpartition(".")[2] not in str(answer)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "..",
        "a.b.c",
        "%FF",
        "x" * 9000,
        # The algorithm is "none"; the user and the expiry are valid.
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OTl9.",
    ],
    ids=lambda token: token[:10],
)
def test_an_invalid_token_is_rejected(dev: Server, token: str) -> None:
    dev.upgrade(f"?token={token}").refuses(401, "INVALID_TOKEN")
    dev.upgrade("", ("Authorization", f"Bearer {token}")).refuses(401, "INVALID_TOKEN")


@pytest.mark.parametrize("value", ["jwt.", "jwt.!!", "jwt.a", "jwt.YQ==", "jwt._w"])
def test_an_invalid_token_subprotocol_is_rejected(dev: Server, value: str) -> None:
    dev.upgrade("", offer(SUBPROTOCOL, value)).refuses(401, "INVALID_TOKEN")


def test_a_token_is_accepted_within_the_leeway(dev: Server) -> None:
    assert dev.upgrade("", bearer(seconds=-5)).status == 101


def test_a_ticket_is_accepted_once(dev: Server) -> None:
    ticket = dev.ticket()
    assert dev.upgrade(f"?ticket={ticket}").status == 101
    error = dev.upgrade(f"?ticket={ticket}").refuses(401, "INVALID_TOKEN")
    assert ticket not in str(error)
    dev.upgrade("?ticket=never-was").refuses(401, "INVALID_TOKEN")
    dev.upgrade("?ticket=").refuses(401, "INVALID_TOKEN")


def test_the_query_token_can_be_turned_off(staging: Server) -> None:
    error = staging.upgrade(f"?token={sign()}").refuses(401, "AUTH_REQUIRED")
    assert "query" in error["error"]
    methods = staging.http("GET", "/ws/config").json()["websocket_config"]["auth"]["methods"]
    assert methods == ["header", "subprotocol", "ticket"]
    assert staging.upgrade(f"?ticket={staging.ticket()}").status == 101


# --- subprotocols


@pytest.mark.parametrize("offered", [(SUBPROTOCOL,), ("other", SUBPROTOCOL), (SUBPROTOCOL, "x")])
def test_the_known_subprotocol_is_selected(dev: Server, offered: tuple[str, ...]) -> None:
    answer = dev.upgrade("", bearer(), offer(*offered))
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, SUBPROTOCOL)


@pytest.mark.parametrize(
    "offered", [("netra.v2",), ("netra.v2", SUBPROTOCOL), (SUBPROTOCOL, "other", "netra.v2")]
)
def test_the_second_version_is_preferred(dev: Server, offered: tuple[str, ...]) -> None:
    answer = dev.upgrade("", bearer(), offer(*offered))
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "netra.v2")


def test_the_subprotocol_may_have_a_header_of_its_own(dev: Server) -> None:
    answer = dev.upgrade("", bearer(), offer("other"), offer(SUBPROTOCOL))
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, SUBPROTOCOL)


def test_without_an_offer_none_is_selected(dev: Server) -> None:
    answer = dev.upgrade("", bearer())
    assert answer.status == 101
    assert "sec-websocket-protocol" not in answer.headers


@pytest.mark.parametrize("offered", [("other",), ("netra.v3",), ("NETRA.V1",)])
def test_only_unknown_subprotocols_are_rejected(dev: Server, offered: tuple[str, ...]) -> None:
    error = dev.upgrade("", bearer(), offer(*offered)).refuses(400, "UNSUPPORTED_SUBPROTOCOL")
    for text in (error["error"], error["help"]):
        assert SUBPROTOCOL in text
        assert "netra.v2" in text


def test_a_token_without_the_subprotocol_is_rejected(dev: Server) -> None:
    answer = dev.upgrade("", offer(in_subprotocol(sign())))
    answer.refuses(400, "UNSUPPORTED_SUBPROTOCOL")


# --- malformed requests


@pytest.mark.parametrize(
    "query",
    [
        "?last_seq=3",
        "?session_id=s&last_seq=-1",
        "?session_id=s&last_seq=%2B1",
        "?session_id=s&last_seq=1.5",
        "?session_id=s&last_seq=",
        "?session_id=s&last_seq=%D9%A3",
        "?session_id=s&last_seq=" + "9" * 5000,
        "?session_id=s&session_id=t",
        "?session_id=s&last_seq=1&last_seq=1",
        "?session_id=",
        "?session_id=" + "s" * 5000,
    ],
    ids=lambda query: query[:30],
)
def test_a_malformed_resume_is_rejected(dev: Server, query: str) -> None:
    dev.upgrade(query, bearer()).refuses(400, "BAD_REQUEST")


@pytest.mark.parametrize("query", ["?session_id=gone", "?session_id=gone&last_seq=7"])
async def test_a_resume_of_an_unknown_session_is_a_reset(dev: Server, query: str) -> None:
    async with dev.connect(query=query) as client:
        resume = client.hello["payload"]["resume"]
        assert (resume["verdict"], resume["reason"]) == ("reset", "unknown")
        assert (resume["replayed"], resume["last_seq"], resume["runs"]) == (0, 0, [])
        await client.answers()


@pytest.mark.parametrize("path", ["/", "/ws/other", "/ws//", "/WS", "/wsx", "/ws/config"])
def test_other_paths_have_no_websocket(dev: Server, path: str) -> None:
    dev.upgrade("", bearer(), path=path).refuses(404, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("options", "status"), [({"key": "short"}, 400), ({"key": ""}, 400), ({"version": "12"}, 426)]
)
def test_an_invalid_handshake_is_rejected(
    dev: Server, options: dict[str, str], status: int
) -> None:
    answer = ask(dev.address, upgrade_request(dev.address, "/ws", [bearer()], **options))
    answer.refuses(status, "BAD_REQUEST")
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"


def padded(address: str, size: int) -> bytes:
    """Return an upgrade of exactly this many bytes."""
    headers = [bearer(), ("X-Padding", "")]
    bare = upgrade_request(address, "/ws", headers)
    return bare.replace(b"X-Padding: ", b"X-Padding: " + b"x" * (size - len(bare)))


def test_a_head_at_the_limit_is_accepted(dev: Server) -> None:
    request = padded(dev.address, HEAD_BYTES)
    assert len(request) == HEAD_BYTES
    assert ask(dev.address, request).status == 101


def test_a_head_beyond_the_limit_is_rejected(dev: Server) -> None:
    with open_line(dev.address) as sock:
        sock.sendall(padded(dev.address, HEAD_BYTES + 2))  # Hypercorn accepts one byte more
        try:
            status = read_answer(sock).status
        except ConnectionError:
            status = 431  # closed without an answer, which is allowed
    assert status == 431
    assert dev.upgrade("", bearer()).status == 101


# --- origins

GOOD_ANYWHERE = ("https://app.example.com", "https://a.example.org", "https://a.b.example.org")
LOCAL = ("http://localhost", "http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:8080")
NEVER = (
    "null",
    "",
    "https://evil.example",
    "https://example.org",
    "http://app.example.com",
    "https://app.example.com:444",
    "https://app.example.com.evil.example",
    "https://evil-example.org",
    "https://evil.example@app.example.com",
    "https://app.example.com/",
    "https://app.example.com/path",
    "https://app.example.com?x",
    "https://app.example.com#x",
    "https://app.example.com\x7f",
    "https://\xe4pp.example.com",
    "https://app.example.com, https://app.example.com",
    "https://" + "a" * 250 + ".example.org",
    "https://odd.example.net",
    "http://localhost.evil.example:3000",
    "http://localhost@evil.example",
    "https://localhost:3000",
    "ws://localhost:3000",
    "file://localhost",
    "localhost:3000",
)
ORIGINS: list[tuple[str, str, bool]] = [
    *(("dev", value, True) for value in LOCAL),
    *(("dev", value, False) for value in (*NEVER, *GOOD_ANYWHERE)),
    *(("staging", value, True) for value in (*GOOD_ANYWHERE, *LOCAL)),
    *(("staging", value, False) for value in NEVER),
    ("staging", "https://odd.example.net:8443", True),
    ("staging", "https://APP.example.com:443", True),
    *(("production", value, True) for value in GOOD_ANYWHERE),
    *(("production", value, False) for value in (*NEVER, *LOCAL)),
]


@pytest.mark.parametrize(("name", "value", "allowed"), ORIGINS)
def test_an_origin(name: str, value: str, allowed: bool, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    answer = server.upgrade("", bearer(), origin(value))
    discovery = raw_http(server, "GET", "/ws/config", origin(value))
    assert discovery.status == 200
    preflight = raw_http(server, "OPTIONS", "/ws/ticket", origin(value))
    ticket = raw_http(server, "POST", "/ws/ticket", origin(value), bearer())
    if allowed:
        assert answer.status == 101
        assert discovery.headers["access-control-allow-origin"] == value
        assert (preflight.status, ticket.status) == (204, 200)
    else:
        error = answer.refuses(403, "ORIGIN_NOT_ALLOWED")
        assert not error["recoverable"]
        assert not [header for header in discovery.headers if header.startswith("access-control")]
        preflight.refuses(403, "ORIGIN_NOT_ALLOWED")
        ticket.refuses(403, "ORIGIN_NOT_ALLOWED")
        assert "access-control-allow-origin" not in ticket.headers


def raw_http(server: Server, method: str, path: str, *headers: tuple[str, str]) -> Answer:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {server.address}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ask(server.address, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def test_two_origins_are_rejected_even_if_both_are_allowed(staging: Server) -> None:
    twice = [origin("https://app.example.com")] * 2
    staging.upgrade("", bearer(), *twice).refuses(403, "ORIGIN_NOT_ALLOWED")
    answer = raw_http(staging, "GET", "/ws/config", *twice)
    assert "access-control-allow-origin" not in answer.headers
    raw_http(staging, "POST", "/ws/ticket", bearer(), *twice).refuses(403, "ORIGIN_NOT_ALLOWED")


def test_the_servers_own_origin_has_no_privilege(production: Server) -> None:
    own = f"http://{production.address}"
    production.upgrade("", bearer(), origin(own)).refuses(403, "ORIGIN_NOT_ALLOWED")


def test_a_request_without_an_origin_is_accepted(production: Server) -> None:
    assert production.upgrade("", bearer()).status == 101


def test_an_origin_can_be_required(closed: Server) -> None:
    closed.upgrade("", bearer()).refuses(403, "ORIGIN_NOT_ALLOWED")
    raw_http(closed, "POST", "/ws/ticket", bearer()).refuses(403, "ORIGIN_NOT_ALLOWED")
    allowed = origin("http://localhost:3000")
    closed.upgrade("", bearer(), allowed).refuses(403, "USER_NOT_FOUND")


# --- users


def test_an_unknown_user_is_rejected_without_provisioning(closed: Server) -> None:
    allowed = origin("http://localhost:3000")
    error = closed.upgrade("", bearer(), allowed).refuses(403, "USER_NOT_FOUND")
    assert not error["recoverable"]
    raw_http(closed, "POST", "/ws/ticket", bearer(), allowed).refuses(403, "USER_NOT_FOUND")


async def test_credentials_can_be_turned_off_in_development(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_REQUIRE_AUTH="false") as server:
        features = server.http("GET", "/ws/config").json()["websocket_config"]["features"]
        assert features["auth_required"] is False
        users = set()
        for _ in range(2):
            async with open_client(server.url) as client:
                hello = await client.expect("connection_established")
                users.add(hello["payload"]["user_id"])
                await client.say("hello", agent="echo")
                end = (await client.until("agent_completed"))[-1]["payload"]
                assert (end["status"], end["result"]) == ("completed", "hello")
        assert len(users) == 2
        assert all(user.startswith("anonymous-") for user in users)
        async with server.connect("alice") as client:
            assert client.hello["payload"]["user_id"] == "alice"
        server.upgrade("?token=wrong").refuses(401, "INVALID_TOKEN")
        raw_http(server, "POST", "/ws/ticket").refuses(401, "AUTH_REQUIRED")


# --- the order

FAULTS: dict[str, tuple[int, str, str, tuple[tuple[str, str], ...]]] = {
    "subprotocol": (400, "UNSUPPORTED_SUBPROTOCOL", "", (offer("other"),)),
    "resume": (400, "BAD_REQUEST", "last_seq=1", ()),
    "origin": (403, "ORIGIN_NOT_ALLOWED", "", (origin("https://evil.example"),)),
    "credential": (401, "INVALID_TOKEN", "token=wrong", ()),
}
"""Faults in the order of the checks: status, code, query, headers."""


def wrong(server: Server, *names: str) -> Answer:
    """Request an upgrade that has each of these faults."""
    faults = [FAULTS[name] for name in names]
    query = "&".join(query for _, _, query, _ in faults if query)
    headers = [header for *_, headers in faults for header in headers]
    if "credential" not in names:
        headers.append(bearer())
    if "origin" not in names:
        headers.append(origin("http://localhost"))
    return server.upgrade(f"?{query}" if query else "", *headers)


@pytest.mark.parametrize(("earlier", "later"), list(combinations(FAULTS, 2)))
def test_the_earlier_check_decides(dev: Server, earlier: str, later: str) -> None:
    status, code, _, _ = FAULTS[earlier]
    wrong(dev, earlier, later).refuses(status, code)


@pytest.mark.parametrize("name", FAULTS)
def test_every_check_of_the_request_precedes_the_user(closed: Server, name: str) -> None:
    status, code, _, _ = FAULTS[name]
    wrong(closed, name).refuses(status, code)
    wrong(closed).refuses(403, "USER_NOT_FOUND")


async def test_the_connection_limit_comes_last(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="1",
        WEBSOCKET_CONNECTION_LIMIT_POLICY="reject",
    ) as server:
        async with server.connect("alice") as client:
            for name, (status, code, _, _) in FAULTS.items():
                answer = await trio.to_thread.run_sync(wrong, server, name)
                answer.refuses(status, code)
            answer = await trio.to_thread.run_sync(wrong, server)
            error = answer.refuses(429, "CONNECTION_LIMIT_EXCEEDED")
            assert error["recoverable"]
            assert int(answer.headers["retry-after"]) >= 1
            # The limit is the user's own, and a ticket is no connection.
            assert server.upgrade("", bearer("bob")).status == 101
            server.ticket("alice")
            await client.answers()
        await trio.to_thread.run_sync(server.process.wait_log, "connection_ended", 2)
        assert wrong(server).status == 101


async def test_a_full_server_rejects_before_every_other_check(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_MAX_CONNECTIONS="1") as server:
        async with server.connect("alice") as client:
            answers = [
                wrong(server),
                wrong(server, *FAULTS),
                raw_http(server, "POST", "/ws/ticket", bearer()),
                raw_http(server, "POST", "/ws/ticket"),
                raw_http(server, "POST", "/ws/ticket", origin("https://evil.example")),
            ]
            for answer in answers:
                error = answer.refuses(503, "SERVER_FULL")
                assert error["recoverable"]
                assert int(answer.headers["retry-after"]) >= 1
            # A page of an allowed origin can read Retry-After.
            answer = raw_http(server, "POST", "/ws/ticket", origin("http://localhost:3000"))
            answer.refuses(503, "SERVER_FULL")
            assert answer.headers["access-control-expose-headers"] == "retry-after"
            await client.answers()
            assert server.http("GET", "/ws/health").json()["status"] == "healthy"
        await trio.to_thread.run_sync(server.process.wait_log, "connection_ended")
        assert wrong(server).status == 101


async def test_a_draining_server_rejects_before_every_other_check(tmp_path: Path) -> None:
    write_agents(tmp_path, WAITING_AGENT)
    with serving(
        tmp_path, "--agent", "outside_agents:wait", WEBSOCKET_DRAIN_TIMEOUT="600000"
    ) as server:
        async with server.connect("alice") as client:
            await client.say("wait")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            answers = [
                wrong(server),
                wrong(server, *FAULTS),
                raw_http(server, "POST", "/ws/ticket", bearer()),
                raw_http(server, "POST", "/ws/ticket", origin("https://evil.example")),
            ]
            for answer in answers:
                error = answer.refuses(503, "SERVER_DRAINING")
                assert error["recoverable"]
                assert int(answer.headers["retry-after"]) >= 1
            (tmp_path / "go").touch()
            await client.rest()
        assert await trio.to_thread.run_sync(server.process.wait) == 0


# --- frames behind the handshake


def masked(text: str) -> bytes:
    """Return a short text as one frame of a client."""
    data, mask = text.encode(), b"\x01\x02\x03\x04"
    assert len(data) < 126
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    return bytes([0x81, 0x80 | len(data)]) + mask + body


def read_frame(stream: Any) -> Any:
    first, size = stream.read(2)
    assert first == 0x81
    if size == 126:
        size = int.from_bytes(stream.read(2), "big")
    return orjson.loads(stream.read(size))


@pytest.mark.parametrize("_time", range(5))
def test_a_message_right_behind_the_handshake_is_not_lost(dev: Server, _time: int) -> None:
    request = upgrade_request(dev.address, "/ws", [bearer()])
    pings = [f'{{"type":"ping","payload":{{"n":{n}}}}}' for n in range(3)]
    with open_line(dev.address) as sock:
        sock.sendall(request + b"".join(masked(ping) for ping in pings))  # one segment
        assert read_answer_head(sock).startswith(b"HTTP/1.1 101 ")
        with sock.makefile("rb") as stream:
            assert read_frame(stream)["type"] == "connection_established"
            assert [read_frame(stream)["payload"] for _ in pings] == [{"n": n} for n in range(3)]


def read_answer_head(sock: Any) -> bytes:
    """Read byte by byte, so that no byte behind the head is lost."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def test_every_rejection_is_one_log_line_with_its_reason(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_MAX_CONNECTIONS_PER_USER="50") as server:
        expected = []
        for name, (status, code, _, _) in FAULTS.items():
            wrong(server, name)
            expected.append((status, code))
        raw_http(server, "POST", "/ws/ticket")
        expected.append((401, "AUTH_REQUIRED"))
        lines = server.process.wait_log("opening_refused", len(expected))
        assert [(line["status"], line["code"]) for line in lines] == expected
        assert all(line["error"] and line["peer"] == "127.0.0.1" for line in lines)
        assert [line["path"] for line in lines] == ["/ws"] * 4 + ["/ws/ticket"]
        assert [line["origin"] for line in lines if line["code"] == "ORIGIN_NOT_ALLOWED"] == [
            "https://evil.example"
        ]

        # An invalid handshake is logged in the same way.
        broken = upgrade_request(server.address, "/ws", [bearer()], key="short")
        ask(server.address, broken).refuses(400, "BAD_REQUEST")
        last = server.process.wait_log("opening_refused", len(expected) + 1)[-1]
        assert (last["status"], last["code"], last["path"]) == (400, "BAD_REQUEST", "/ws")
        assert last["error"] == "Sec-WebSocket-Key: expected 16 bytes in base64, once."
