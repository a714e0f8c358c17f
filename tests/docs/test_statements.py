"""Statements in prose, on any page: defaults, missing features, close codes, references."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.markdown import (
    DOCS,
    PAGES,
    ROOT,
    TOKENS,
    bare,
    headings_of,
    prose_of,
    section_of,
    slug,
    tables_of,
)

from netra_trio.config.capabilities import features
from netra_trio.config.settings import TABLE, Settings
from netra_trio.protocol.codes import CloseCode, EndReason

PROTOCOL = DOCS / "protocol.md"
DEFAULTS = {row.env: getattr(Settings(), name) for name, row in TABLE.items()}


# Defaults.

UNITS = {"s": 1000, "second": 1000, "minute": 60_000, "KiB": 1024, "MiB": 1024 * 1024}
"""The size of one unit, in the unit of the setting; 1 for any other."""

AMOUNT = r"(?P<digits>\d[\d ,]*)(?: (?P<unit>[A-Za-z]+))?"
BESIDE = (  # a default beside the name of its setting
    re.compile(rf"`(?P<name>[A-Z][A-Z_]+)` \({AMOUNT}\)"),
    re.compile(rf"\(`(?P<name>[A-Z][A-Z_]+)`, {AMOUNT}\)"),
    re.compile(rf"{AMOUNT} \(`(?P<name>[A-Z][A-Z_]+)`\)"),
)


def stated_defaults() -> Iterator[tuple[str, str, str, int]]:
    """Find where a page gives the default of a setting: page, text, setting and amount."""
    for page in PAGES:
        text = prose_of(TOKENS[page])
        for pattern in BESIDE:
            for match in pattern.finditer(text):
                if match["name"] in DEFAULTS:
                    digits, unit = match["digits"], match["unit"] or ""
                    factor = UNITS.get(unit, UNITS.get(unit.removesuffix("s"), 1))
                    if match["name"].endswith("_SECONDS"):
                        factor //= UNITS["second"]
                    number = int(re.sub("[ ,]", "", digits)) * factor
                    yield page.name, match[0], match["name"], number


def test_a_default_beside_its_setting() -> None:
    found = list(stated_defaults())
    assert len(found) > 10
    assert [(page, text) for page, text, name, value in found if DEFAULTS[name] != value] == []


# Close codes.


def close_code_rows() -> Iterator[tuple[str, CloseCode, str]]:
    """Return page, code and text of each row about a close code."""
    for page in PAGES:
        for table in tables_of(page):
            for row in table[1:]:
                codes = [bare(cell) for cell in row[:2] if re.fullmatch(r"`?\d{4}`?", cell)]
                if codes and int(codes[0]) in list(CloseCode):
                    yield page.name, CloseCode(int(codes[0])), " ".join(row)


SENT = {reason.close_code for reason in EndReason}
UNSENT = re.compile(r"\b(?:not|never|does not)\b[^|]*\b(?:sen[dt]s?|used)\b")


def test_a_page_calls_a_close_code_unsent_only_if_it_is() -> None:
    rows = list(close_code_rows())
    assert {code for _, code, _ in rows} == set(CloseCode)
    wrong = [
        (page, code, text) for page, code, text in rows if code in SENT and UNSENT.search(text)
    ]
    assert wrong == []
    unsent = [text for page, code, text in rows if page == PROTOCOL.name and code not in SENT]
    assert len(unsent) == 1
    assert all(UNSENT.search(text) for text in unsent)


# Missing features.

ABSENT = re.compile(
    r"\b(?:not|no|never|nothing|nobody)\b[^.|]{0,60}\b(?:yet|today)\b"
    r"|\bnothing is replayed\b|\bsession is gone, and the runs\b"
    r"|connection ends: it ends `cancelled`",
    re.IGNORECASE,
)
STATES = (  # states of a conversation, and the page that lists missing features
    "not confirmed yet",
    "not taken yet",
    "no end yet",
    "no broker yet",
    "Not yet",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_says_that_something_is_missing(page: Path) -> None:
    """Missing features are listed in one place, the README, so that no page is left behind."""
    found = [match[0] for match in ABSENT.finditer(prose_of(TOKENS[page]))]
    assert [text for text in found if not text.endswith(STATES)] == []


def test_the_page_describes_what_the_features_promise() -> None:
    assert features(Settings())["resume"]
    assert "outlives its connection" in prose_of(section_of(PROTOCOL, "Sessions"))
    assert str(int(CloseCode.TAKEN_OVER)) in prose_of(section_of(PROTOCOL, "Resuming"))


# References from the source.

REFERENCE = re.compile(r"docs/([\w-]+)\.md(?:#([\w-]+)|, ([A-Z][\w ,:'.`-]*))?")
SOURCE_FOLDERS = ("netra_trio", "tests", "bench", "frontend/src", "frontend/pages", "deploy")
SUFFIXES = {".py", ".ts", ".tsx", ".conf", ".ini", ".service", ".yaml"}


def references() -> Iterator[tuple[str, re.Match[str]]]:
    """Find the references to pages in comments and docstrings, wrapped ones too."""
    for folder in SOURCE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in SUFFIXES or "node_modules" in path.parts:
                continue
            text = re.sub(r"\n\s*(?:#|//|\*)?\s*", " ", path.read_text(encoding="utf-8"))
            for match in REFERENCE.finditer(text):
                yield path.relative_to(ROOT).as_posix(), match


def test_every_reference_to_a_page_leads_to_a_heading() -> None:
    wrong = []
    for source, match in references():
        page, anchor, words = DOCS / f"{match[1]}.md", match[2], match[3]
        headings = [text for _, text in headings_of(page)] if page.exists() else []
        leads = (not anchor or anchor in map(slug, headings)) and (
            not words or words.startswith(tuple(headings))
        )
        if not headings or not leads:
            wrong.append((source, match[0]))
    assert wrong == []
