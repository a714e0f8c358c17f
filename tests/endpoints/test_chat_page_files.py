"""The chat page's files: media types, caching and the content security policy."""

from pathlib import Path

import pytest

from netra_trio.endpoints.chat_page import content_security_policy, read_page


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
        "/icon.svg",
        "/assets/index-Ab_-1234.js",
        "/assets/plain.css",
    }


def test_hashed_files_are_cached_permanently(folder: Path) -> None:
    page = read_page(folder)
    forever = "public, max-age=31536000, immutable"
    assert page["/assets/index-Ab_-1234.js"].cache_control == forever
    for path in ("/", "/icon.svg", "/assets/plain.css"):
        assert page[path].cache_control == "no-cache"


def test_the_script_has_a_stable_name_too(folder: Path) -> None:
    index = (
        '<script src="/assets/index-Ab_-1234.js"></script><link href="/assets/gone-12345678.css">'
    )
    (folder / "index.html").write_text(index)
    page = read_page(folder)
    assert page["/chat.js"].content == page["/assets/index-Ab_-1234.js"].content
    assert page["/chat.js"].cache_control == "no-cache"
    assert "/chat.css" not in page


def test_the_etag_depends_on_the_content(folder: Path) -> None:
    before = read_page(folder)
    (folder / "icon.svg").write_text("<svg></svg>")
    after = read_page(folder)
    assert before["/"].etag == after["/"].etag
    assert before["/icon.svg"].etag != after["/icon.svg"].etag


def test_without_a_build_the_page_explains_how_to_build_it(tmp_path: Path) -> None:
    page = read_page(tmp_path)
    assert set(page) == {"/"}
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
