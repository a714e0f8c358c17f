"""The files of a run: those of its message, and those of its answer.

for attachment in run.attachments:
    async for chunk in attachment:
        ...
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol, Self

import trio

from netra_trio.errors import ContentMissing, FilesNotFound, StorageUnavailable
from netra_trio.files.base import CHUNK_BYTES
from netra_trio.files.chunks import chunks_of
from netra_trio.files.declared import ContradictedType, stored_type
from netra_trio.files.detection import HTML, SVG
from netra_trio.generators import closing
from netra_trio.ids import FileId, RunId, UserId
from netra_trio.protocol.binary import EVENT_DATA_BYTES, BinaryEvent
from netra_trio.protocol.fields import ATTACHMENTS
from netra_trio.protocol.messages import BinaryResult, ListedFile
from netra_trio.protocol.text import json_size
from netra_trio.stores.files import StoredFile

BINARY_RESULTS = 256  # of a run: docs/protocol.md, Files
READ_BYTES = 25 * 1024 * 1024  # of a file that is read whole, unless the agent says otherwise
WINDOW_BYTES = 16 * CHUNK_BYTES  # of a file in memory while it is iterated over


class FileAccess(Protocol):
    """The files of all users, as runs use them: `netra_trio.files.files.Files`."""

    async def find(self, user_id: UserId, file_id: FileId) -> StoredFile | None:
        """Return a file of a user; None if the user has none of this id."""
        ...

    async def upload(
        self,
        user_id: UserId,
        chunks: AsyncIterable[bytes],
        *,
        name: str = "",
        media_type: str | None = None,
    ) -> StoredFile:
        """Store a file of a user."""
        ...

    def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read the content of a file in chunks of at most `CHUNK_BYTES`."""
        ...


