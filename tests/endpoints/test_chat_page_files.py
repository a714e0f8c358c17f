"""The chat page's files: media types, caching and the content security policy."""

from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import trio
from support.keyserver import SIGNERS, key_server
from support.server import PATIENCE

from netra_trio.config.settings import Settings
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.chat_page import (
    Asset,
    content_security_policy,
    page_file,
    read_page,
    sign_in_urls,
)
from netra_trio.endpoints.request import Request
from netra_trio.server.application import Application, create_app
from netra_trio.stores.memory import MemoryStore


def make(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    page = tmp_path / "page"
    make(page, index_dot_html="<p>page", icon_dot_svg="<svg/>", sources_dot_sha256="1234")
    (page / "assets").mkdir()
    (page / "assets" / "index-Ab_-1234.js").write_text("1")
    (page / "assets" / "plain.css").write_text("p{}")
    (tmp_path / "secret.txt").write_text("secret")
    return page


def test_only_known_media_types_are_served(folder: Path) -> None:
    assert set(read_page(folder)) == {
        "/",
        "/admin",
        "/icon.svg",
        "/assets/index-Ab_-1234.js",
        "/assets/plain.css",
    }


def test_the_live_page_has_its_own_path(folder: Path) -> None:
    assert read_page(folder)["/admin"].status == 503
    make(folder, admin_dot_html="<p>live")
    page = read_page(folder)
    assert page["/admin"].content == b"<p>live"
    assert page["/admin"].cache_control == "no-cache"
    assert "/admin.html" not in page


def test_hashed_files_are_cached_permanently(folder: Path) -> None:
    page = read_page(folder)
    forever = "public, max-age=31536000, immutable"
    assert page["/assets/index-Ab_-1234.js"].cache_control == forever
    for path in ("/", "/icon.svg", "/assets/plain.css"):
        assert page[path].cache_control == "no-cache"


def test_the_script_and_the_style_have_stable_names_too(folder: Path) -> None:
    (folder / "index.html").write_text(
        '<script type="module" crossorigin src="/assets/index-Ab_-1234.js"></script>'
        '<link rel="modulepreload" crossorigin href="/assets/shared-12345678.js">'
        '<link rel="stylesheet" crossorigin href="/assets/plain.css">'
    )
    page = read_page(folder)
    assert page["/chat.js"].content == b'import "./assets/index-Ab_-1234.js";\n'
    assert page["/chat.css"].content == b'@import "./assets/plain.css";\n'
    for path in ("/chat.js", "/chat.css"):
        assert page[path].cache_control == "no-cache"


def test_the_etag_depends_on_the_content(folder: Path) -> None:
    before = read_page(folder)
    (folder / "icon.svg").write_text("<svg></svg>")
    after = read_page(folder)
    assert before["/"].etag == after["/"].etag
    assert before["/icon.svg"].etag != after["/icon.svg"].etag


def test_without_a_build_the_page_explains_how_to_build_it(tmp_path: Path) -> None:
    page = read_page(tmp_path)
    assert set(page) == {"/", "/admin"}
    assert (page["/"].status, page["/"].cache_control) == (503, "no-store")
    assert b"pip install ." in page["/"].content


@pytest.mark.parametrize("host", ["localhost:8000", "chat.example.com", "[::1]:8000", "10.0.0.1"])
def test_the_policy_allows_the_pages_own_server(host: str) -> None:
    policy = content_security_policy(host)
    assert f"connect-src 'self' ws://{host} wss://{host};" in policy


@pytest.mark.parametrize(
    "host", [None, "", "a;script-src *", "a b", "a'", "*", "*.com", "a:x", "a/b", "a\r\nx", "é"]
)
def test_an_invalid_host_is_left_out_of_the_policy(host: str | None) -> None:
    assert "connect-src 'self';" in content_security_policy(host)


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://login.example.com", " https://login.example.com;"),
        ("https://login.example.com:8443/a/token?b=c", " https://login.example.com:8443/a/token;"),
        ("https://login.example.com/a;b,c", " https://login.example.com/a%3Bb%2Cc;"),
        ("https://a;script-src/", ";"),
        ("https://*.example.com/", ";"),
    ],
)
def test_the_policy_allows_exactly_the_urls_of_the_provider(url: str, source: str) -> None:
    assert f"connect-src 'self'{source} base-uri" in content_security_policy(None, [url])


def test_a_url_at_the_own_origin_is_listed_once() -> None:
    url = "https://login.example.com/token"
    assert content_security_policy(None, [url, url]).count(url) == 1


def application(**more: Any) -> Application:
    settings = Settings(jwt_secret_key="x" * 32, **more)
    return create_app(settings=settings, store=MemoryStore())


async def test_the_page_may_connect_to_the_endpoints_of_the_provider() -> None:
    page = {"/": Asset(b"<p>page", "text/html")}
    with key_server(*SIGNERS.values()) as server:
        server.describe(token_endpoint=f"{server.issuer}/oauth/token?a=b")
        app = application(oidc_issuer=f"{server.issuer}", oidc_client_id="netra-chat")
        async with app.running():
            services = app.node.services
            with trio.fail_after(PATIENCE):
                while services.verifier.is_key_server_available is not True:  # noqa: ASYNC110
                    await trio.sleep(0.01)  # another thread answers
            call = Call("GET", "/", Request.of_scope(SCOPE), services, _no_body, ANY)
            policy = (await page_file(page, call)).headers["content-security-policy"]
            etag = SCOPE | {"headers": [(b"if-none-match", page["/"].etag.encode())]}
            call = Call("GET", "/", Request.of_scope(etag), services, _no_body, ANY)
            unchanged = await page_file(page, call)
        urls = f"{server.issuer}/.well-known/openid-configuration {server.issuer}/oauth/token"
        assert f"connect-src 'self' {urls}; base-uri" in policy
        assert (unchanged.status, unchanged.headers["content-security-policy"]) == (304, policy)


async def test_an_unknown_provider_allows_the_origin_of_the_issuer() -> None:
    issuer = "https://login.example.com/realms/a"
    app = application(
        oidc_issuer=issuer, oidc_client_id="a", jwt_jwks_url="https://login.example.com/jwks"
    )
    async with app.running():
        assert sign_in_urls(app.node.services) == ("https://login.example.com",)
    app = application(oidc_issuer="http://localhost:1", oidc_client_id="a")
    async with app.running():
        assert sign_in_urls(app.node.services) == ("http://localhost:1",)
    app = application()
    async with app.running():
        assert sign_in_urls(app.node.services) == ()


SCOPE: dict[str, Any] = {"query_string": b"", "headers": [], "client": ("127.0.0.1", 1)}


async def _no_body() -> dict[str, Any]:
    raise AssertionError("a GET has no body")
