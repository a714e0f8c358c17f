"""References in the source: none to a numbered section, and none to a file that does not exist."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from support.markdown import ROOT

FOLDERS = (
    "netra_trio",
    "tests",
    "docs",
    "bench",
    "deploy",
    "frontend/src",
    "frontend/pages/admin",
    "frontend/pages/chat",
    "frontend/pages/shared",
)
SECTION = re.compile(
    r"(?<!RFC \d{4}, )\b(?:section|chapter|part|paragraph)s?[ \n]+\d|§", re.IGNORECASE
)
FILE = re.compile(r"(?<![\w/.<*{-])(?:[\w-]+/)*[\w-]+\.(?:md|py|tsx?|mjs|toml|ya?ml|conf)\b")
EXAMPLES = {"my_agents.py"}  # files of a user


def existing_files() -> set[str]:
    """Return the paths of the files of the project, and all ends of these paths."""
    paths = [path.name for path in ROOT.iterdir()]
    for folder in FOLDERS:
        paths += [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*")]
    ends: set[str] = set()
    for path in paths:
        parts = path.split("/")
        ends |= {"/".join(parts[start:]) for start in range(len(parts))}
    return ends


def texts_of(path: Path) -> Iterator[str]:
    """Yield the comments and docstrings of a module, and its other strings of several lines."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_text = token.type == tokenize.STRING and '"""' in token.string
        if is_text or token.type == tokenize.COMMENT:
            yield token.string


def modules() -> list[Path]:
    """Return the modules of the package."""
    found = sorted((ROOT / "netra_trio").rglob("*.py"))
    assert len(found) > 50
    return found


def test_no_module_refers_to_a_numbered_section() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), match[0])
        for path in modules()
        for text in texts_of(path)
        for match in SECTION.finditer(text)
    ]
    assert found == []


def test_no_module_refers_to_a_file_that_does_not_exist() -> None:
    files = existing_files() | EXAMPLES
    found = [
        (path.relative_to(ROOT).as_posix(), match[0])
        for path in modules()
        for text in texts_of(path)
        for match in FILE.finditer(text)
        if match[0] not in files
    ]
    assert found == []


def test_the_patterns_find_such_references() -> None:
    assert SECTION.search("the bound, section 4")
    assert not SECTION.search("RFC 6455, section 7.1.5")
    assert FILE.findall("see api.md, docs/agents.md and run.py") == [
        "api.md",
        "docs/agents.md",
        "run.py",
    ]
    assert "docs/agents.md" in existing_files()
    assert "api.md" not in existing_files()
