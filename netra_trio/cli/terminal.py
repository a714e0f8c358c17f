"""A terminal, or a pipe: text that streams, lines between it, and what is typed.

    screen = Screen(sys.stdout)
    screen.answer("Hel")
    screen.note("Not connected.")   # on a line of its own
    screen.answer("lo")

On a terminal there are colours (not with NO_COLOR, nor where TERM is `dumb`) and a prompt, and no
control characters of somebody else's: they could rewrite what is on it. A pipe gets plain text.
"""

import os
import sys
from collections.abc import AsyncIterator
from typing import TextIO

import trio
from attrs import define

READ_BYTES = 64 * 1024  # of what is typed, at once

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_PROMPT = "> "
_UNSHOWN = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})


@define
class Screen:
    """What is shown.

    Args:
        stream: Where.
    """

    stream: TextIO
    _is_inside: bool = False  # a line that has begun and not ended
    _is_asking: bool = False  # the prompt is what stands in it

    def answer(self, text: str) -> None:
        """Show a piece of text, right behind the piece before."""
        self._leave_prompt()
        self._write(self._shown(text))

    def note(self, text: str) -> None:
        """Show a line about what goes on."""
        self._line(text, _DIM)

    def fault(self, text: str) -> None:
        """Show a line about what went wrong."""
        self._line(text, _RED)

    def end(self) -> None:
        """End the line, if there is one."""
        if self._is_inside:
            self._write("\n")

    def prompt(self) -> None:
        """Ask for a line, where somebody can see it."""
        if self.stream.isatty():
            self.end()
            self._write(_PROMPT)
            self._is_asking = True

    def heard(self) -> None:
        """Note that a line was typed: what it was typed in has ended it."""
        if self._is_asking:
            self._is_inside = self._is_asking = False

    def interrupted(self) -> None:
        """Note that Ctrl-C was typed: a terminal shows that, wherever it is."""
        if self.stream.isatty():
            self._is_inside, self._is_asking = True, False

    def _line(self, text: str, colour: str) -> None:
        was_asking = self._is_asking
        self._leave_prompt()
        self.end()
        text = self._shown(text)
        self._write(f"{colour}{text}{_PLAIN}\n" if self._has_colours else f"{text}\n")
        if was_asking:
            self.prompt()

    def _leave_prompt(self) -> None:
        if self._is_asking:
            self._is_asking = False
            self.end()

    def _shown(self, text: str) -> str:
        return text.translate(_UNSHOWN) if self.stream.isatty() else text

    @property
    def _has_colours(self) -> bool:
        is_dumb = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.stream.isatty() and not is_dumb

    def _write(self, text: str) -> None:
        if text:
            self._is_inside = not text.endswith("\n")
            self.stream.write(text)
            self.stream.flush()


async def typed_lines() -> AsyncIterator[str]:
    """Yield what is typed, line by line.

    The thread reads the descriptor itself: one that holds Python's own stdin when the program
    leaves would end it with a crash.
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
