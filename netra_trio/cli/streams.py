"""Standard input and output as Unix programs use them: closed, full, or in another encoding.

    prepare()
    print("hello")
    finish()   # raises OutputError where the text could not be written

A program may be started with closed descriptors. They are replaced with ones that fail, so that no
socket takes their place. Text that the encoding of the output lacks is replaced.
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

_STANDARD = (  # each descriptor, and how to open the null device so that its use fails
    (0, os.O_WRONLY),
    (1, os.O_RDONLY),
    (2, os.O_RDONLY),
)


class OutputError(OSError):
    """Standard output could not be written."""


class _CheckedFile(io.FileIO):
    """A file whose write errors can be told from the errors of sockets and other files."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from None


def prepare() -> None:
    """Open what is closed, and let write errors of standard output be `OutputError`.

    Does nothing with streams that were replaced, for example by a test.
    """
    for descriptor, flags in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - a descriptor
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A stream that was read already, by the program that called this, stays as it is.
        with contextlib.suppress(io.UnsupportedOperation):
            sys.stdin.reconfigure(errors="replace")
    if sys.stdout is sys.__stdout__:
        sys.stdout = _checked(sys.stdout)
    if sys.stderr is None:
        # Without a buffer: a buffer that cannot be written fails again when Python exits.
        raw: Any = _CheckedFile(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=True)


def finish() -> None:
    """Write what is buffered.

    Raises:
        OutputError: It could not be written.
    """
    sys.stdout.flush()


def report(text: object) -> None:
    """Write a line to standard error, if that is possible."""
    with contextlib.suppress(OSError):
        # In one write, so that no line of the log comes before its end.
        print(f"{text}\n", end="", file=sys.stderr, flush=True)  # noqa: T201 - a command's own output


def discard() -> None:
    """Let buffered output go nowhere, so that the interpreter does not report it at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _checked(stream: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_CheckedFile(1, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="replace",
        line_buffering=stream is not None and stream.isatty(),
        write_through=isinstance(stream, io.TextIOWrapper) and stream.write_through,
    )
