"""The app of `docs/react-vite.md`: its printed files, with the packed client, as a reader makes it.

folder = project()
npm(folder, "run", "build", VITE_SERVER="http://localhost:8000")
with running(folder, "node_modules/vite/bin/vite.js") as address:
    …
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.markdown import DOCS, ROOT, TOKENS
from support.node import KEPT_IN, node_program, npm_program, running_node

SECONDS = 300.0  # for one command; an installation may have to fetch packages
ALSO = ("sirv",)  # what the part about a server installs
QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--prefer-offline")

_ADDRESS = re.compile(r"http://(localhost:\d+)")


def printed_files(page: Path) -> dict[str, str]:
    """Return the text of each file that a page prints, by the file's path.

    The paragraph before a block names its file: the first one with the extension of its language.
    """
    files: dict[str, str] = {}
    names: list[str] = []
    for token in TOKENS[page]:
        if token.type == "inline":
            names = [one.content for one in token.children or [] if one.type == "code_inline"]
        elif token.type == "fence":
            own = [name for name in names if name.endswith(f".{token.info}")]
            if own:
                files[own[0]] = token.content
            names = []
    return files


def project() -> Path:
    """Return a folder with the printed files, and with the client and all packages installed.

    The packages stay there; the client is packed and installed, and the files are written, each
    time.
    """
    files = printed_files(DOCS / "react-vite.md") | printed_files(DOCS / "react.md")
    mark = hashlib.sha256(f"{ALSO} {files['package.json']}".encode()).hexdigest()[:16]
    folder = KEPT_IN / f"react-page-{mark}"
    KEPT_IN.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.is_dir() and old.name != "node_modules":
                shutil.rmtree(old)
            elif old.is_file():
                old.unlink()
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=folder) as packed:
            npm(ROOT / "frontend", "pack", f"--pack-destination={packed}")
            (archive,) = Path(packed).glob("*.tgz")
            npm(folder, "install", *QUIET, str(archive), *ALSO)
    return folder


def npm(folder: Path, *words: str, **environ: str) -> str:
    """Run npm in a folder, and return its output."""
    done = subprocess.run(  # noqa: S603 - a test's own command line
        [str(node_program()), str(npm_program()), *words],
        cwd=folder,
        env=_environ(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"npm {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running(folder: Path, *words: str, **environ: str) -> Iterator[str]:
    """Run a program of Node during the block; yield the address that it prints."""
    with running_node(words, folder, _environ(environ)) as output:
        yield output.wait_for(_printed_address)


def _printed_address(lines: list[str]) -> str | None:
    found = [match for match in map(_ADDRESS.search, lines) if match is not None]
    return found[0][1] if found else None


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    path = f"{node_program().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "NO_COLOR": "1", **environ}
