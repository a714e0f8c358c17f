"""The lines that are typed, and the history of the line editor."""

import io
import os
import pty
import readline
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from netra_trio.cli import line_editor, line_input
from netra_trio.cli.line_editor import LINE_CHARACTERS, LINES, History, line_buffer
from netra_trio.cli.line_input import LineInput
from netra_trio.cli.terminal import Screen

SECONDS = 10.0  # a bound on what hangs


@pytest.fixture(autouse=True)
def empty_history() -> Iterator[None]:
    readline.clear_history()
    yield
    readline.clear_history()


def recalled() -> list[str]:
    count = readline.get_current_history_length()
    return [str(readline.get_history_item(number + 1)) for number in range(count)]


def typed(history: History, *lines: str) -> None:
    for line in lines:
        readline.add_history(line)
        history.keep(line)


async def test_a_pipe_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = os.pipe()
    with open(there) as given:  # noqa: ASYNC230, PTH123 - a pipe
        monkeypatch.setattr("sys.stdin", given)
        lines = LineInput(Screen(io.StringIO()), History())
        os.write(here, "one\ntwö\nthr".encode())
        assert await lines.read() == "one"
        assert await lines.read() == "twö"
        with trio.move_on_after(0.05) as waiting:
            await lines.read()
        assert waiting.cancelled_caught
        assert lines.typed == ""
        # What the cancelled call has read is not lost.
        os.write(here, b"ee\n\nfour")
        assert await lines.read() == "three"
        assert await lines.read() == ""
        os.close(here)
        assert await lines.read() == "four"
        assert await lines.read() is None
        assert await lines.read() is None


async def test_lines_that_are_typed_ahead_on_a_terminal_are_discarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, slave = pty.openpty()
    with open(slave) as given:  # noqa: ASYNC230, PTH123 - a terminal
        monkeypatch.setattr("sys.stdin", given)
        lines = LineInput(Screen(io.StringIO()), History())
        assert not lines.discard()

        # In the buffer of the terminal, whether its line is complete or not.
        os.write(master, b"one\ntwo")
        assert select.select([given], [], [], SECONDS)[0]
        assert lines.discard()

        # Read by a thread, and not asked for yet.
        with trio.move_on_after(0.05):
            await lines.read()
        os.write(master, b"three\n")
        while not lines._results.statistics().current_buffer_used:  # noqa: ASYNC110 - no event
            await trio.sleep(0.01)
        assert lines.discard()
        assert not lines.discard()

        # Read by a thread, and not delivered yet: this task does not give way meanwhile.
        noted = threading.Event()
        clock = SimpleNamespace(monotonic=lambda: _note_thread(time.monotonic(), noted))
        monkeypatch.setattr(line_input, "time", clock)
        with trio.move_on_after(0.05):
            await lines.read()
        os.write(master, b"four\n")
        assert noted.wait(SECONDS)
        lines.discard()
        os.write(master, b"five\n")
        assert await lines.read() == "five"
    os.close(master)


def _note_thread(now: float, noted: threading.Event) -> float:
    """Return the time, and note that another thread has asked for it."""
    if threading.current_thread() is not threading.main_thread():
        noted.set()
    return now


async def test_a_terminal_that_is_gone_has_nothing_to_discard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master, slave = pty.openpty()
    with open(slave) as given:  # noqa: ASYNC230, PTH123 - a terminal
        monkeypatch.setattr("sys.stdin", given)
        lines = LineInput(Screen(io.StringIO()), History())
        monkeypatch.setattr(given, "isatty", lambda: True, raising=False)
        os.close(master)
        assert not lines.discard()


async def test_the_input_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with open(os.devnull) as given:  # noqa: ASYNC230, PTH123 - only its methods are used
        monkeypatch.setattr("sys.stdin", given)
        monkeypatch.setattr(given, "fileno", lambda: descriptor, raising=False)
        with pytest.raises(OSError, match="directory"):
            await LineInput(Screen(io.StringIO()), History()).read()
    os.close(descriptor)


def test_a_result_after_the_end_of_the_chat_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = os.pipe()
    with open(there) as given:  # noqa: PTH123 - a pipe
        monkeypatch.setattr("sys.stdin", given)

        async def leave() -> None:
            with trio.move_on_after(0.05):
                await LineInput(Screen(io.StringIO()), History()).read()

        trio.run(leave)
        os.write(here, b"too late\n")
        os.close(here)


# --- the history


def test_lines_are_recalled_in_the_next_chat(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    typed(History.open(environ), "one", "two words")
    file = tmp_path / "state" / "netra-trio" / "chat_history"
    assert file.read_text() == "one\ntwo words\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    readline.clear_history()
    history = History.open(environ)
    assert recalled() == ["one", "two words"]
    typed(history, "three")
    assert file.read_text() == "one\ntwo words\nthree\n"


def test_the_file_of_another_mode_is_closed_to_others(tmp_path: Path) -> None:
    file = tmp_path / "netra-trio" / "chat_history"
    file.parent.mkdir()
    file.touch(mode=0o644)
    History.open({"XDG_STATE_HOME": str(tmp_path)})
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_folder_of_the_user(tmp_path: Path) -> None:
    for environ in ({}, {"XDG_STATE_HOME": "relative"}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(tmp_path))
            history = History.open(environ)
        assert history.file == tmp_path / ".local" / "state" / "netra-trio" / "chat_history"


def test_the_number_of_lines_is_bounded(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    history = History.open(environ)
    assert history.file is not None
    typed(history, *(str(number) for number in range(LINES)))
    assert len(history.file.read_text().splitlines()) == LINES
    typed(history, "one more")
    kept = history.file.read_text().splitlines()
    assert (len(kept), kept[0], kept[-1]) == (LINES, "1", "one more")
    assert history.file.stat().st_mode & 0o777 == 0o600


def test_lines_that_are_not_kept(tmp_path: Path) -> None:
    history = History.open({"XDG_STATE_HOME": str(tmp_path)})
    assert history.file is not None
    longest = "x" * LINE_CHARACTERS
    typed(history, " begins with a blank", longest, longest + "x")
    readline.add_history("an answer")
    history.forget("an answer")
    history.forget("another line")
    history.forget("")
    history.keep("")
    history.keep("a line that the editor has not added")
    assert history.file.read_text().splitlines() == [longest]
    assert recalled() == [longest]


def test_a_library_without_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(readline, "append_history_file")
    history = History.open({"XDG_STATE_HOME": str(tmp_path)})
    assert history.file is not None
    typed(history, "one", "two")
    assert history.file.read_text().splitlines()[-2:] == ["one", "two"]


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "netra-trio").touch()
    history = History.open({"XDG_STATE_HOME": str(tmp_path)})
    assert history.file is None
    typed(history, "one")
    assert recalled() == ["one"]
    gone = History(tmp_path / "nowhere" / "file")
    typed(gone, "two")


def test_python_without_readline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_editor, "HAS_READLINE", False)
    history = History.open({})
    assert history.file is None
    history.forget("one")
    assert line_buffer() == ""
