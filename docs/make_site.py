"""Build the documentation as a site: stage the pages, run Sphinx, check every link.

python docs/make_site.py site --mermaid mermaid.min.js

Pages outside of this folder that the documentation links to become pages of the site too. The API
reference is generated from docstrings. Every warning is an error.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OUTSIDE = {  # pages of the repository, by their names on the site
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "benchmark.md",
    "frontend/README.md": "frontend.md",
}
MODULES = {  # modules that programs and extensions of the server import
    "netra_trio.server.application": "The application",
    "netra_trio.agents.run": "Runs of agents",
    "netra_trio.aio.agent": "Agents for asyncio",
    "netra_trio.aio.run": "Runs of agents for asyncio",
    "netra_trio.client": "The client",
    "netra_trio.testing": "The test kit",
    "netra_trio.config.settings": "Settings",
    "netra_trio.errors": "Exceptions",
    "netra_trio.protocol.codes": "Codes",
    "netra_trio.protocol.messages": "Messages",
    "netra_trio.protocol.problem": "Errors of the protocol",
    "netra_trio.stores.base": "Interface of a store",
    "netra_trio.stores.memory": "The store in memory",
    "netra_trio.stores.sql.store": "The store in a database",
    "netra_trio.transports.base": "Interface of a transport",
    "netra_trio.telemetry.instruments": "Interface of an instrument",
    "netra_trio.telemetry.logs": "Logs",
    "netra_trio.server.run": "The process",
    "netra_trio.server.hypercorn.install": "Hypercorn's command",
}
SECTIONS = {  # the navigation; a page in none of them is listed under "More"
    "Tutorial": ("getting-started",),
    "How to": (
        *("agents", "agents-pydantic-ai", "agents-langgraph", "agents-openai", "agents-adk"),
        *("models", "rooms", "unattended", "client", "testing"),
        *("doors", "doors-events", "doors-openai", "doors-vercel", "doors-ag-ui"),
        *("react-vite", "react", "chat-page"),
        *("deployment", "scaling", "admin", "troubleshooting", "stores"),
    ),
    "Reference": ("settings", "protocol", "errors", "logs", "metrics", "traces", "api/index"),
    "Explanation": ("architecture", "threat-model", "performance"),
    "The project": ("readme", "contributing", "changelog", "benchmark", "frontend"),
}
DRAWINGS = """\
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
mermaid.initialize({ startOnLoad: true, theme: isDark ? "dark" : "default" });
"""
ALLOWED_SCHEMES = {"http", "https", "mailto"}


def stage(folder: Path) -> None:
    """Write the source files of the site into an empty folder."""
    for page in DOCS.rglob("*"):
        if page.is_file() and page.suffix in {".md", ".png", ".yaml", ".svg"}:
            _write(folder / page.relative_to(DOCS), page)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    for name, page_name in OUTSIDE.items():
        _write(folder / page_name, ROOT / name)
    (folder / "conf.py").write_text((DOCS / "conf.py").read_text())
    _stage_reference(folder / "api")
    _add_navigation(folder)


def _write(target: Path, source: Path) -> None:
    """Copy a file; rewrite the links of a page for the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".md":
        shutil.copyfile(source, target)
        return

    def rewrite(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        if not path or urlsplit(path).scheme:
            return match[0]
        there = (source.parent / path).resolve()
        return f"]({_on_site(there)}{mark}{anchor})"

    target.write_text(re.sub(r"\]\(([^)\s]+)\)", rewrite, source.read_text()))


def _on_site(path: Path) -> str:
    """Return the path of a file of the repository on the site, from its top."""
    name = path.relative_to(ROOT).as_posix()
    return OUTSIDE.get(name, name.removeprefix("docs/"))


def _stage_reference(folder: Path) -> None:
    folder.mkdir()
    entries = "\n".join(MODULES)
    (folder / "index.md").write_text(
        "# API reference\n\nThe modules that programs import, from their docstrings.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )
    for name, title in MODULES.items():
        heading = f"{title}: {name}"
        (folder / f"{name}.rst").write_text(
            f"{heading}\n{'=' * len(heading)}\n\n.. automodule:: {name}\n   :members:\n"
        )


def _add_navigation(folder: Path) -> None:
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in SECTIONS.items()
    ]
    listed = {page for pages in SECTIONS.values() for page in pages}
    new = [page for page in sorted(folder.glob("*.md")) if page.stem not in {*listed, "index"}]
    if new:
        names = "\n".join(page.stem for page in new)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: More\n\n{names}\n```\n")
    index = folder / "index.md"
    index.write_text(f"{index.read_text()}\n" + "\n".join(trees))


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the links and the anchors of a tag."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in {"href", "src"} and value:
                self.links.append(value)


def dead_links(site: Path) -> Iterator[str]:
    """Find links to missing pages and anchors; of external links only the form is checked."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme not in ALLOWED_SCHEMES or not (parts.netloc or parts.path):
                    yield f"{path.relative_to(site)}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set()
            is_there = target.exists() and (not parts.fragment or target.suffix != ".html")
            if not is_there and unquote(parts.fragment) not in anchors:
                yield f"{path.relative_to(site)}: {link}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; return the exit code."""
    reading = argparse.ArgumentParser(description="Build the documentation as a site.")
    reading.add_argument("out", type=Path, help="the folder of the site; its contents are replaced")
    reading.add_argument(
        "--mermaid", type=Path, required=True, help="the script that renders diagrams"
    )
    asked = reading.parse_args(arguments)
    shutil.rmtree(asked.out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.mkdir()
        stage(source)
        static = source / "_static"
        static.mkdir()
        shutil.copyfile(asked.mermaid, static / "mermaid.min.js")
        (static / "drawings.js").write_text(DRAWINGS)
        sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
        done = subprocess.run(  # noqa: S603 - Sphinx of this environment
            [*sphinx, "-d", f"{name}/doctrees", str(source), str(asked.out)], check=False
        )
    if done.returncode != 0:
        return done.returncode
    dead = list(dead_links(asked.out.resolve()))
    print("\n".join(["dead links:", *dead]) if dead else f"The site is in {asked.out}.")
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main())
