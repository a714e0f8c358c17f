"""Tests that are marked as unmeasured, and their processes, are without coverage; no others are."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.unmeasured import is_measured, unmeasured_processes

SUPPORT = Path(__file__).parents[1]
CODE = """
def first():
    return 1

def second():
    return 2

def third():
    return 3

def in_a_process():
    return 4

def in_a_process_of_a_marked_test():
    return 5
"""
TESTS = """
import subprocess
import sys

import code_of_others
import pytest

def process(function):
    code = f"import code_of_others; code_of_others.{function}()"
    subprocess.run([sys.executable, "-c", code], check=True)

def test_before():
    assert code_of_others.first() == 1

@pytest.mark.unmeasured
def test_marked():
    assert code_of_others.second() == 2
    process("in_a_process_of_a_marked_test")

def test_after():
    assert code_of_others.third() == 3
    process("in_a_process")
"""
SETTINGS = """
[run]
source = .
parallel = true
patch = subprocess
"""


def test_the_variables_that_begin_coverage_tell_whether_a_process_is_measured() -> None:
    # `coverage run` sets it, and a marked test keeps it: once, the first server of such a test was
    # taken for a measured one, and all measured servers after it were its unmeasured forks.
    assert not is_measured({"COVERAGE_RUN": "true", "PATH": "/bin"})
    assert is_measured({"COVERAGE_RUN": "true", "COVERAGE_PROCESS_CONFIG": "{}"})
    with unmeasured_processes():
        assert not is_measured(os.environ)


def test_a_marked_test_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "code_of_others.py").write_text(CODE)
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / ".coveragerc").write_text(SETTINGS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = unmeasured: no coverage\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    # Later Pythons have another way, which takes little time and is not paused.
    environ = {**kept, "PYTHONPATH": os.fspath(SUPPORT), "COVERAGE_CORE": "ctrace"}

    def coverage(*arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environ, check=True)  # noqa: S603

    coverage("run", "-m", "pytest", "-p", "support.unmeasured", "test_them.py")
    coverage("combine")
    coverage("json", "-o", "coverage.json")
    files = json.loads((tmp_path / "coverage.json").read_text())["files"]
    functions = files["code_of_others.py"]["functions"]
    covered = {name for name, found in functions.items() if name and found["executed_lines"]}
    assert covered == {"first", "third", "in_a_process"}
