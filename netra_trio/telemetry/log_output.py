"""The output of log lines: it never blocks the caller, and counts the lines that it drops.

    output = LogOutput(render)
    output.open(sys.stderr)
    output.write(line)

A stream with a file descriptor may block: a pipe without a reader, a stopped terminal, a slow disk.
A thread writes to it, from a queue of `QUEUE_LINES`. While the queue is full, lines are dropped and
counted. Other streams are in memory, and are written at once.
"""

import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TextIO

import structlog

QUEUE_LINES = 2048  # a second of a busy server; at most 32 MiB, if all are long tracebacks
BATCH_LINES = 64  # that wait before they are written early
BATCH_SECONDS = 0.02  # that a line waits for others: a write costs more than rendering a line
FLUSH_SECONDS = 0.5  # that an exit waits for an output that accepts nothing

_log = structlog.get_logger(__name__)

Line = str | dict[str, Any]
"""A rendered line, or an event with immutable values that is rendered when it is written."""


class LogOutput:
    """Writes lines to one stream, from any thread.

    Args:
        render: Renders an event as one line; called in the writing thread.

    Attributes:
        dropped: The number of lines that were not written.
    """

    def __init__(self, render: Callable[[dict[str, Any]], str]) -> None:
        self.dropped = 0
        self._render = render
        self._stream: TextIO | None = None
        self._writer: _Writer | None = None
        self._reported = 0  # of the dropped lines
        self._lock = threading.RLock()  # reentrant: writing may cause a warning, which is logged

    def open(self, stream: TextIO | None) -> None:
        """Write to this stream from now on; None discards all lines."""
        self.flush()
        self._stream = stream
        self.restart()

    def write(self, line: Line, *, at_once: bool = True) -> None:
        """Write a line, or drop it if the output is too slow; never blocks.

        Args:
            line: The line.
            at_once: Whether it is written without waiting for further lines.
        """
        writer, stream = self._writer, self._stream
        if stream is None:
            return
        if writer is None:
            with self._lock:
                self._emit(stream, [line])
        elif not writer.put(line, at_once=at_once):
            if writer.is_current_thread:
                self._emit(stream, [line])  # the report of dropped lines, while the queue is full
            else:
                self._drop(1)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all waiting lines are written; return whether they were, in this time."""
        return self._writer is None or self._writer.flush(seconds)

    def restart(self) -> None:
        """Use a new thread: for a new stream, and in the child of a fork, which has no threads."""
        if self._writer is not None:
            self._writer.stop()
        stream = self._stream
        if stream is None or not _has_descriptor(stream):
            self._writer = None
            return

        def emit(lines: Sequence[Line]) -> None:
            if self._emit(stream, lines):
                self._report_dropped()

        self._reported = self.dropped
        self._writer = _Writer(emit)

    def _emit(self, stream: TextIO, lines: Sequence[Line]) -> bool:
        """Write lines to a stream; return whether it accepted them."""
        try:
            texts = [each if isinstance(each, str) else self._render(each) for each in lines]
            _write(stream, "\n".join([*texts, ""]))
        except Exception:
            # The reader has exited, the file is closed, the disk is full: there is no other output
            # to report it to, and the server goes on without its log.
            self._drop(len(lines))
            return False
        return True

    def _drop(self, lines: int) -> None:
        with self._lock:
            self.dropped += lines

    def _report_dropped(self) -> None:
        lines = self.dropped - self._reported
        if lines:
            self._reported += lines
            _log.warning("lines_dropped", lines=lines)


class _Writer:
    """A thread that writes the lines of a queue in batches.

    Args:
        emit: Writes lines; may block, and raises nothing.
    """

    def __init__(self, emit: Callable[[Sequence[Line]], None]) -> None:
        self._emit = emit
        self._queue: SimpleQueue[Line | threading.Event | None] = SimpleQueue()
        self._has_batch = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_current_thread(self) -> bool:
        """Whether this is called in the writing thread."""
        return threading.current_thread() is self._thread

    def put(self, line: Line, *, at_once: bool) -> bool:
        """Queue a line; return whether there was room for it."""
        waiting = self._queue.qsize()
        if waiting >= QUEUE_LINES:
            return False
        self._queue.put(line)
        if self._thread is None:
            self._start()
        if at_once or waiting == BATCH_LINES:
            self._has_batch.set()
        return True

    def flush(self, seconds: float) -> bool:
        """Wait until the queued lines are written; return whether they were, in this time."""
        if self._thread is None:
            return True
        written = threading.Event()
        self._queue.put(written)
        self._has_batch.set()
        return written.wait(seconds)

    def stop(self) -> None:
        """End the thread when it has written the queued lines."""
        self._queue.put(None)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="log output", daemon=True)
            # It cannot start while the interpreter shuts down: then the line is lost.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        is_stopped = False
        while not is_stopped:
            batch = [self._queue.get()]
            if isinstance(batch[0], str | dict):
                self._has_batch.wait(BATCH_SECONDS)
            self._has_batch.clear()
            batch += [self._queue.get() for _ in range(self._queue.qsize())]
            lines = [each for each in batch if isinstance(each, str | dict)]
            if lines:
                self._emit(lines)
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()
            is_stopped = None in batch


def _has_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    if _has_descriptor(stream):
        _write_bytes(stream.fileno(), text.encode(encoding, "replace"))
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _write_bytes(descriptor: int, data: bytes) -> None:
    """Write to a descriptor; the lock of a stream in use would block the interpreter's exit."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another program has made the shared descriptor non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
