"""The parser of server-sent events: any cutting of the bytes, line ends, and bounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.models.sse import EventParser, MessageTooLong

STREAM = (
    "\ufeffdata: one\r\n\r\n: a comment\ndata:two\ndata: and é\n\nevent: x\nid: 7\nretry: 5\n\n"
    "data\n\ndata: three\r\rdata: [DONE]\n\n"
).encode()
MESSAGES = ["one", "two\nand é", "", "three", "[DONE]"]


def parsed(pieces: list[bytes]) -> list[str]:
    parser = EventParser()
    return [message for piece in pieces for message in parser.feed(piece)] + parser.end()


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_the_cutting_does_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    assert parsed(pieces) == MESSAGES


def test_every_byte_alone() -> None:
    assert parsed([bytes([byte]) for byte in STREAM]) == MESSAGES


def test_a_last_message_without_an_empty_line() -> None:
    assert parsed([b"data: one\n\ndata: two"]) == ["one", "two"]
    assert parsed([b"data: one\n\ndata: two\n"]) == ["one", "two"]
    assert parsed([]) == []


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert parsed([b"data: a\xff\n\n"]) == ["a\ufffd"]


def test_a_line_at_its_limit_and_one_byte_beyond() -> None:
    parser = EventParser(line_bytes=10)
    assert parser.feed(b"data: 1234\n\n") == ["1234"]
    parser.feed(b"data: 1")
    with pytest.raises(MessageTooLong, match="a line of more than 10 bytes"):
        parser.feed(b"2345")


def test_a_message_at_its_limit_and_one_byte_beyond() -> None:
    parser = EventParser(message_bytes=5)
    assert parser.feed(b"data: 12\ndata: 34\n\n") == ["12\n34"]
    with pytest.raises(MessageTooLong, match="a message of more than 5 bytes"):
        parser.feed(b"data: 12\ndata: 345\n")


def test_the_limit_of_a_message_counts_empty_lines() -> None:
    parser = EventParser(message_bytes=5)
    with pytest.raises(MessageTooLong):
        parser.feed(b"data:\n" * 7)
