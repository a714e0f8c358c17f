"""The type of content, by its first bytes and by all of them."""

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.files.detection import HEAD_BYTES, NAMED_TEXT, OCTETS, Detection, served_type

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(17)


def zipped(*members: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


DOCX = zipped(("[Content_Types].xml", b"<Types/>"), ("word/document.xml", b"<w/>"))
ODT = zipped(("mimetype", b"application/vnd.oasis.opendocument.text"), ("content.xml", b"<x/>"))
BOMB = zipped(("zeros", bytes(1_000_000)))
LONG_JSON = b"[" + b"1," * HEAD_BYTES + b"1]"


def kind_of(content: bytes, name: str = "", *, piece: int = 4096) -> str:
    detection = Detection()
    for start in range(0, len(content), piece):
        detection.feed(content[start : start + piece])
    return detection.media_type(name)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg"),
        (b"GIF89a" + bytes(20), "image/gif"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "video/mp4"),
        (b"\x1f\x8b\x08\x00" + zlib.compress(b"x"), "application/gzip"),
        (zipped(("a.txt", b"hi")), "application/zip"),
        (BOMB, "application/zip"),
        (DOCX, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (ODT, "application/vnd.oasis.opendocument.text"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (b"%PDF-1.4\nonly text\n", "application/pdf"),
        (b"{\\rtf1 text}", "application/rtf"),
        (b"\x7fELF" + bytes(60), OCTETS),
        (b"MZ\x90\x00" + bytes(60), OCTETS),
        (b"\x00\x01\x02", OCTETS),
        (b"", OCTETS),
        (b"text\x00", OCTETS),
        (b"hello", "text/plain"),
        ("grüße \u4f60".encode(), "text/plain"),
        ("na\u00efve".encode("latin-1"), "text/plain"),
        ("hello".encode("utf-16"), "text/plain"),
        (b"\xef\xbb\xbfhello", "text/plain"),
        (b"\xff\xfe\x00\x00", OCTETS),
        (b"\x1b[31mred\x1b[0m", "text/plain"),
        # Letters of signatures, in texts.
        (b"BM is a company", "text/plain"),
        (b"PK is a country", "text/plain"),
        (b"ID3 is a tag", "text/plain"),
        (b"GIF89a/*<script>*/=1", "text/plain"),
        (b'{"a": [1]}', "application/json"),
        (b" [1, 2]\n", "application/json"),
        (b"{not json}", "text/plain"),
        (b'"a string"', "text/plain"),
        (b"[" * 5000, "text/plain"),
        (LONG_JSON, "text/plain"),
        # What a browser would run.
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b'<?xml version="1.0"?>\n<!-- a --><svg/>', "image/svg+xml"),
        (b'<!DOCTYPE svg PUBLIC "a" "b" [<!ENTITY c "d">]>\n<s:svg xmlns:s="x">', "image/svg+xml"),
        (b"\n\t<SVG onload=alert(1)>", "image/svg+xml"),
        (b"<!doctype HTML><p>", "text/html"),
        (b"<!-- a --><html>", "text/html"),
        (b" <script>alert(1)</script>", "text/html"),
        (b"<IFRAME src=x>", "text/html"),
        (b"<img/src=x onerror=alert(1)>", "text/html"),
        (b'<?xml version="1.0"?><html xmlns="x">', "text/html"),
        ("<html>na\u00efve".encode("latin-1"), "text/html"),
        ("<html>".encode("utf-16"), "text/html"),
        (b"\xef\xbb\xbf<html>", "text/html"),
        (b"<html>\x00", OCTETS),
        (b'<?xml version="1.0"?><rss/>', "application/xml"),
        (b'<feed xmlns="http://www.w3.org/2005/Atom">', "application/xml"),
        (b"<unknown>", "text/plain"),
        (b"< 5", "text/plain"),
        (b"<!-- never closed" + b"x" * HEAD_BYTES, "text/plain"),
        (b"<!DOCTYPE a [ never closed >", "text/plain"),
        (b"<!" * 30_000, "text/plain"),
        (b"<?" * 30_000, "text/plain"),
    ],
)
def test_the_type_of_content(content: bytes, kind: str) -> None:
    assert kind_of(content) == kind
    assert kind_of(content, "holiday.png") == kind
    assert kind_of(content, piece=7) == kind


@pytest.mark.parametrize(("suffix", "kind"), NAMED_TEXT.items())
def test_a_name_decides_between_texts(suffix: str, kind: str) -> None:
    assert kind_of(b"a,b\n", f"a{suffix}") == kind
    assert kind_of(b"a,b\n", f"a{suffix.upper()}") == kind
    for content in (b"<html>", b"<svg/>", PNG, b"\x00"):
        assert kind_of(content, f"a{suffix}") == kind_of(content)
    assert kind_of(b"a,b\n", "a.html") == "text/plain"


def test_the_name_of_a_long_json_file_decides() -> None:
    assert kind_of(LONG_JSON, "a.json") == "application/json"
    assert kind_of(b"x" * HEAD_BYTES * 2, "a.json") == "text/plain"


def test_the_last_byte_of_a_long_file_counts() -> None:
    text = "\u20ac".encode() * HEAD_BYTES
    assert kind_of(text) == "text/plain"
    assert kind_of(text + b"\x00") == OCTETS


@given(st.binary(max_size=200), st.text(max_size=20))
def test_content_that_is_served_runs_nowhere(content: bytes, name: str) -> None:
    served = served_type(kind_of(content, name))
    assert served.isascii()
    assert not set(served) & set("\r\n;")
    assert not any(word in served for word in ("html", "xml+", "svg", "script", "xhtml"))


@pytest.mark.parametrize(
    ("given_type", "served"),
    [
        ("image/png", "image/png"),
        ("IMAGE/PNG; charset=x", "image/png"),
        ("image/svg+xml", OCTETS),
        ("text/html", OCTETS),
        ("text/HTML; charset=utf-8", OCTETS),
        ("application/xhtml+xml", OCTETS),
        ("application/xml", OCTETS),
        ("text/xml", OCTETS),
        ("text/javascript", OCTETS),
        ("application/javascript", OCTETS),
        ("text/css", OCTETS),
        ("audio/mpeg", "audio/mpeg"),
        ("audio/x\r\nset-cookie: a=b", OCTETS),
        ("video/", OCTETS),
        ("text/plain", "text/plain"),
        ("text/csv", "text/csv"),
        ("application/pdf", "application/pdf"),
        ("", OCTETS),
        ("nonsense", OCTETS),
    ],
)
def test_the_type_that_is_served(given_type: str, served: str) -> None:
    assert served_type(given_type) == served
