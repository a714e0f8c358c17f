"""Processes of this machine: what /proc and a signal tell about them."""

import os
import platform

import pytest

from netra_trio.stores.sql import processes
from netra_trio.stores.sql.processes import ProcessState, machine, state_of, this_process

ALIVE, GONE, UNKNOWN = ProcessState.ALIVE, ProcessState.GONE, ProcessState.UNKNOWN


class Proc:
    """A scripted /proc."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        files: dict[str, str],
        why: type[OSError] = FileNotFoundError,
    ) -> None:
        def path(name: str) -> "Proc.File":
            return Proc.File(files.get(name), why)

        monkeypatch.setattr(processes, "Path", path)

    class File:
        """A file that exists or not."""

        def __init__(self, content: str | None, why: type[OSError]) -> None:
            self._content = content
            self._why = why

        def read_text(self, **_: object) -> str:
            if self._content is None:
                raise self._why
            return self._content

        def readlink(self) -> str:
            return self.read_text()


FIELDS = " ".join(str(number) for number in range(4, 53))  # the value of each field is its number


@pytest.mark.parametrize("name", ["python", "a b", "a) R 1", ")", "(", "", ") Z 1 2 3", "\n", "é"])
def test_the_name_of_a_program_may_contain_anything(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Proc(monkeypatch, {"/proc/7/stat": f"7 ({name}) S {FIELDS}\n"})
    assert state_of("7 22") is ALIVE
    assert state_of("7 23") is GONE


@pytest.mark.parametrize(("state", "expected"), [("S", ALIVE), ("Z", GONE), ("X", GONE)])
def test_a_zombie_is_gone(
    monkeypatch: pytest.MonkeyPatch, state: str, expected: ProcessState
) -> None:
    Proc(monkeypatch, {"/proc/7/stat": f"7 (python) {state} {FIELDS}\n"})
    assert state_of("7 22") is expected


def test_without_a_start_time_a_process_with_the_same_id_may_be_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Proc(monkeypatch, {"/proc/7/stat": f"7 (python) S {FIELDS}\n"})
    assert state_of("7") is UNKNOWN


@pytest.mark.parametrize("process", ["7", "7 22"])
@pytest.mark.parametrize("why", [FileNotFoundError, PermissionError])  # hidepid=2, hidepid=1
@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, UNKNOWN), (PermissionError, UNKNOWN), (ProcessLookupError, GONE)],
)
def test_a_signal_finds_a_process_that_proc_does_not_show(
    monkeypatch: pytest.MonkeyPatch,
    process: str,
    why: type[OSError],
    error: type[OSError] | None,
    expected: ProcessState,
) -> None:
    signals: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        signals.append((pid, number))
        if error is not None:
            raise error

    Proc(monkeypatch, {"/proc/self/stat": "exists"}, why)
    monkeypatch.setattr(os, "kill", kill)
    assert state_of(process) is expected
    assert signals == [(7, 0)]


def test_this_process_is_found_with_its_start_time() -> None:
    pid, began = this_process().split()
    assert int(pid) == os.getpid()
    assert int(began) > 0
    assert this_process() == this_process()
    assert state_of(this_process()) is ALIVE


def test_without_a_start_time_this_process_is_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    Proc(monkeypatch, {})
    assert this_process() == str(os.getpid())


def test_a_machine_is_a_boot_and_a_process_id_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, namespace = "/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"
    Proc(monkeypatch, {boot: "a-boot\n", namespace: "pid:[1]"})
    assert machine() == "a-boot pid:[1]"
    Proc(monkeypatch, {boot: "a-boot\n", namespace: "pid:[2]"})
    assert machine() == "a-boot pid:[2]"
    Proc(monkeypatch, {})
    monkeypatch.setattr(platform, "node", lambda: "node")
    monkeypatch.setattr(platform, "system", lambda: "Other")
    assert machine() == "node Other"


def test_a_linux_that_does_not_tell_its_boot_is_no_other_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two containers without /proc/sys may have the same host name, and are not the same."""
    Proc(monkeypatch, {})
    monkeypatch.setattr(platform, "node", lambda: "localhost")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert machine() != machine()