class Attachment:
    """A file of a message or of an answer.

    Iterating over it (`async for chunk in attachment`) reads its content in chunks of at most
    64 KiB; not more than 1 MiB of it is in memory. It may be iterated over several times, and the
    loop may be left at any time. Cancelling is always safe.

    Every way to read it raises `FilesNotFound` if the file was deleted meanwhile, with its thread,
    and `StorageUnavailable` if its content cannot be read now.

    Attributes:
        file_id: Its id.
        name: Its name, without a path; may be empty.
        media_type: Its type.
        bytes: Its size.
    """

    __slots__ = ("_access", "bytes", "file_id", "media_type", "name")

    def __init__(self, file: StoredFile, access: FileAccess) -> None:
        self._access = access
        self.file_id = file.file_id
        self.name = file.name
        self.media_type = file.media_type
        self.bytes = file.size

    def __repr__(self) -> str:
        return f"<Attachment {self.file_id} {self.name!r} {self.media_type} {self.bytes} bytes>"

    @asynccontextmanager
    async def open(
        self, start: int = 0, size: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read the content in one transfer; leaving the block ends it.

        Args:
            start: The first byte; there is no content at the end of the file, and behind it.
            size: How many bytes, at most; None for all that follow.

        Yields:
            An iterator over chunks of at most 64 KiB.

        Raises:
            ValueError: If `start` or `size` is negative.
        """
        if start < 0 or (size is not None and size < 0):
            raise ValueError("the first byte and the size are not negative")
        wanted = self._bytes_from(start, size)
        first = start if wanted else 0  # a storage refuses to begin at the end of a file
        try:
            async with self._access.read(self.file_id, start=first, size=wanted) as chunks:
                yield _WholeChunks(chunks, wanted)
        except ContentMissing:
            raise FilesNotFound([self.file_id]) from None

    def __aiter__(self) -> "ReadChunks":
        return ReadChunks(self.read, self.bytes)

    async def read(
        self, *, start: int = 0, size: int | None = None, limit: int = READ_BYTES
    ) -> bytes:
        """Return the content, or a part of it.

        Args:
            start: The first byte.
            size: How many bytes, at most; None for all that follow.
            limit: The maximum size of the returned content, in bytes.

        Raises:
            ValueError: If it is more, or `start` or `size` is negative.
        """
        wanted = self._bytes_from(start, size)
        if wanted > limit:
            raise ValueError(f"{self.file_id} has {wanted} bytes; at most {limit} are allowed")
        content = bytearray()
        async with self.open(start, size) as chunks:
            async for chunk in chunks:
                content += chunk
        return bytes(content)

    def _bytes_from(self, start: int, size: int | None) -> int:
        """Return how many of `size` bytes from `start` on there are."""
        left = max(0, self.bytes - start)
        return left if size is None else min(size, left)


class _WholeChunks:
    """Iterates over content that must not end early, as it does after a disk was restored.

    Args:
        chunks: The content.
        size: How many bytes it has.
    """

    __slots__ = ("_chunks", "_left")

    def __init__(self, chunks: AsyncIterator[bytes], size: int) -> None:
        self._chunks = chunks
        self._left = size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk. Cancelling is safe.

        Raises:
            StorageUnavailable: If there is none although bytes are missing.
        """
        chunk = await anext(self._chunks, b"")
        self._left -= len(chunk)
        if chunk:
            return chunk
        if self._left:
            raise StorageUnavailable(f"the last {self._left} bytes of the content are missing")
        raise StopAsyncIteration


class ReadChunks:
    """Iterates over the content of a file, in chunks of at most `CHUNK_BYTES`.

    No transfer is open while a chunk is used, because a loop that is left early would not end it.

    Args:
        read: Reads a part of the content.
        size: The bytes of the content.
    """

    __slots__ = ("_at", "_read", "_size", "_window", "_window_at")

    def __init__(self, read: "ReadPart", size: int) -> None:
        self._read = read
        self._size = size
        self._window = b""
        self._window_at = 0  # the first byte of it
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk. Cancelling is safe."""
        if self._at >= self._size:
            raise StopAsyncIteration
        if self._at >= self._window_at + len(self._window):
            self._window = await self._read(start=self._at, size=WINDOW_BYTES)
            self._window_at = self._at
        at = self._at - self._window_at
        chunk = self._window[at : at + CHUNK_BYTES]
        self._at += len(chunk)
        return chunk


class ReadPart(Protocol):
    """Reads a part of a file."""

    async def __call__(self, *, start: int, size: int) -> bytes:
        """Return `size` bytes from the byte `start` on, or as many as there are."""
        ...


class Places:
    """A limited number of places for files; those of calls in progress count.

    Args:
        most: How many there are.
        full: The text of the error if none is left.
    """

    __slots__ = ("_full", "_left")

    def __init__(self, most: int, full: str) -> None:
        self._left = most
        self._full = full

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take a place for a file that is stored in the block; give it back if that fails.

        Raises:
            RuntimeError: If there is none left.
        """
        if not self._left:
            raise RuntimeError(self._full)
        self._left -= 1
        try:
            yield
        except BaseException:
            self._left += 1
            raise


def _attaching() -> Places:
    return Places(ATTACHMENTS, f"an answer has at most {ATTACHMENTS} attached files")


class RunFiles:
    """The files of one run, over all its attempts.

    Args:
        user_id: The user of the run.
        access: Finds, reads and stores files.
        received: The files of the message.

    Attributes:
        received: The files of the message.
        attaching: The places for files that are attached.
        sending: The places for files that are sent as events.
    """

    __slots__ = ("_access", "_answer", "_user_id", "attaching", "received", "sending")

    def __init__(
        self, user_id: UserId, access: FileAccess, received: Sequence[StoredFile] = ()
    ) -> None:
        self.received = [Attachment(file, access) for file in received]
        self._access = access
        self._user_id = user_id
        self._answer: list[tuple[StoredFile, bool]] = []  # and whether it was sent as an event
        self.attaching = _attaching()
        text = f"a run sends binary data at most {BINARY_RESULTS} times"
        self.sending = Places(BINARY_RESULTS, text)

    def begin_attempt(self) -> None:
        """Remove the files that an earlier attempt has attached; the client has the sent ones."""
        self._answer = [each for each in self._answer if each[1]]
        self.attaching = _attaching()

    @property
    def answer(self) -> tuple[ListedFile, ...]:
        """The files of the answer, as a client shows them."""
        return tuple(
            ListedFile(file.file_id, file.name, file.media_type, file.size)
            for file, _ in self._answer
        )

    async def find(self, file_id: FileId) -> Attachment:
        """Return a file of the user.

        Raises:
            FilesNotFound: If the user does not have it.
        """
        found = await self._access.find(self._user_id, file_id)
        if found is None:
            raise FilesNotFound([file_id])
        return Attachment(found, self._access)

    async def store(
        self, data: bytes | AsyncIterable[bytes], *, name: str, media_type: str | None
    ) -> StoredFile:
        """Store a file of the user; `add` makes it part of the answer.

        A given type is kept, unless `data` is bytes with an HTML page or an SVG. A generator is
        closed at the end.
        """
        if media_type is not None and not isinstance(data, AsyncIterable):
            media_type = await _type_of(media_type, data)
        chunks = data if isinstance(data, AsyncIterable) else chunks_of(data)
        async with closing(chunks):
            return await self._access.upload(
                self._user_id, chunks, name=name, media_type=media_type
            )

    def add(self, file: StoredFile, *, is_sent: bool) -> Attachment:
        """Make a file part of the answer."""
        self._answer.append((file, is_sent))
        return Attachment(file, self._access)


async def _type_of(given: str, data: bytes) -> str:
    """Return the type of content: the given one, unless a browser would run the content."""
    try:
        if len(data) <= CHUNK_BYTES:
            return stored_type(given, data)
        return await trio.to_thread.run_sync(stored_type, given, data)
    except ContradictedType as error:
        shown = str(error)
        return shown if shown in {HTML, SVG} else given


def binary_event(
    run_id: RunId, media_type: str, file: StoredFile, data: bytes
) -> tuple[BinaryResult | BinaryEvent, int]:
    """Return the event of binary data that was stored, and its size; large data is not in it."""
    result = BinaryResult(run_id, media_type, file.file_id, file.size)
    size = json_size(media_type)
    if file.size > EVENT_DATA_BYTES:
        return result, size
    return BinaryEvent(result, bytes(data)), size + file.size
