"""Which bytes a request asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.endpoints.ranges import Part

ETAG = '"abc"'
WHOLE = Part(0, 10, 200)
NONE = Part(0, 0, 416)


def part(size: int = 10, **headers: str | list[str]) -> Part:
    """Return the part for headers, whose names have underscores."""
    given_headers = {
        name.replace("_", "-"): [value] if isinstance(value, str) else value
        for name, value in headers.items()
    }
    return Part.of_request(given_headers, size=size, etag=ETAG)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", Part(0, 1, 206)),
        ("bytes=0-9", Part(0, 10, 206)),
        ("bytes=0-10", Part(0, 10, 206)),
        ("bytes=3-5", Part(3, 3, 206)),
        ("bytes=9-9", Part(9, 1, 206)),
        ("bytes=9-", Part(9, 1, 206)),
        ("bytes=0-", Part(0, 10, 206)),
        ("BYTES= 2-3 ", Part(2, 2, 206)),
        ("bytes=-1", Part(9, 1, 206)),
        ("bytes=-10", Part(0, 10, 206)),
        ("bytes=-11", Part(0, 10, 206)),
        ("bytes=10-", NONE),
        ("bytes=10-20", NONE),
        ("bytes=-0", NONE),
        ("bytes=99999999999999999-", NONE),
        # Not understood, so ignored.
        ("bytes=5-3", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=0-1,3-4", WHOLE),
        ("bytes=--1", WHOLE),
        ("bytes=1.5-2", WHOLE),
        ("items=0-1", WHOLE),
        ("", WHOLE),
        ("bytes=9999999999999999999-", WHOLE),
        ("bytes=\u0661-\u0662", WHOLE),
    ],
)
def test_a_range(value: str, expected: Part) -> None:
    assert part(range=value) == expected


def test_ranges_of_an_empty_file() -> None:
    assert part(0) == Part(0, 0, 200)
    for value in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        assert part(0, range=value) == NONE


def test_two_headers_are_ignored() -> None:
    assert part(range=["bytes=0-1", "bytes=2-3"]) == WHOLE


@pytest.mark.parametrize(
    ("condition", "status"),
    [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
def test_if_range(condition: str, status: int) -> None:
    assert part(range="bytes=0-1", if_range=condition).status == status


@pytest.mark.parametrize(
    ("tags", "status"),
    [(ETAG, 304), (f"W/{ETAG}", 304), ("*", 304), (f'"a", {ETAG}', 304), ('"a"', 200), ("", 200)],
)
def test_if_none_match(tags: str, status: int) -> None:
    assert part(if_none_match=tags).status == status
    assert part(if_none_match=tags, range="bytes=0-1").status == (304 if status == 304 else 206)


@given(
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 60)),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_a_part_is_the_slice_of_the_file(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    found = part(
        size, range=f"bytes={'' if first is None else first}-{'' if last is None else last}"
    )
    sent = content[found.start : found.start + found.size]
    assert len(sent) == found.size
    is_backwards = first is not None and last is not None and last < first
    if (first is None and last is None) or is_backwards:
        assert (found.status, sent) == (200, content)
        return
    if first is None:
        expected = content[max(0, size - (last or 0)) :]
    else:
        expected = content[first : None if last is None else last + 1]
    assert found.status == (206 if expected else 416)
    assert sent == expected
