"""The lines that a user types, on a terminal or through a pipe.

    lines = LineInput(screen, History.open(os.environ))
    line = await lines.read()

On a terminal a line can be edited, and earlier ones are recalled, if Python has readline. A thread
reads: readline blocks, so it cannot run in the event loop. The thread cannot be interrupted: a read
that is cancelled goes on, and the next call gets its line.
"""

import contextlib
import fcntl
import math
import os
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import outcome
import trio

from netra_trio.cli.line_editor import HAS_READLINE, History, line_buffer
from netra_trio.cli.terminal import PROMPT, Screen

READ_BYTES = 64 * 1024  # of the input at once

_NO_COUNT = bytes(4)  # a C int

T = TypeVar("T")


class _Read(NamedTuple):
    """The end of a read.

    Attributes:
        result: What it returned or raised.
        ended_at: When, on the clock of `time.monotonic`.
    """

    result: outcome.Outcome[Any]
    ended_at: float


class LineInput:
    """Reads standard input; one task at a time.

    Args:
        screen: Where the prompt is shown.
        history: The lines that are recalled.
    """

    def __init__(self, screen: Screen, history: History) -> None:
        self._screen = screen
        self._history = history
        self._is_edited = HAS_READLINE and sys.stdin.isatty() and screen.stream.isatty()
        self._send, self._results = trio.open_memory_channel[_Read](1)
        self._is_reading = False
        self._discarded_at = -math.inf  # on the clock of `time.monotonic`
        self._lines: list[str] = []  # without a line editor: read, and not asked for yet
        self._rest = b""  # without a line editor: the beginning of a line
        self._has_ended = False

    @property
    def typed(self) -> str:
        """The text typed in the present line; empty for a pipe."""
        return line_buffer() if self._is_edited and self._is_reading else ""

    def discard(self) -> bool:
        """Discard the lines that were typed on a terminal and not read; a pipe keeps its lines.

        The beginning of a line in the line editor stays: it is `typed`.

        Returns:
            Whether there was a line to discard.
        """
        if not sys.stdin.isatty():
            return False
        self._discarded_at = time.monotonic()  # also for a line that a thread is about to deliver
        has_lines = bool(self._lines or self._rest)
        self._lines.clear()
        self._rest = b""
        with contextlib.suppress(trio.WouldBlock):
            self._results.receive_nowait()
            self._is_reading = False
            self._screen.line_entered()
            has_lines = True
        with contextlib.suppress(OSError, termios.error):  # the terminal is gone: the read tells
            descriptor = sys.stdin.fileno()
            has_lines |= fcntl.ioctl(descriptor, termios.FIONREAD, _NO_COUNT) != _NO_COUNT
            termios.tcflush(descriptor, termios.TCIFLUSH)
        return has_lines

    async def read(self, *, is_kept: bool = True) -> str | None:
        """Return the next line, or None at the end of the input; cancelling loses nothing.

        Args:
            is_kept: Whether the line is recalled later.

        Raises:
            OSError: The input cannot be read.
        """
        if not self._is_edited:
            return await self._read_plain()
        # A line editor that is waiting already has shown its prompt.
        self._screen.prompt(typed=line_buffer() if self._is_reading else None)
        try:
            line = await self._result_of(partial(input, PROMPT))
        except EOFError:
            return None
        self._screen.line_entered()
        (self._history.keep if is_kept else self._history.forget)(line)
        return line

    async def _read_plain(self) -> str | None:
        """Return a line of a pipe, or of a terminal without a line editor.

        The thread reads the descriptor: a thread that holds Python's own stdin when the program
        ends would crash the interpreter.
        """
        self._screen.prompt()
        while not self._lines and not self._has_ended:
            data = await self._result_of(partial(os.read, sys.stdin.fileno(), READ_BYTES))
            *lines, rest = (self._rest + data).split(b"\n")
            self._has_ended = not data
            if self._has_ended and rest:
                lines, rest = [rest], b""
            self._rest = rest
            encoding = sys.stdin.encoding or "utf-8"
            self._lines += [line.decode(encoding, errors="replace") for line in lines]
        self._screen.line_entered()
        return self._lines.pop(0) if self._lines else None

    async def _result_of(self, read: Callable[[], T]) -> T:
        while True:
            if not self._is_reading:
                self._is_reading = True
                self._start(read)
            end = await self._results.receive()
            self._is_reading = False
            if end.ended_at >= self._discarded_at:
                result: T = end.result.unwrap()
                return result

    def _start(self, read: Callable[[], object]) -> None:
        token = trio.lowlevel.current_trio_token()

        def deliver(result: outcome.Outcome[object]) -> None:
            end = _Read(result, time.monotonic())
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._send.send_nowait, end)

        trio.lowlevel.start_thread_soon(read, deliver, "line input")
