"""Publishing to a room over HTTP, from outside: permission, checks, limits, and outages."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest
from attrs import frozen
from support.server import Headers, Server, bearer, check_error, run, serving, sign
from support.valkey import Server as Valkey
from support.valkey import server as valkey_server

EVENT_BYTES = 256 * 1024
LOCAL = ("Origin", "http://localhost:3000")
FOREIGN = ("Origin", "https://evil.example")
PATH = "/ws/rooms/news"


def publisher(user: str = "alice", **options: Any) -> tuple[str, str]:
    """Return an Authorization header with a token that may publish."""
    return bearer(user, permissions=["netra:publish"], **options)


@frozen
class Broken:
    """A server, and the broker that it needs."""

    server: Server
    broker: Valkey


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("dev")) as server:
        yield server


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """Start a server with one user and a broker."""
    folder = tmp_path_factory.mktemp("deployed")
    environ = {"AUTH_AUTO_PROVISION": "false", "DATABASE_URL": "sqlite:///netra.db"}
    code, _, error = run(
        ["-m", "netra_trio", "user", "add", "alice"], directory=folder, environ=environ
    )
    assert code == 0, error
    with (
        valkey_server() as broker,
        serving(folder, REDIS_URL=broker.url, **environ) as server,
    ):
        yield Broken(server, broker)


def publish(
    server: Server, body: Any, *headers: tuple[str, str], path: str = PATH
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return server.http("POST", path, headers or [publisher()], content=content)


def refused(answer: httpx2.Response, status: int, code: str) -> str:
    """Check an error; return its text."""
    assert answer.status_code == status, answer.text
    return str(check_error(answer.json(), code)["error"])


def test_an_event_is_published_once_for_each_key(dev: Server) -> None:
    path = "/ws/rooms/team:a.b-c_d"
    first = publish(dev, {"content": "hello", "key": "k"}, path=path)
    assert first.status_code == 200
    assert first.json() == {"room": "team:a.b-c_d", "offset": 1, "status": "accepted"}
    assert first.headers["cache-control"] == "no-store"
    again = publish(dev, {"content": {"other": 1}, "key": "k"}, path=path)
    assert again.json() == {"room": "team:a.b-c_d", "offset": 1, "status": "duplicate"}
    other = publish(dev, {"content": "hello", "key": "k"}, publisher("bob"), path=path)
    assert (other.json()["offset"], other.json()["status"]) == (2, "accepted")
    for offset in (3, 4):
        assert publish(dev, {"content": {}}, path=path).json()["offset"] == offset
    encoded = publish(dev, {"content": ""}, path="/ws/rooms/team%3Aa.b-c_d")
    assert encoded.json() == {"room": "team:a.b-c_d", "offset": 5, "status": "accepted"}


@pytest.mark.parametrize("claims", [{"permissions": ["netra:publish"]}, {"scope": "netra:publish"}])
def test_a_token_with_the_permission(dev: Server, claims: dict[str, Any]) -> None:
    assert publish(dev, {"content": "x"}, bearer(**claims)).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [{}, {"permissions": []}, {"permissions": ["netra:admin"]}, {"scope": "netra:publishing"}],
)
def test_a_token_without_the_permission(dev: Server, claims: dict[str, Any]) -> None:
    text = refused(publish(dev, {"content": "x"}, bearer(**claims)), 403, "FORBIDDEN")
    assert text == "The token does not have the permission netra:publish."


def test_the_credential_is_checked_as_for_a_ticket(dev: Server, deployed: Broken) -> None:
    content = {"content": "x"}
    origin = ("X-Nothing", "")
    refused(publish(dev, content, origin), 401, "AUTH_REQUIRED")
    token = sign(permissions=["netra:publish"])
    refused(publish(dev, content, origin, path=f"{PATH}?token={token}"), 401, "AUTH_REQUIRED")
    refused(publish(dev, content, ("Authorization", "Bearer wrong")), 401, "INVALID_TOKEN")
    refused(publish(dev, content, publisher(seconds=-60)), 401, "TOKEN_EXPIRED")
    refused(publish(dev, content, publisher(), publisher()), 401, "INVALID_TOKEN")
    refused(publish(deployed.server, content, publisher("unknown")), 403, "USER_NOT_FOUND")


def test_the_earlier_check_refuses(dev: Server) -> None:
    wrong = ("Authorization", "Bearer wrong")
    bad_name = "/ws/rooms/a b"
    refused(publish(dev, b"{", FOREIGN, wrong, path=bad_name), 400, "BAD_REQUEST")
    refused(publish(dev, b"{", FOREIGN, wrong), 403, "ORIGIN_NOT_ALLOWED")
    refused(publish(dev, b"{", wrong), 401, "INVALID_TOKEN")
    refused(publish(dev, b"{", bearer()), 403, "FORBIDDEN")
    refused(publish(dev, b"{"), 400, "BAD_REQUEST")


@pytest.mark.parametrize("name", ["r", "r" * 128, "a:b", "..", "thread:x"])
def test_names_of_rooms(dev: Server, name: str) -> None:
    # An HTTP client would resolve the dots.
    path = "/ws/rooms/" + name.replace(".", "%2E")
    assert publish(dev, {"content": "x"}, path=path).json()["room"] == name


@pytest.mark.parametrize(
    "name", ["r" * 129, ":presence:a", "a:", "a::b", "a%20b", "%C3%A4", "a%00"]
)
def test_no_names_of_rooms(dev: Server, name: str) -> None:
    text = refused(publish(dev, {"content": "x"}, path=f"/ws/rooms/{name}"), 400, "BAD_REQUEST")
    assert text.startswith("room: expected 1 to 128 characters")


def test_nobody_publishes_to_the_room_of_the_live_page(dev: Server) -> None:
    refused(publish(dev, {"content": {}}, path="/ws/rooms/admin:live"), 403, "FORBIDDEN")


@pytest.mark.parametrize("path", ["/ws/rooms", "/ws/rooms/", "/ws/rooms/a/b", "/ws/rooms/a%2Fb"])
def test_paths_of_no_room(dev: Server, path: str) -> None:
    answer = publish(dev, {"content": "x"}, path=path)
    refused(answer, 404, "BAD_REQUEST")
    assert PATH.replace("news", "{room}") in answer.json()["help"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$.content: missing"),
        ({"key": "k"}, "$.content: missing"),
        ({"content": 5}, "$.content: expected an object or a string, got 5"),
        ({"content": None}, "$.content: expected an object or a string, got null"),
        ({"content": ["x"]}, "$.content: expected an object or a string, got an array"),
        ({"content": "x", "key": ""}, '$.key: expected a string of 1 to 128 characters, got ""'),
        ({"content": "x", "key": "k" * 129}, "$.key: expected a string of 1 to 128 characters"),
        ({"content": "x", "key": 5}, "$.key: expected a string of 1 to 128 characters, got 5"),
        ({"content": "x", "key": None}, "$.key: expected a string of 1 to 128 characters"),
        ({"content": "x", "room": "a"}, "$.room: unknown field"),
        (["x"], "$: expected an object, got an array"),
        (b'{"content": {"n": 18446744073709551616}}', "$.content.n: expected an integer from"),
        (b'{"content": ' + b'{"a":' * 65 + b"1" + b"}" * 66, "$.content: expected at most 64"),
    ],
)
def test_bodies_are_checked_with_their_path(dev: Server, body: Any, path: str) -> None:
    assert refused(publish(dev, body), 400, "VALIDATION_ERROR").startswith(path)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"content": "\\ud800"}'])
def test_bodies_that_are_not_json(dev: Server, body: bytes) -> None:
    refused(publish(dev, body), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        {"content": "x", "key": "k" * 128},
        b'{"content": {"n": 18446744073709551615}}',
        b'{"content": ' + b'{"a":' * 64 + b"1" + b"}" * 65,
    ],
)
def test_bodies_at_their_limits(dev: Server, body: Any) -> None:
    assert publish(dev, body).status_code == 200


def test_the_largest_event_and_one_byte_more(dev: Server) -> None:
    event = {"type": "room_message", "payload": {"user_id": "alice", "content": ""}}
    largest = "x" * (EVENT_BYTES - len(orjson.dumps(event)))
    assert publish(dev, {"content": largest}).status_code == 200
    text = refused(publish(dev, {"content": largest + "x"}), 413, "MESSAGE_TOO_LARGE")
    assert (
        text == f"$.content: an event of {EVENT_BYTES + 1} bytes as JSON, of at most {EVENT_BYTES}"
    )


def test_the_largest_body_and_one_byte_more(dev: Server) -> None:
    escaped = b'{"content": "%b"}' % (b"\\u0041" * 87_000)
    body = escaped + b" " * (2 * EVENT_BYTES - len(escaped))
    assert publish(dev, body).status_code == 200
    refused(publish(dev, body + b" "), 413, "BAD_REQUEST")


def test_methods_and_cors(dev: Server) -> None:
    allowed = dev.http("OPTIONS", PATH, [LOCAL])
    assert (allowed.status_code, allowed.headers["allow"]) == (204, "OPTIONS, POST")
    assert allowed.headers["access-control-allow-origin"] == LOCAL[1]
    refused(dev.http("OPTIONS", PATH, [FOREIGN]), 403, "ORIGIN_NOT_ALLOWED")
    for method in ("GET", "PUT", "DELETE"):
        answer = dev.http(method, PATH, [publisher()])
        refused(answer, 405, "BAD_REQUEST")
        assert answer.headers["allow"] == "OPTIONS, POST"
    answer = publish(dev, {"content": "x"}, LOCAL, publisher())
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, LOCAL[1])
    answer = publish(dev, {"content": "x"}, FOREIGN, publisher())
    refused(answer, 403, "ORIGIN_NOT_ALLOWED")
    assert "access-control-allow-origin" not in answer.headers


def test_the_metrics_have_the_pattern_of_the_path(dev: Server) -> None:
    headers: Headers = [publisher()]
    for path in (PATH, "/ws/rooms/other"):
        dev.http("POST", path, headers, content=b'{"content": "x"}')
    text = dev.http("GET", "/metrics").text
    assert 'endpoint="/ws/rooms/{room}"' in text
    assert "/ws/rooms/news" not in text


def test_a_publisher_gets_an_error_without_the_broker(deployed: Broken) -> None:
    server, broker = deployed.server, deployed.broker
    content = {"content": "x", "key": "once"}
    assert publish(server, content).json()["status"] == "accepted"
    broker.stop()
    try:
        answer = publish(server, content)
    finally:
        broker.go_on()
    refused(answer, 503, "SERVICE_UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1
    deadline = time.monotonic() + 60
    while (answer := publish(server, content)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.json() == {"room": "news", "offset": 1, "status": "duplicate"}
