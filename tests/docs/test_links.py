"""The links of the documentation lead somewhere, and every page is listed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.markdown import DOCS, PAGES, TOKENS, anchors_of


def links_of(page: Path) -> Iterator[str]:
    for token in TOKENS[page]:
        for child in token.children or []:
            target = child.attrGet("src" if child.type == "image" else "href")
            if child.type in {"link_open", "image"} and isinstance(target, str):
                yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    broken = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_broken = not target.exists() or (anchor and anchor not in anchors_of(target))
        if is_broken:
            broken.append(link)
    assert broken == []


def test_every_page_is_listed() -> None:
    index = DOCS / "index.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links_of(index)}
    assert {page for page in PAGES[1:] if page != index} - listed == set()
