"""The output of the chat, on a terminal or through pipes.

    screen = Screen(sys.stdout)
    screen.answer("Hel")
    screen.note("Not connected.")   # in a line of its own
    screen.answer("lo")

On a terminal there are colours (unless NO_COLOR is set or TERM is `dumb`) and a prompt, and control
characters from outside are removed: they could rewrite the screen. A pipe gets plain text.
"""

import contextlib
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from attrs import define

from netra_trio.cli.line_editor import line_buffer

PROMPT = "> "

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_REMOVED = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})


@define
class Screen:
    """The output.

    Args:
        stream: The stream to write to.
    """

    stream: TextIO
    _is_inside: bool = False  # a line that has begun and not ended
    _is_prompting: bool = False  # that line shows the prompt

    def answer(self, text: str) -> None:
        """Show a piece of text, directly after the piece before."""
        self._leave_prompt()
        self._write(self._cleaned(text))

    def note(self, text: str) -> None:
        """Show a line of information."""
        self._line(text, _DIM)

    def fault(self, text: str) -> None:
        """Show a line about an error."""
        self._line(text, _RED)

    def end(self) -> None:
        """End the line, if one has begun."""
        if self._is_inside:
            self._write("\n")

    def prompt(self, typed: str | None = "") -> None:
        """Show the prompt, on a terminal.

        Args:
            typed: What is typed already; None if the line editor shows the prompt itself.
        """
        if self.stream.isatty():
            self.end()
            self._write("" if typed is None else PROMPT + typed)
            self._is_inside = self._is_prompting = True

    def line_entered(self) -> None:
        """Note that a line was typed, which ended the line of the prompt."""
        if self._is_prompting:
            self._is_inside = self._is_prompting = False

    def interrupted(self) -> None:
        """Note that Ctrl-C was typed: a terminal shows it in the present line."""
        if self.stream.isatty():
            self._is_inside, self._is_prompting = True, False

    def _line(self, text: str, colour: str) -> None:
        was_prompting = self._is_prompting
        self._leave_prompt()
        self.end()
        text = self._cleaned(text)
        self._write(f"{colour}{text}{_PLAIN}\n" if self._has_colours else f"{text}\n")
        if was_prompting:
            self.prompt(line_buffer())

    def _leave_prompt(self) -> None:
        if self._is_prompting:
            self._is_prompting = False
            self.end()

    def _cleaned(self, text: str) -> str:
        return text.translate(_REMOVED) if self.stream.isatty() else text

    @property
    def _has_colours(self) -> bool:
        is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.stream.isatty() and not is_plain

    def _write(self, text: str) -> None:
        if text:
            self._is_inside = not text.endswith("\n")
            self.stream.write(text)
            self.stream.flush()


@contextmanager
def restored_terminal() -> Iterator[None]:
    """Restore the settings of the terminal, which an abandoned line editor has changed."""
    settings = None
    with contextlib.suppress(termios.error, OSError, ValueError):
        settings = termios.tcgetattr(sys.stdin.fileno())
    try:
        yield
    finally:
        if settings is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, settings)
