"""Threads for the calls of a storage, which may block for long.

threads = StorageThreads()
data = await threads.run(path.read_bytes)
"""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar, TypeVarTuple

import trio

from netra_trio.errors import StorageUnavailable

THREADS = 32  # calls of one storage at once: others wait, and no other threads are used up

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class StorageThreads:
    """The threads of one storage.

    Args:
        is_inline: Whether functions are called in the calling thread, because none of them blocks
            for long. Then Trio's clock may be a virtual one, which does not wait for threads.
    """

    def __init__(self, *, is_inline: bool = False) -> None:
        self._is_inline = is_inline
        self._limiter = trio.CapacityLimiter(THREADS)

    async def run(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        """Call a function in a thread. Cancelling abandons the thread, which then ends by itself.

        Raises:
            StorageUnavailable: It raised an `OSError`.
        """
        try:
            if self._is_inline:
                await trio.lowlevel.checkpoint()
                return function(*args)
            return await trio.to_thread.run_sync(
                function, *args, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as error:
            raise StorageUnavailable(error.strerror or type(error).__name__) from error

    async def run_undoable(
        self, function: Callable[[], object], undo: Callable[[], object]
    ) -> None:
        """Call a function as `run` does; if it is abandoned, its thread calls `undo` at the end.

        So an effect of the function after this has returned is undone.
        """
        is_abandoned = threading.Event()

        def call() -> None:
            function()
            if is_abandoned.is_set():
                undo()

        try:
            await self.run(call)
        except trio.Cancelled:
            is_abandoned.set()
            raise


class Guarded(ABC):
    """Something that threads use, and that may be closed while they do.

    An abandoned thread closes it itself. If a file were closed under such a thread, its number
    could be that of another file when it is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._close_unless_used()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open in the block; used by one thread at a time."""
        try:
            with self._lock:
                yield
        finally:
            if self._is_closed:
                self._close_unless_used()

    @abstractmethod
    def close(self) -> None:
        """Close it, if it is open; called when no thread uses it."""

    def _close_unless_used(self) -> None:
        """Close it now, or leave it to the thread that uses it."""
        if self._lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._lock.release()


class OpenFile(Guarded):
    """A file.

    with OpenFile() as content:
        await threads.run(content.open, path)
        data = await threads.run(content.read, 0, 1024)
    """

    def __init__(self) -> None:
        super().__init__()
        self._descriptor: int | None = None

    def open(self, path: Path) -> None:
        """Open a file.

        Raises:
            OSError: It cannot be opened.
        """
        with self.in_use():
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`; none at the end, or if the file is closed."""
        with self.in_use():
            descriptor = self._descriptor
            return b"" if descriptor is None else os.pread(descriptor, size, start)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
