"""Finds questions for the calculator and the clock in a message.

>>> [question.text for question in find_questions("What is 2+2, and what time is it in Tokyo?")]
['2+2', 'Tokyo']
"""

import re
from collections.abc import Sequence
from itertools import islice

from attrs import frozen

from netra_trio.agents.demo.clock import find_zones

TOOL_CALLS = 3  # of each tool for one message; further questions are ignored
ZONE_WORDS = 4  # at most, of the name of a place: "Port of Spain" has three


@frozen
class Question:
    """A question for a tool."""

    tool: str
    text: str


def find_questions(text: str) -> Sequence[Question]:
    """Return the questions of a message for the calculator and the clock."""
    return [
        *(Question("calculator", expression) for expression in find_expressions(text)),
        *(Question("clock", zone) for zone in find_places(text)),
    ]


# Matches a sequence of tokens of arithmetic. The quantifiers are possessive (no backtracking), so
# that the time is linear in the length. A number must not touch a letter, a digit or a second
# point: neither "12x" nor "10.0.0.1" is matched.
_TOKENS = re.compile(
    r"""(?:
        (?<![\w.]) (?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++) (?:e[+-]?[0-9]++)?+ (?!\w|\.[0-9])
      | (?<!\w) (?:pi|tau|e) (?!\w)
      | (?<!\w) (?:sqrt|abs|round|min|max) \(
      | [-+*/%^×·÷−(),\s]
    )++""",  # noqa: RUF001 - as people type it
    re.VERBOSE | re.IGNORECASE,
)
_FUNCTION = re.compile(r"[a-z]\(")
_OPERATION = re.compile(r"[\w.)]\s*(?:\*\*|//|[-+*/%^×·÷−])[-+(\s]*[\w.]")  # noqa: RUF001 - as people type it
_DATE = re.compile(r"[0-9]+(?:[-/][0-9]+)+")  # or a telephone number, or 24/7
_ASKED = re.compile(r"(?i)\b(?:(?P<command>calculate|compute)|what is|what's|how much is)[\s:]*\Z")
_DASHES = re.compile(r"\A[^\w.(]*\s|[^\w.)]+\Z")  # around an expression: "well - 2+2 - no"
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


def find_expressions(text: str) -> Sequence[str]:
    """Return the arithmetic in a message, without dates and the like.

    >>> find_expressions("What is 12*(3+4)? And 1,000 / 8, by 2025-01-31?")
    ['12*(3+4)', '1000 / 8']
    """
    found = []
    for tokens in _TOKENS.finditer(text):
        asked = _ASKED.search(text[max(0, tokens.start() - 20) : tokens.start()])
        arithmetic = tokens[0].lower()
        has_function = _FUNCTION.search(arithmetic) is not None
        if not has_function:  # then a comma is punctuation, or separates thousands
            arithmetic = _THOUSANDS.sub("", arithmetic)
        for part in [arithmetic] if has_function else arithmetic.split(","):
            expression = _trimmed(part if asked is not None else _DASHES.sub("", part))
            if asked is not None and asked["command"]:
                is_meant = any(c.isalnum() for c in expression)
            elif asked is None and _DATE.fullmatch(expression):
                is_meant = expression == text.strip()
            else:
                is_meant = has_function or _OPERATION.search(expression) is not None
            if is_meant:
                found.append(expression)
    return list(dict.fromkeys(found))[:TOOL_CALLS]


def _trimmed(expression: str) -> str:
    """Remove the punctuation of the sentence, and unbalanced parentheses at an end."""
    expression = expression.strip(" \t\r\n,").rstrip(". ")
    surplus = expression.count(")") - expression.count("(")
    if surplus > 0 and expression.endswith(")" * surplus):
        return expression[:-surplus].rstrip()
    if surplus < 0 and expression.startswith("(" * -surplus):
        return expression[-surplus:].lstrip()
    return expression


_TIME = re.compile(
    r"(?i)\btime(?:\s(?:is\sit|it\sis|now|right\snow))*\sin\s(?=(?P<places>[^?!;:]{1,100}))"
)
_TIME_HERE = re.compile(r"(?i)\bwhat(?:'s|\sis)?\s(?:the\s)?time(?:\sis\sit|\sit\sis|\snow)*\W*\Z")
_BETWEEN_PLACES = re.compile(r",|&|\s(?:and|or)\s(?:in\s)?")


def find_places(text: str) -> Sequence[str]:
    """Return the places whose time a message asks for; UTC if it asks for no place.

    >>> find_places("What time is it in new york and Tokyo, and what is 2+2?")
    ['new york', 'Tokyo']
    """
    text = " ".join(text.split())
    found = []
    for match in islice(_TIME.finditer(text), TOOL_CALLS):
        first, *others = _BETWEEN_PLACES.split(match["places"])
        found.append(_place(first) or _words(first))  # if unknown, the clock suggests others
        found += filter(None, map(_place, others))  # unknown ones are not places
    if not found and _TIME_HERE.search(text):
        found.append("UTC")
    return list(dict.fromkeys(filter(None, found)))[:TOOL_CALLS]


def _place(text: str) -> str | None:
    """Return the longest beginning of a text that is a zone: of "Tokyo please", "Tokyo"."""
    beginnings = (_words(text, count) for count in range(ZONE_WORDS, 0, -1))
    return next(filter(find_zones, beginnings), None)


def _words(text: str, count: int = ZONE_WORDS) -> str:
    return " ".join(text.split()[:count]).strip(".")
