"""The part of the history that is sent: newest first, whole messages, within the budget."""

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.models.history import ModelMessage, estimate, messages_within, with_question


@frozen
class Line:
    role: str
    content: str


def lines(text: str) -> list[Line]:
    """Return messages of four characters, 5 tokens each: `u` for the user, `a` for the agent."""
    return [
        Line("user" if role == "u" else "agent", f"{role}{place:03}")
        for place, role in enumerate(text)
    ]


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 4), ("a", 5), ("abcd", 5), ("abcde", 6), ("éé", 5), ("ééa", 6)]
)
def test_estimate(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [(0, 0), (9, 0), (10, 2), (19, 2), (20, 4), (1000, 4)],
)
def test_the_oldest_messages_are_dropped_and_none_is_cut(tokens: int, kept: int) -> None:
    earlier = lines("uaua")
    chosen = messages_within(earlier, tokens)
    assert [message.text for message in chosen] == [
        line.content for line in earlier[len(earlier) - kept :]
    ]
    assert [message.role for message in chosen] == ["user", "assistant"] * (kept // 2)


def test_a_message_that_does_not_fit_ends_the_selection() -> None:
    earlier = [Line("user", "u"), Line("agent", "x" * 400), Line("user", "v"), Line("agent", "b")]
    assert [message.text for message in messages_within(earlier, 100)] == ["v", "b"]


def test_it_begins_with_the_user() -> None:
    assert messages_within(lines("aua"), 10) == [
        ModelMessage("user", "u001"),
        ModelMessage("assistant", "a002"),
    ]
    assert messages_within(lines("a"), 100) == []


def test_messages_of_one_role_are_joined_and_empty_ones_left_out() -> None:
    earlier = [Line("user", "a"), Line("agent", ""), Line("user", "b"), Line("agent", "c")]
    assert messages_within(earlier, 100) == [
        ModelMessage("user", "a\n\nb"),
        ModelMessage("assistant", "c"),
    ]


def test_a_question_after_one_without_an_answer() -> None:
    assert with_question([], "q") == [ModelMessage("user", "q")]
    messages = messages_within(lines("uau"), 100)
    assert with_question(messages, "q")[-1] == ModelMessage("user", "u002\n\nq")
    assert messages[-1].text == "u002"
    answered = messages_within(lines("ua"), 100)
    assert with_question(answered, "q") == [*answered, ModelMessage("user", "q")]


@given(
    st.lists(st.tuples(st.sampled_from(["user", "agent"]), st.text(max_size=40)), max_size=20),
    st.integers(0, 200),
)
def test_the_budget_is_never_exceeded(said: list[tuple[str, str]], tokens: int) -> None:
    chosen = messages_within([Line(*each) for each in said], tokens)
    assert sum(estimate(message.text) for message in chosen) <= tokens
    assert [message.role for message in chosen] == (["user", "assistant"] * len(chosen))[
        : len(chosen)
    ]
