"""The output of the chat on a terminal and through a pipe."""

import io

import pytest
from support.logs import Terminal

from netra_trio.cli.terminal import Screen

CLEAR = "\x1b[2J"


@pytest.fixture(autouse=True)
def default_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_note_is_a_line_of_its_own() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.note("begins")
    screen.answer("Hel")
    screen.note("in between")
    screen.answer("lo\n")
    screen.fault("wrong")
    screen.answer("")
    screen.answer("end")
    screen.end()
    screen.end()
    assert out.getvalue() == "begins\nHel\nin between\nlo\nwrong\nend\n"


def test_a_terminal_has_colours_and_the_prompt_is_repeated() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.prompt()
    screen.note("news")
    assert out.getvalue() == "> \n\x1b[2mnews\x1b[0m\n> "
    screen.line_entered()
    screen.answer("after a typed line")
    screen.interrupted()
    screen.fault("stopped")
    assert out.getvalue().endswith("> after a typed line\n\x1b[31mstopped\x1b[0m\n")


def test_an_answer_at_the_prompt_ends_it() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.prompt()
    screen.answer("late")
    screen.note("news")
    assert out.getvalue() == "> \nlate\n\x1b[2mnews\x1b[0m\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", ""), ("TERM", "dumb")])
def test_no_colours(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    out = Terminal()
    Screen(out).note("plain")
    assert out.getvalue() == "plain\n"


def test_control_characters_are_removed_on_a_terminal() -> None:
    out, pipe = Terminal(), io.StringIO()
    for stream in (out, pipe):
        Screen(stream).answer(f"a{CLEAR}\tb\x9b2J\r\x07\nä€🙂")
    assert out.getvalue() == "a[2J\tb2J\nä€🙂"
    assert pipe.getvalue() == f"a{CLEAR}\tb\x9b2J\r\x07\nä€🙂"


def test_a_pipe_gets_no_prompt() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.prompt()
    screen.line_entered()
    screen.interrupted()
    screen.note("plain")
    assert out.getvalue() == "plain\n"
