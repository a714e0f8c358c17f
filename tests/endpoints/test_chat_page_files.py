"""The chat page's files: what is read, how long it may be kept, and what the page may do."""

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


def test_only_what_a_page_is_made_of(folder: Path) -> None:
    assert set(read_page(folder)) == {
        "/",
        "/icon.svg",
        "/assets/index-Ab_-1234.js",
        "/assets/plain.css",
    }


def test_what_never_changes_may_be_kept_for_ever(folder: Path) -> None:
    page = read_page(folder)
    forever = "public, max-age=31536000, immutable"
    assert page["/assets/index-Ab_-1234.js"].cache_control == forever
    for path in ("/", "/icon.svg", "/assets/plain.css"):
        assert page[path].cache_control == "no-cache"


def test_the_script_has_a_name_that_stays(folder: Path) -> None:
    index = (
        '<script src="/assets/index-Ab_-1234.js"></script><link href="/assets/gone-12345678.css">'
    )
    (folder / "index.html").write_text(index)
    page = read_page(folder)
    assert page["/chat.js"].content == page["/assets/index-Ab_-1234.js"].content
    assert page["/chat.js"].cache_control == "no-cache"
    assert "/chat.css" not in page


def test_the_mark_is_the_contents(folder: Path) -> None:
    before = read_page(folder)
    (folder / "icon.svg").write_text("<svg></svg>")
    after = read_page(folder)
    assert before["/"].etag == after["/"].etag
    assert before["/icon.svg"].etag != after["/icon.svg"].etag


def test_without_a_page_one_says_how_to_build_it(tmp_path: Path) -> None:
    page = read_page(tmp_path)
    assert set(page) == {"/"}
    assert (page["/"].status, page["/"].cache_control) == (503, "no-store")
    assert b"pip install ." in page["/"].content


@pytest.mark.parametrize("host", ["localhost:8000", "chat.example.com", "[::1]:8000", "10.0.0.1"])
def test_the_page_may_talk_to_where_it_came_from(host: str) -> None:
    policy = content_security_policy(host)
    assert f"connect-src 'self' ws://{host} wss://{host};" in policy


@pytest.mark.parametrize(
    "host", [None, "", "a;script-src *", "a b", "a'", "*", "*.com", "a:x", "a/b", "a\r\nx", "é"]
)
def test_what_is_no_host_does_not_get_into_the_policy(host: str | None) -> None:
    assert "connect-src 'self';" in content_security_policy(host)
