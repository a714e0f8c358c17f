"""Input and output of the chat, on a terminal or through pipes.

    screen = Screen(sys.stdout)
    screen.answer("Hel")
    screen.note("Not connected.")   # in a line of its own
    screen.answer("lo")

On a terminal there are colours (unless NO_COLOR is set or TERM is `dumb`) and a prompt, and control
characters from outside are removed: they could rewrite the screen. A pipe gets plain text.
"""

import os
import sys
from collections.abc import AsyncIterator
from typing import TextIO

import trio
from attrs import define

READ_BYTES = 64 * 1024  # of the input at once

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_PROMPT = "> "
_REMOVED = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})


@define
class Screen:
    """The output.

    Args:
        stream: The stream to write to.
    """

    stream: TextIO
    _is_inside: bool = False  # a line that has begun and not ended
    _is_prompting: bool = False  # the prompt stands in that line

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

    def prompt(self) -> None:
        """Show the prompt, on a terminal."""
        if self.stream.isatty():
            self.end()
            self._write(_PROMPT)
            self._is_prompting = True

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
            self.prompt()

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


async def typed_lines() -> AsyncIterator[str]:
    """Yield the lines of the input.

    The thread reads the descriptor: a thread that holds Python's own stdin when the program ends
    would crash the interpreter.
    """
    typed = b""
    while data := await trio.to_thread.run_sync(
        os.read, sys.stdin.fileno(), READ_BYTES, abandon_on_cancel=True
    ):
        *lines, typed = (typed + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if typed:
        yield typed.decode(errors="replace")
