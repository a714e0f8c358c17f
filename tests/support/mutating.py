"""Mutation testing: each mutant is applied to a copy of the project, and its tests have to fail.

    python -m support.mutating
    python -m support.mutating "end twice" "replay twice"

First the tests of all mutants have to pass without a mutant. The exit code is 1 if a mutant
survives, if its old text does not occur exactly once, or if its tests cannot be run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from hypothesis import HealthCheck, Phase, settings
from rich.console import Console
from rich.table import Table

from support.mutants import MUTANTS, ROOT, Mutant

WIDTH = 200  # characters of the table, if the output is not a terminal
TIMEOUT = 120.0  # seconds for the tests of one mutant

_COPIED = ("netra_trio", "tests", "docs", "pyproject.toml", "README.md")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", "page", "browser", "images")
_DETECTED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_OPTIONS = (
    *("-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # Without shrinking of examples, which would take a minute more.
    *("-p", "support.mutating", "--hypothesis-profile=mutants"),
)
_PASSED, _FAILED = 0, 1  # exit codes of pytest; any other is an error of the run


settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


@frozen
class Verdict:
    """The result of a mutant.

    Attributes:
        is_detected: Whether a test failed.
        text: The test that failed, or the reason.
        seconds: The time that the tests took.
    """

    is_detected: bool
    text: str
    seconds: float = 0.0


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the project into a temporary folder, for the block."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        root = Path(name)
        for part in _COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part, ignore=_LEFT_OUT)
            else:
                shutil.copy(ROOT / part, root / part)
        yield root


def try_mutant(mutant: Mutant, root: Path) -> Verdict:
    """Apply a mutant to a copy, run its tests, and revert it."""
    path = root / mutant.file
    before = path.read_bytes()
    started = time.monotonic()
    try:
        mutant.apply(root)
        code, output = run_tests(root, mutant.tests)
    except ValueError as error:
        return Verdict(is_detected=False, text=str(error))
    finally:
        path.write_bytes(before)
    seconds = time.monotonic() - started
    if code == _FAILED and (detected := _DETECTED.search(output)):
        return Verdict(is_detected=True, text=detected[1], seconds=seconds)
    text = "survives" if code == _PASSED else f"pytest ends with {code}:\n{output[-2000:]}"
    return Verdict(is_detected=False, text=text, seconds=seconds)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Run tests of a copy until one fails; return pytest's exit code (None: timeout) and output."""
    try:
        done = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "pytest", *_OPTIONS, *tests],
            cwd=root,
            env=_environ(root),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return None, f"nothing within {TIMEOUT:g} s"
    return done.returncode, done.stdout + done.stderr


def _environ(root: Path) -> dict[str, str]:
    """Return an environment in which the copy is imported, not the installed package."""
    measuring = ("COV_", "COVERAGE_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(measuring)}
    return {
        **kept,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",  # sources change within a second
    }


def check_copy(root: Path, mutants: Sequence[Mutant]) -> str | None:
    """Run the tests of a copy without a mutant; return an error if they do not pass."""
    where = subprocess.run(
        [sys.executable, "-c", "import netra_trio; print(netra_trio.__file__)"],
        cwd=root,
        env=_environ(root),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(where).is_relative_to(root):
        return f"the tests would be run against {where}"
    files = {name for mutant in mutants for name in mutant.tests if name.endswith(".py")}
    code, output = run_tests(root, sorted(files))
    return None if code == _PASSED else f"without a fault:\n{output[-2000:]}"


def main(names: Sequence[str]) -> int:
    """Try the mutants with these names, or all; print a table; return the exit code."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in chosen}:
        console.print(f"no such mutants: {', '.join(sorted(unknown))}", markup=False)
        return 1
    table = Table("mutant", "breaks", "detected by", "s")
    with copied() as root:
        if wrong := check_copy(root, chosen):
            console.print(wrong, markup=False)
            return 1
        verdicts = []
        for number, mutant in enumerate(chosen, start=1):
            console.print(f"[{number}/{len(chosen)}] {mutant.name}", markup=False)
            verdict = try_mutant(mutant, root)
            verdicts.append(verdict)
            style = None if verdict.is_detected else "red"
            text, seconds = verdict.text.removeprefix("tests/"), f"{verdict.seconds:.0f}"
            table.add_row(mutant.name, mutant.breaks, text, seconds, style=style)
    console.print(table)
    undetected = sum(not verdict.is_detected for verdict in verdicts)
    console.print(f"{len(chosen)} mutants, {undetected} of them not detected")
    return int(undetected > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
