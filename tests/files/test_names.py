"""Names of files: what is kept of them, and how they are sent."""

import unicodedata
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.files.names import NAME_BYTES, disposition, ending, safe_name


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\report.pdf", "report.pdf"),
        ("..", ""),
        (".", ""),
        ("...", ""),
        ("a/", ""),
        ("/", ""),
        ("", ""),
        ("  spaced   name .txt ", "spaced name .txt"),
        (".hidden", ".hidden"),
        ("nul\x00.png", "nul.png"),
        ("line\r\nfeed.txt", "line feed.txt"),
        ("no \x00 spaces", "no spaces"),
        ("e\u200b\u0301", "\u00e9"),
        ("gnp.\u202eexe.png", "gnp.exe.png"),
        ("zero\u200bwidth", "zerowidth"),
        ("\ud800surrogate", "surrogate"),
        ("nai\u0308ve", "na\u00efve"),
        ("\u4f60\u597d.txt", "\u4f60\u597d.txt"),
        ("\U0001f600.png", "\U0001f600.png"),
        ("x" * 255, "x" * 255),
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("\u20ac" * 100 + ".md", "\u20ac" * 84 + ".md"),
        ("x." + "y" * 300, "x." + "y" * 253),
        ("." * 300 + "\u00e9", ""),
    ],
)
def test_a_name_is_cleaned(given_name: str, kept: str) -> None:
    assert safe_name(given_name) == kept


@given(st.text(max_size=400))
def test_a_kept_name_is_harmless(name: str) -> None:
    kept = safe_name(name)
    assert len(kept.encode()) <= NAME_BYTES
    assert not set(kept) & set("/\\\r\n\x00")
    assert not any(unicodedata.category(each) in {"Cc", "Cf", "Cs"} for each in kept)
    assert kept == "" or kept.strip(". ")
    assert safe_name(kept) == kept


@given(st.text(max_size=300))
def test_a_name_is_sent_so_that_it_is_read_again(name: str) -> None:
    kept = safe_name(name)
    value = disposition(kept)
    assert value.isascii()
    assert value.isprintable()
    message = Message()
    message["content-disposition"] = value
    assert message.get_content_disposition() == "attachment"
    if "filename*=" in value:
        assert unquote(value.partition("filename*=UTF-8''")[2]) == kept
    else:
        assert (message.get_filename() or "") == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "attachment"),
        ("a.txt", 'attachment; filename="a.txt"'),
        ('a"b\\c.txt', "attachment; filename=\"a_b_c.txt\"; filename*=UTF-8''a%22b%5Cc.txt"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
    ],
)
def test_the_header_of_a_name(name: str, value: str) -> None:
    assert disposition(name) == value


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.MD", ".md"), ("a", ""), (".md", ""), ("a.tar.gz", ".gz"), ("a.", ".")],
)
def test_endings(name: str, expected: str) -> None:
    assert ending(name) == expected
