"""The content of a file, in chunks.

async for chunk in Chunks(read, start=0, size=None):
    ...
"""

from collections.abc import Awaitable, Callable
from typing import Self

import trio

from netra_trio.files.base import CHUNK_BYTES


class Chunks:
    """Content that is read from one place after the other.

    Args:
        read: Returns up to a number of bytes from a position; none at the end.
        start: The first byte.
        size: How many bytes, at most; None for all that follow.
    """

    def __init__(
        self, read: Callable[[int, int], Awaitable[bytes]], start: int, size: int | None
    ) -> None:
        self._read = read
        self._at = start
        self._left = size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        wanted = CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left)
        data = await self._read(self._at, wanted) if wanted else b""
        if not data:
            raise StopAsyncIteration
        self._at += len(data)
        self._left = None if self._left is None else self._left - len(data)
        return data


def chunks_of(data: bytes) -> Chunks:
    """Return content that is in memory, in chunks."""

    async def read(start: int, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return data[start : start + size]

    return Chunks(read, 0, None)
