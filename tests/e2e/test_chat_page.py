"""The chat page over HTTP: what is served, for how long it may be kept, and what it may do."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.node import missing
from support.server import Server, ask, serving, stock_serving

from netra_trio.endpoints.chat_page import FOLDER, INDEX

pytestmark = pytest.mark.unmeasured

LOCAL = ("Origin", "http://localhost:3000")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not (FOLDER / INDEX).is_file():
        missing("the chat page: pip install . builds it")
    with serving(tmp_path_factory.mktemp("page")) as running:
        yield running


def files_of(server: Server) -> list[str]:
    """Return the paths of what the page loads."""
    return re.findall(r'(?:src|href)="([^"]+)"', server.http("GET", "/").text)


def test_the_page(server: Server) -> None:
    answer = server.http("GET", "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text.lstrip().lower().startswith("<!doctype html>")


def test_the_page_under_the_stock_command(tmp_path: Path) -> None:
    with stock_serving(tmp_path) as server:
        for path in ("/", *files_of(server)):
            answer = server.http("GET", path)
            assert answer.status_code == 200
            assert "content-security-policy" in answer.headers


def test_what_the_page_loads(server: Server) -> None:
    files = files_of(server)
    assert {path.rpartition(".")[2] for path in files} == {"js", "css", "svg"}
    for path in files:
        answer = server.http("GET", path)
        assert answer.status_code == 200, path
        assert len(answer.content) > 100
        if path.startswith("/assets/"):
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_the_page_has_nothing_inline(server: Server) -> None:
    page = server.http("GET", "/").text
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert "<style" not in page
    assert re.findall(r"\s(?:style|on[a-z]+)=", page) == []


def test_names_that_stay(server: Server) -> None:
    for name in ("/icon.svg", "/chat.js", "/chat.css"):
        answer = server.http("GET", name, [LOCAL])
        assert answer.headers["cache-control"] == "no-cache"
        for path in ("", *re.findall(r'import "\.(/assets/[^"]+)"', answer.text)):
            answer = server.http("GET", path or name, [LOCAL])
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == LOCAL[1]


def test_what_the_page_may_do(server: Server) -> None:
    for path in ("/", *files_of(server)):
        headers = server.http("GET", path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data: blob:",
            "media-src": "blob:",
            "font-src": "'self'",
            "connect-src": f"'self' ws://{server.address} wss://{server.address}",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
        }
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_host_that_is_none_does_not_get_into_the_policy(server: Server) -> None:
    for host in ("a;script-src *", "a b", "'unsafe-inline'"):
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        answer = ask(server.address, request)
        assert "connect-src 'self';" in answer.headers["content-security-policy"]


def test_head_is_get_without_a_body(server: Server) -> None:
    for path in ("/", *files_of(server)):
        get, head = server.http("GET", path), server.http("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "cache-control", "etag"):
            assert head.headers[name] == get.headers[name]


def test_what_a_browser_has_is_not_sent_again(server: Server) -> None:
    for path in ("/", *files_of(server)):
        etag = server.http("GET", path).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = server.http("GET", path, [("If-None-Match", known)])
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert "content-security-policy" in answer.headers
        assert server.http("GET", path, [("If-None-Match", '"other"')]).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_can_only_be_read(server: Server, method: str) -> None:
    for path in ("/", *files_of(server)):
        answer = server.http(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_a_foreign_page_cannot_read_it(server: Server) -> None:
    for path in ("/", *files_of(server)):
        answer = server.http("GET", path, [("Origin", "https://evil.example")])
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert server.http("OPTIONS", path, [LOCAL]).status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/sources.sha256",
        "/assets",
        "/assets/",
        "/assets/../../__init__.py",
        "/../__init__.py",
        "/..%2f__init__.py",
        "/%2e%2e/__init__.py",
        "/assets/..%5c..%5c__init__.py",
        "/assets//",
        "//",
        "/%00",
        "/.",
        "/icon.svg/",
        "/icon.svg%00",
        "/ICON.SVG",
    ],
)
def test_there_is_nothing_else(server: Server, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    ask(server.address, request).refuses(404, "BAD_REQUEST")
