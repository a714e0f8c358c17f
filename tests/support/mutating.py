"""Do the tests see every mutant? Each is put into a copy of the project; its tests have to fail.

    python -m support.mutating
    python -m support.mutating "end twice" "replay twice"

First the tests of all of them have to pass without a fault. The exit code is 1 where a mutant
survives, where its old text is not there exactly once, or where its tests cannot be run.
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

WIDTH = 200  # characters of the table where nobody says how wide it may be
PATIENCE = 120.0  # seconds for the tests of one mutant, which take a few

_COPIED = ("netra_trio", "tests", "docs", "pyproject.toml", "README.md")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", "page", "browser", "images")
_SEEN = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_OPTIONS = (
    *("-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # What fails, and not the smallest example of it, which takes a minute more to be found.
    *("-p", "support.mutating", "--hypothesis-profile=mutants"),
)
_PASSED, _FAILED = 0, 1  # exit codes of pytest; anything else is a mistake of ours


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
    """What became of a mutant.

    Attributes:
        is_seen: Whether a test failed.
        told: Which test, or what is wrong.
        seconds: How long it took.
    """

    is_seen: bool
    told: str
    seconds: float = 0.0


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the project into a folder of its own, for as long as the block takes."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        root = Path(name)
        for part in _COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part, ignore=_LEFT_OUT)
            else:
                shutil.copy(ROOT / part, root / part)
        yield root


def try_mutant(mutant: Mutant, root: Path) -> Verdict:
    """Put a mutant into a copy, run its tests, and take it out again."""
    path = root / mutant.file
    before = path.read_bytes()
    started = time.monotonic()
    try:
        mutant.apply(root)
        code, output = run_tests(root, mutant.tests)
    except ValueError as error:
        return Verdict(is_seen=False, told=str(error))
    finally:
        path.write_bytes(before)
    seconds = time.monotonic() - started
    if code == _FAILED and (seen := _SEEN.search(output)):
        return Verdict(is_seen=True, told=seen[1], seconds=seconds)
    told = "survives" if code == _PASSED else f"pytest ends with {code}:\n{output[-2000:]}"
    return Verdict(is_seen=False, told=told, seconds=seconds)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Run tests of a copy until one fails; return pytest's exit code, None where it hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-m", "pytest", *_OPTIONS, *tests],
            cwd=root,
            env=_environ(root),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return None, f"nothing within {PATIENCE:g} s"
    return done.returncode, done.stdout + done.stderr


def _environ(root: Path) -> dict[str, str]:
    """Return an environment in which the copy is what is imported, whatever is installed."""
    measuring = ("COV_", "COVERAGE_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(measuring)}
    return {
        **kept,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",  # two changes within a second may have the same size
    }


def check_copy(root: Path, mutants: Sequence[Mutant]) -> str | None:
    """Return what is wrong with a copy without a fault: its tests have to be run, and to pass."""
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
    """Try the mutants of these names, or all; show a table; return the exit code."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in chosen}:
        console.print(f"no such mutants: {', '.join(sorted(unknown))}", markup=False)
        return 1
    table = Table("mutant", "breaks", "seen by", "s")
    with copied() as root:
        if wrong := check_copy(root, chosen):
            console.print(wrong, markup=False)
            return 1
        verdicts = []
        for number, mutant in enumerate(chosen, start=1):
            console.print(f"[{number}/{len(chosen)}] {mutant.name}", markup=False)
            verdict = try_mutant(mutant, root)
            verdicts.append(verdict)
            style = None if verdict.is_seen else "red"
            told, seconds = verdict.told.removeprefix("tests/"), f"{verdict.seconds:.0f}"
            table.add_row(mutant.name, mutant.breaks, told, seconds, style=style)
    console.print(table)
    unseen = sum(not verdict.is_seen for verdict in verdicts)
    console.print(f"{len(chosen)} mutants, {unseen} of them not seen")
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
