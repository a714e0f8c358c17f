"""Coverage is paused during the tests that are marked as unmeasured, and for no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parents[1]
CODE = """
def first():
    return 1

def second():
    return 2

def third():
    return 3
"""
TESTS = """
import code_of_others
import pytest

def test_before():
    assert code_of_others.first() == 1

@pytest.mark.unmeasured
def test_marked():
    assert code_of_others.second() == 2

def test_after():
    assert code_of_others.third() == 3
"""


def test_a_marked_test_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "code_of_others.py").write_text(CODE)
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = unmeasured: no coverage\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    # Later Pythons have another way, which takes little time and is not paused.
    environ = {**kept, "PYTHONPATH": os.fspath(SUPPORT), "COVERAGE_CORE": "ctrace"}

    def coverage(*arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environ, check=True)  # noqa: S603

    coverage("run", "--source=.", "-m", "pytest", "-p", "support.unmeasured", "test_them.py")
    coverage("json", "-o", "coverage.json")
    files = json.loads((tmp_path / "coverage.json").read_text())["files"]
    functions = files["code_of_others.py"]["functions"]
    covered = {name for name, found in functions.items() if name and found["executed_lines"]}
    assert covered == {"first", "third"}
