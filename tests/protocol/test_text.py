"""Cutting text and JSON: the result fits into an event, for any characters, and is maximal."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.protocol.codec import encode
from netra_trio.protocol.messages import (
    AgentCompleted,
    AgentThinking,
    PartialResult,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.text import (
    EVENT_BYTES,
    PIECE_CHARACTERS,
    TextTail,
    cut_json,
    cut_text,
    fair_limit,
    json_size,
    pieces,
)

LIMIT = 256 * 1024  # bytes of an event
SAMPLES = ["a", "\x00", '"', "\\", "\n", "\x7f", "\u00e9", "\u20ac", "\u2028", "\U0001f600"]
RUN: Any = "run_" + "0" * 25
CALL: Any = "call_" + "0" * 25
KEY = "\x01" * 128  # the longest correlation id, every character of it six bytes
LAST = 2**53  # the largest event number

TEXTS = st.lists(
    st.tuples(st.sampled_from(SAMPLES), st.integers(0, 40)).map(lambda run: run[0] * run[1]),
    max_size=8,
).map("".join)


def event_size(event: Any) -> int:
    return len(encode(event, 1_800_000_000.123456, KEY, seq=LAST, seq_from=LAST))


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_piece_of_any_text_fits_into_an_event(sample: str) -> None:
    text = sample * (3 * PIECE_CHARACTERS + 1)
    found = list(pieces(text))
    assert "".join(found) == text
    assert [len(piece) for piece in found] == [PIECE_CHARACTERS] * 3 + [1]
    assert event_size(PartialResult(RUN, found[0])) <= LIMIT
    assert event_size(AgentThinking(RUN, found[0], LAST, LAST)) <= LIMIT


def test_a_text_of_one_piece_and_one_character_more() -> None:
    assert [len(piece) for piece in pieces("x" * PIECE_CHARACTERS)] == [PIECE_CHARACTERS]
    assert [len(piece) for piece in pieces("x" * (PIECE_CHARACTERS + 1))] == [PIECE_CHARACTERS, 1]
    assert list(pieces("")) == []


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("wrap", [str, lambda text: {"x": [text]}], ids=["text", "object"])
def test_cut_json_of_any_value_fits_into_an_event(sample: str, wrap: Any) -> None:
    data, cut = cut_json(wrap(sample * LIMIT), EVENT_BYTES)
    assert cut
    assert len(data) <= EVENT_BYTES
    assert len(data) > EVENT_BYTES - 40  # no more is cut than necessary
    value = orjson.Fragment(data)
    name = "n" * 64
    for event in (
        ToolExecuting(RUN, CALL, name, value, truncated=True),
        ToolCompleted(
            RUN, CALL, name, success=True, duration_ms=LAST, result=value, truncated=True
        ),
        AgentCompleted(RUN, RunStatus.INTERRUPTED, LAST, value, truncated=True),
    ):
        assert event_size(event) <= LIMIT


@given(TEXTS, st.integers(0, 200))
def test_cut_text_keeps_as_many_characters_as_fit(text: str, limit: int) -> None:
    kept, cut = cut_text(text, limit)
    assert text.startswith(kept)
    assert cut is (len(text.encode()) > limit)
    assert len(kept.encode()) <= limit
    if cut:
        assert len(text[: len(kept) + 1].encode()) > limit
    else:
        assert kept == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(JSON, st.integers(2, 300))
def test_cut_json_is_the_value_or_the_beginning_of_its_text(value: Any, limit: int) -> None:
    whole = orjson.dumps(value)
    data, cut = cut_json(value, limit)
    assert len(data) <= limit
    assert cut is (len(whole) > limit)
    if cut:
        text = orjson.loads(data)
        assert (value if isinstance(value, str) else whole.decode()).startswith(text)
    else:
        assert data == whole


@given(st.text())
def test_json_size_is_the_size_in_utf_8(text: str) -> None:
    assert json_size(text) == len(text.encode())


def test_values_that_cannot_be_encoded_are_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        json_size("\ud800")
    with pytest.raises(UnicodeEncodeError):
        cut_text("\ud800" * 10, 5)
    for value in ("\ud800", {1, 2}, object(), 2**64):
        with pytest.raises(TypeError):
            cut_json(value, 100)


@pytest.mark.parametrize(
    ("sizes", "total", "limit"),
    [
        ([], 10, 10),
        ([3, 4], 7, 7),
        ([3, 4], 6, 3),
        ([10, 50, 60], 90, 40),
        ([5], 0, 0),
        ([5], -1, 0),
    ],
)
def test_fair_limit(sizes: list[int], total: int, limit: int) -> None:
    assert fair_limit(sizes, total) == limit
    assert sum(min(size, limit) for size in sizes) <= max(total, 0)


TAIL, SPARE = 1000, 64 * 1024  # bytes; a tail is cut when it has more than both


def test_a_tail_keeps_the_end_of_a_text() -> None:
    whole = TextTail(TAIL, ["é"])
    whole.add("x" * (TAIL + SPARE - 2), TAIL + SPARE - 2)
    assert (len(whole.text), whole.is_cut) == (TAIL + SPARE - 1, False)
    whole.add("y", 1)
    assert (whole.text, whole.is_cut) == ("x" * (TAIL - 1) + "y", True)
    whole.add("z", 1)
    assert whole.text.endswith("xyz")
    assert TextTail(TAIL, is_cut=True).is_cut
