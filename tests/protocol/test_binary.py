"""The form of binary frames, which both directions of `netra.v2` have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.protocol.binary import BadBinaryFrame, BinaryFrame, join_binary, split_binary


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_both_parts_come_back(frame: bytes, data: bytes) -> None:
    joined = join_binary(frame, data)
    assert type(joined) is BinaryFrame
    assert joined[:4] == len(frame).to_bytes(4, "big")
    assert split_binary(joined) == (frame, data)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "expected 4 bytes with the length of the JSON frame, got 0 bytes"),
        (b"\0\0\0", "expected 4 bytes with the length of the JSON frame, got 3 bytes"),
        (b"\0\0\0\1", "expected a JSON frame of 1 bytes after its length, got 0 bytes"),
        (b"\0\0\0\3{}", "expected a JSON frame of 3 bytes after its length, got 2 bytes"),
        (b"\xff" * 9, "expected a JSON frame of 4294967295 bytes after its length, got 5 bytes"),
    ],
)
def test_invalid_binary_frames(payload: bytes, text: str) -> None:
    with pytest.raises(BadBinaryFrame, match=f"^{text}$"):
        split_binary(payload)


def test_the_shortest_ones() -> None:
    assert split_binary(b"\0\0\0\0") == (b"", b"")
    assert split_binary(b"\0\0\0\2{}") == (b"{}", b"")
