"""Finding questions: arithmetic and places in a message, and no other text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netra_trio.agents.demo.agent import RULES_CHARACTERS
from netra_trio.agents.demo.questions import find_expressions, find_places


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("12*(3+4)", ["12*(3+4)"]),
        ("what is 12*(3+4)?", ["12*(3+4)"]),
        ("Hello, what's -3 + 4, please?", ["-3 + 4"]),
        ("calculate 2^10", ["2^10"]),
        ("Calculate: 7", ["7"]),
        ("calculate 2 +", ["2 +"]),
        ("2+2=5", ["2+2"]),
        ("Sqrt(16) and max(1, 2)", ["sqrt(16)", "max(1, 2)"]),
        ("2 * PI", ["2 * pi"]),
        ("1,000 * 3, or 2 + 2, or 3, 4", ["1000 * 3", "2 + 2"]),
        ("Is it (1 + 2) or (see above, 3 + 4)?", ["(1 + 2)", "3 + 4"]),
        ("well - 2+2 - no", ["2+2"]),
        ("1+1 1+1 and 1+1", ["1+1 1+1", "1+1"]),
        ("1+1; 1+1; 1+2; 1+3; 1+4", ["1+1", "1+2", "1+3"]),
        ("24/7", ["24/7"]),
        ("what is 24/7", ["24/7"]),
        ("open 24/7 since 2025-01-31, call 555-1234", []),
        ("I have 3 apples - and 4 pears", []),
        ("12x + 3, an e-mail to 10.0.0.1/8, v1.2.3", []),
        ("what is 2 doing here", []),
        ("calculate the tip", []),
        ("", []),
    ],
)
def test_arithmetic_is_found(text: str, expressions: list[str]) -> None:
    assert find_expressions(text) == expressions


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("time in Tokyo", ["Tokyo"]),
        ("What time is it in New York?", ["New York"]),
        ("what  time is it right now in\nnew   york please", ["new york"]),
        ("time in Tokyo and Berlin, or in Port-au-Prince.", ["Tokyo", "Berlin", "Port-au-Prince"]),
        ("What time is it in Europe/Berlin and what is 2+2?", ["Europe/Berlin"]),
        ("The time in Tokyo. And the time in Berlin!", ["Tokyo", "Berlin"]),
        ("time in Tokio, please", ["Tokio"]),
        ("time in a bottle that I found", ["a bottle that I"]),
        ("time in Tokyo, Berlin, Paris, Rome", ["Tokyo", "Berlin", "Paris"]),
        ("what time is it?", ["UTC"]),
        ("What's the time", ["UTC"]),
        ("what is the time signature of this", []),
        ("I lost time.", []),
        ("time in .", []),
    ],
)
def test_places_are_found(text: str, places: list[str]) -> None:
    assert find_places(text) == places


@settings(deadline=None)  # the first call reads the time zones
@given(
    st.text(max_size=RULES_CHARACTERS)
    | st.text(alphabet="time in,and12+(-*) .", max_size=RULES_CHARACTERS)
)
def test_any_text_is_searched(text: str) -> None:
    assert len(find_expressions(text)) <= 3
    assert len(find_places(text)) <= 3
