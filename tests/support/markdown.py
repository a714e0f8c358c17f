"""The pages of the documentation, parsed: fenced blocks, tables, headings, links.

rows = table_of(DOCS / "protocol.md", "Close code")
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from attrs import frozen
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

Table = list[list[str]]
"""Rows of cells; the first row is the heading."""


@frozen
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The first word of the info string."""
        return self.info.partition(" ")[0]

    @property
    def about(self) -> str:
        """The info string after its first word."""
        return self.info.partition(" ")[2]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens_of(page: Path) -> list[Token]:
    """Return the tokens of a page."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


TOKENS = {page: tokens_of(page) for page in PAGES}


def blocks_of(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page."""
    for token in TOKENS[page]:
        if token.type == "fence" and token.map is not None:
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(language: str) -> list[Block]:
    """Return the fenced blocks of every page in one language."""
    return [block for block in BLOCKS if block.language == language]


def tables_in(tokens: list[Token]) -> list[Table]:
    """Return the tables among these tokens."""
    tables: list[Table] = []
    in_cell = False
    for token in tokens:
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in {"th_open", "td_open"}:
            in_cell = True
        elif token.type == "inline" and in_cell:
            tables[-1][-1].append(token.content)
            in_cell = False
    return tables


def tables_of(page: Path) -> list[Table]:
    """Return the tables of a page."""
    return tables_in(TOKENS[page])


def only(tables: list[Table], *heading: str, where: str) -> Table:
    """Return the rows of the one table whose heading begins with these cells."""
    found = [table for table in tables if table[0][: len(heading)] == list(heading)]
    assert len(found) == 1, f"{where}: expected one table {heading}, got {len(found)}"
    return found[0][1:]


def table_of(page: Path, *heading: str) -> Table:
    """Return the rows of the one table of a page whose heading begins with these cells."""
    return only(tables_of(page), *heading, where=page.name)


def bare(cell: str) -> str:
    """Return a cell without the marks of code."""
    return cell.replace("`", "")


def text_of(token: Token) -> str:
    """Return the text of a heading."""
    return "".join(child.content for child in token.children or [] if child.type != "image")


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Return the level and the text of each heading of a page."""
    tokens = TOKENS[page] if page in TOKENS else tokens_of(page)
    return [
        (int(opening.tag[1:]), text_of(text))
        for opening, text in pairwise(tokens)
        if opening.type == "heading_open"
    ]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page."""
    return {slug(text) for _, text in headings_of(page)}


def section_of(page: Path, *path: str) -> list[Token]:
    """Return the tokens below a heading, up to the next one of its level or above.

    Args:
        page: The page.
        path: The heading, after the headings of the sections that it is in.
    """
    tokens = TOKENS[page]
    for heading in path:
        tokens = _below(tokens, heading)
        assert tokens, f"{page.name}: no section {' > '.join(path)}"
    return tokens


def _below(tokens: list[Token], heading: str) -> list[Token]:
    level = None
    found: list[Token] = []
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            if level is not None and int(token.tag[1:]) <= level:
                break
            if level is None and text_of(tokens[index + 1]) == heading:
                level = int(token.tag[1:])
        if level is not None:
            found.append(token)
    return found


def prose_of(tokens: list[Token]) -> str:
    """Return the text of paragraphs, list items and cells, without line breaks and link targets."""
    lines = (" ".join(token.content.split()) for token in tokens if token.type == "inline")
    return re.sub(r"\]\([^)]*\)", "]", " | ".join(lines))
