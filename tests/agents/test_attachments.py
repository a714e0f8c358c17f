"""Reading the files of a message: whole, in parts, in chunks; bounds, deletion and cancellation."""

from collections.abc import AsyncIterable

import pytest
import trio
from support.kept_files import KeptFiles

from netra_trio.agents.attachments import WINDOW_BYTES, Attachment
from netra_trio.errors import FilesNotFound, StorageUnavailable
from netra_trio.files.base import CHUNK_BYTES

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
LARGE = [WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1, 2 * WINDOW_BYTES + 7]


def content(size: int) -> bytes:
    """Return bytes of which no two parts are equal."""
    return b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]


def attached(data: bytes) -> tuple[Attachment, KeptFiles]:
    files = KeptFiles()
    return Attachment(files.put(data, "a.txt"), files), files


async def exhaust(chunks: AsyncIterable[bytes], received: list[bytes] | None = None) -> None:
    """Read content to its end, and note its chunks."""
    async for chunk in chunks:
        if received is not None:
            received.append(chunk)


def test_it_has_what_is_known_of_the_file() -> None:
    attachment, files = attached(b"hello")
    [file_id] = files.files
    found = (attachment.file_id, attachment.name, attachment.media_type, attachment.bytes)
    assert found == (file_id, "a.txt", "text/plain", 5)
    assert repr(attachment) == f"<Attachment {file_id} 'a.txt' text/plain 5 bytes>"


@pytest.mark.parametrize("size", SIZES + LARGE)
async def test_its_chunks_are_its_content(size: int) -> None:
    attachment, files = attached(content(size))
    for _ in range(2):
        chunks = [chunk async for chunk in attachment]
        assert b"".join(chunks) == content(size)
        assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)
    assert files.open_reads == 0
    assert files.reads == 2 * list(range(0, size, WINDOW_BYTES))


async def test_a_loop_that_is_left_early_leaves_no_transfer_open() -> None:
    attachment, files = attached(content(WINDOW_BYTES + 1))
    async for _ in attachment:
        assert files.open_reads == 0
        break
    assert files.reads == [0]


async def test_a_transfer_from_a_byte_on() -> None:
    attachment, files = attached(content(CHUNK_BYTES + 5))
    async with attachment.open(start=3) as chunks:
        assert files.open_reads == 1
        assert b"".join([chunk async for chunk in chunks]) == content(CHUNK_BYTES + 5)[3:]
    async with attachment.open(start=3, size=4) as chunks:
        assert [chunk async for chunk in chunks] == [content(7)[3:]]
    assert files.open_reads == 0


@pytest.mark.parametrize("start", [5, 6])
async def test_there_is_nothing_at_the_end_and_behind_it(start: int) -> None:
    attachment, files = attached(b"hello")
    assert await attachment.read(start=start) == b""
    assert await attachment.read(start=start, size=3, limit=0) == b""
    async with attachment.open(start, 3) as chunks:
        assert [chunk async for chunk in chunks] == []
    files.files.clear()
    with pytest.raises(FilesNotFound):
        await attachment.read(start=start)


@pytest.mark.parametrize("left", [0, 1, WINDOW_BYTES])
async def test_content_that_ends_early_is_an_error(left: int) -> None:
    attachment, files = attached(content(WINDOW_BYTES + 5))
    file, data = files.files[attachment.file_id]
    files.files[attachment.file_id] = (file, data[:left])
    missing = rf"the last {WINDOW_BYTES + 5 - left} bytes of the content are missing"
    with pytest.raises(StorageUnavailable, match=missing):
        await attachment.read()
    async with attachment.open(start=left and left - 1) as chunks:
        with pytest.raises(StorageUnavailable):
            await exhaust(chunks)
    assert await attachment.read(size=left) == data[:left]


async def test_a_loop_over_content_that_ends_early_fails() -> None:
    attachment, files = attached(content(WINDOW_BYTES + CHUNK_BYTES))
    file, data = files.files[attachment.file_id]
    files.files[attachment.file_id] = (file, data[: WINDOW_BYTES + 1])
    received: list[bytes] = []
    with pytest.raises(StorageUnavailable, match="are missing"):
        await exhaust(attachment, received)
    assert b"".join(received) == data[:WINDOW_BYTES]


async def test_it_is_read_whole_within_a_limit() -> None:
    attachment, _ = attached(b"hello")
    assert await attachment.read() == b"hello"
    assert await attachment.read(limit=5) == b"hello"
    with pytest.raises(ValueError, match="has 5 bytes; at most 4 are allowed"):
        await attachment.read(limit=4)
    assert await attachment.read(start=1, size=3, limit=3) == b"ell"
    assert await attachment.read(start=1, limit=4) == b"ello"
    assert await attachment.read(start=4, size=9, limit=1) == b"o"
    for wrong in ({"start": -1}, {"size": -1}):
        with pytest.raises(ValueError, match="not negative"):
            await attachment.read(**wrong)


async def test_a_file_that_was_deleted_meanwhile() -> None:
    attachment, files = attached(b"hello")
    files.files.clear()
    with pytest.raises(FilesNotFound) as caught:
        await attachment.read()
    assert caught.value.file_ids == (attachment.file_id,)
    with pytest.raises(FilesNotFound):
        await anext(aiter(attachment))


async def test_a_storage_that_fails() -> None:
    attachment, files = attached(content(2 * CHUNK_BYTES))
    async with attachment.open() as chunks:
        await anext(chunks)
        files.is_down = True
        with pytest.raises(StorageUnavailable):
            await anext(chunks)
    with pytest.raises(StorageUnavailable):
        await attachment.read()


async def test_cancelling_at_each_await_closes_the_transfer() -> None:
    attachment, files = attached(content(2 * CHUNK_BYTES))
    await attachment.read()
    for number in range(1, files.awaits + 1):
        files.awaits = 0
        with trio.CancelScope() as scope:
            files.cancelled = (scope, number)
            await attachment.read()
        assert scope.cancelled_caught
        assert files.open_reads == 0
    assert number > 2
