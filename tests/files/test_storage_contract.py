"""The contract of `FileStorage`, which each implementation passes."""

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define
from support.s3 import S3Server

from netra_trio.errors import ContentMissing, StorageUnavailable
from netra_trio.files.base import CHUNK_BYTES, FileStorage
from netra_trio.files.folder import FolderStorage
from netra_trio.files.folders import SPOOL_PREFIX, make_private
from netra_trio.files.s3 import S3Storage
from netra_trio.ids import FileId, new_file_id


@define
class Kept:
    """A storage, and where its content is seen from outside."""

    storage: FileStorage
    folder: Path

    @property
    def objects(self) -> set[Path]:
        """The files of the storage, temporary ones excluded."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path for path in files if path.parent.name != "spool"}

    async def put(self, content: bytes) -> FileId:
        """Store content."""
        file_id = new_file_id()
        await self.storage.put(file_id, self.spooled(content))
        return file_id

    def spooled(self, content: bytes) -> Path:
        """Return a temporary file."""
        make_private(self.storage.spool_folder)
        path = self.storage.spool_folder / f"{SPOOL_PREFIX}{new_file_id()}"
        path.write_bytes(content)
        return path

    async def read(self, file_id: FileId, start: int = 0, size: int | None = None) -> bytes:
        """Return content."""
        async with self.storage.read(file_id, start=start, size=size) as chunks:
            found = [chunk async for chunk in chunks]
        assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in found)
        return b"".join(found)


@pytest.fixture(params=["folder", "temporary", "s3"])
async def kept(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Kept]:
    """Return each storage in turn."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    storage: FileStorage
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        storage, folder = S3Storage("files", f"some/{tmp_path.name}"), server.folder
        folder = server.folder / "files" / "some" / tmp_path.name
    else:
        folder = tmp_path / "kept" / "files"
        storage = FolderStorage(folder, is_temporary=request.param == "temporary")
    async with storage.open():
        yield Kept(storage, folder)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES + 7])
async def test_content_is_read_as_it_was_put(kept: Kept, size: int) -> None:
    content = os.urandom(size)
    file_id = await kept.put(content)
    assert await kept.read(file_id) == content
    assert await kept.read(file_id) == content
    assert len(kept.objects) == 1


async def test_a_part_is_read(kept: Kept) -> None:
    content = os.urandom(3 * CHUNK_BYTES)
    file_id = await kept.put(content)
    for start, size in (
        (0, 1),
        (5, CHUNK_BYTES),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 2),
        (len(content) - 1, 1),
        (100, None),
    ):
        end = None if size is None else start + size
        assert await kept.read(file_id, start, size) == content[start:end]
    assert await kept.read(file_id, 0, 0) == b""


async def test_reading_may_stop_early_and_be_cancelled(kept: Kept) -> None:
    content = os.urandom(20 * CHUNK_BYTES)
    file_id = await kept.put(content)
    async with kept.storage.read(file_id) as chunks:
        first = await anext(aiter(chunks))
    assert content.startswith(first)
    with trio.CancelScope() as scope:
        async with kept.storage.read(file_id) as chunks:
            async for _ in chunks:
                scope.cancel()
    assert scope.cancelled_caught
    assert await kept.read(file_id) == content


async def test_many_read_at_once(kept: Kept) -> None:
    contents = {await kept.put(data): data for data in (os.urandom(CHUNK_BYTES * 2), b"b", b"")}

    async def read(file_id: FileId) -> None:
        assert await kept.read(file_id) == contents[file_id]

    async with trio.open_nursery() as nursery:
        for file_id in contents:
            for _ in range(20):
                nursery.start_soon(read, file_id)


@pytest.mark.parametrize(
    "file_id", ["file_0", "../../etc/passwd", "a/b", "x" * 300, "\x00", "\ud800"]
)
async def test_there_is_no_content(kept: Kept, file_id: str) -> None:
    with pytest.raises((ContentMissing, StorageUnavailable)) as missing:
        await kept.read(FileId(file_id))
    if file_id == "file_0":
        assert missing.type is ContentMissing


async def test_deleted_content_is_gone(kept: Kept) -> None:
    file_id, other = await kept.put(b"content"), await kept.put(b"other")
    await kept.storage.delete(file_id)
    await kept.storage.delete(file_id)
    await kept.storage.delete(new_file_id())
    with pytest.raises(ContentMissing):
        await kept.read(file_id)
    assert await kept.read(other) == b"other"
    assert len(kept.objects) == 1


async def test_nothing_is_left_of_content_that_is_not_there(kept: Kept) -> None:
    path = kept.spooled(b"content")
    path.unlink()
    with pytest.raises(StorageUnavailable):
        await kept.storage.put(new_file_id(), path)
    assert kept.objects == set()


async def test_nothing_is_stored_behind_a_cancelled_put(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, is_called, may_end = kept.storage, threading.Event(), threading.Event()
    path = kept.spooled(b"content")

    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            is_called.set()
            assert may_end.wait(100)
            return call(*args, **kwargs)

        return called

    if isinstance(storage, S3Storage):
        client = storage._client
        monkeypatch.setattr(client, "put_object", slow(client.put_object))
    elif isinstance(storage, FolderStorage) and storage.is_temporary:
        return  # its calls are not in threads
    else:
        monkeypatch.setattr("os.fsync", slow(os.fsync))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.put, new_file_id(), path)
        assert await trio.to_thread.run_sync(is_called.wait, 100)
        nursery.cancel_scope.cancel()
    may_end.set()
    limiter = storage.threads._limiter
    limiter.total_tokens = 1
    async with limiter:  # the thread has ended
        assert kept.objects == set()


async def test_the_storage_can_be_used(kept: Kept) -> None:
    await kept.storage.check()
    await kept.put(b"content")
    await kept.storage.check()
    assert len(kept.objects) == 1


async def test_leftovers_are_deleted_when_they_are_old(kept: Kept) -> None:
    old, fresh, other = kept.spooled(b"old"), kept.spooled(b"fresh"), kept.spooled(b"")
    other = other.rename(other.with_name("not-ours"))
    for path in (old, other):
        os.utime(path, (0, 0))
    is_private = isinstance(kept.storage, FolderStorage) and kept.storage.is_temporary
    assert await kept.storage.sweep(60) == (0 if is_private else 1)
    assert old.exists() == is_private
    assert fresh.exists()
    assert other.exists()


async def test_the_content_is_what_was_hashed(kept: Kept) -> None:
    content = os.urandom(1000)
    file_id = await kept.put(content)
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in kept.objects]
    assert digests == [hashlib.sha256(await kept.read(file_id)).digest()]
