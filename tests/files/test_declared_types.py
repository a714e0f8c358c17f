"""The type that a client gives for content, compared with the content itself."""

import pytest

from netra_trio.files.declared import ContradictedType, stored_type

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
WEBM = b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x86\x81\x01\x42\x82\x84webm" + bytes(300)
ZIP = b"PK\x03\x04" + bytes(60)
HTML = b"<!doctype html><p>x</p>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
XML = b"<?xml version='1.0'?><feed xmlns='b'/>"
NOISE = bytes(range(256))


@pytest.mark.parametrize(
    ("given", "data", "stored"),
    [
        ("image/png", PNG, "image/png"),
        ("IMAGE/PNG", PNG, "IMAGE/PNG"),
        ("application/octet-stream", PNG, "image/png"),
        ("application/octet-stream", NOISE, "application/octet-stream"),
        ("application/octet-stream", HTML, "text/html"),
        ("audio/pcm", NOISE, "audio/pcm"),
        ("audio/webm;codecs=opus", WEBM, "audio/webm;codecs=opus"),
        ("video/webm", WEBM, "video/webm"),
        ("text/plain", b"hello", "text/plain"),
        ("text/markdown; charset=utf-8", b"# hello", "text/markdown; charset=utf-8"),
        ("application/yaml", b"a: 1", "application/yaml"),
        ("application/json", b'{"a": 1}', "application/json"),
        ("text/html", HTML, "text/html"),
        ("image/svg+xml", SVG, "image/svg+xml"),
        ("application/atom+xml", XML, "application/atom+xml"),
        ("application/vnd.oasis.opendocument.text", ZIP, "application/vnd.oasis.opendocument.text"),
    ],
)
def test_a_type_that_the_content_may_have(given: str, data: bytes, stored: str) -> None:
    assert stored_type(given, data) == stored


@pytest.mark.parametrize(
    ("given", "data", "found"),
    [
        ("image/jpeg", PNG, "image/png"),
        ("audio/mpeg", PNG, "image/png"),
        ("text/plain", PNG, "image/png"),
        ("image/png", NOISE, "application/octet-stream"),
        ("image/svg+xml", NOISE, "application/octet-stream"),
        ("application/json", NOISE, "application/octet-stream"),
        ("text/plain", NOISE, "application/octet-stream"),
        ("application/pdf", b"hello", "text/plain"),
        ("image/png", b"hello", "text/plain"),
        ("audio/wav", b"hello", "text/plain"),
        ("text/plain", HTML, "text/html"),
        ("image/png", SVG, "image/svg+xml"),
        ("text/plain", XML, "application/xml"),
        ("image/png", ZIP, "application/zip"),
        ("image/png", WEBM, "video/webm"),
    ],
)
def test_a_type_that_the_content_contradicts(given: str, data: bytes, found: str) -> None:
    with pytest.raises(ContradictedType, match=f"^{found}$".replace("+", r"\+")):
        stored_type(given, data)
