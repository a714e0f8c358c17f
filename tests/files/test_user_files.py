"""The files of users: what is stored, what is left of failures, and what is deleted."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, evolve
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.config.settings import Settings
from netra_trio.errors import (
    ContentMissing,
    FilesFull,
    FileTooLarge,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.files.base import FileStorage
from netra_trio.files.files import COLLECT_SECONDS, Files
from netra_trio.files.folder import FolderStorage
from netra_trio.files.spool import WRITE_BYTES
from netra_trio.ids import FileId, UserId
from netra_trio.stores.files import (
    DELETED_PAGE,
    ORPHAN_SECONDS,
    UNFINISHED_SECONDS,
    StoredFile,
)
from netra_trio.stores.memory import MemoryStore

ALICE, BOB = UserId("alice"), UserId("bob")
NOW = 1_700_000_000.0


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@define
class Kept:
    """Files, and what they are kept in."""

    files: Files
    store: MemoryStore
    folder: Path
    clock: Clock

    @property
    def contents(self) -> list[Path]:
        """Every file on the disk, temporary ones included."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@asynccontextmanager
async def kept(
    folder: Path, storage: FileStorage | None = None, **settings: Any
) -> AsyncIterator[Kept]:
    clock = Clock()
    store = MemoryStore(wall_clock=clock)
    await store.create_user(ALICE)
    await store.create_user(BOB)
    storage = FolderStorage(folder, is_temporary=True) if storage is None else storage
    chosen = evolve(Settings(), **settings)
    files = Files(storage, store, settings=chosen, wall_clock=clock)
    async with store.open(), files.open():
        yield Kept(files, store, folder, clock)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


async def content_of(files: Files, file_id: FileId) -> bytes:
    async with files.read(file_id) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_file_is_stored_and_read(tmp_path: Path) -> None:
    parts = (b"a,b\n", b"1,2\n" * 100_000, b"", b"3,4\n")
    whole = b"".join(parts)
    async with kept(tmp_path / "files") as it:
        file = await it.files.upload(ALICE, pieces(*parts), name="../table.csv")
        assert file == StoredFile(
            file_id=file.file_id,
            user_id=ALICE,
            name="table.csv",
            media_type="text/csv",
            size=len(whole),
            sha256=hashlib.sha256(whole).hexdigest(),
            created_at=NOW,
        )
        assert await it.files.find(ALICE, file.file_id) == file
        assert await it.files.find(BOB, file.file_id) is None
        assert await it.files.find(ALICE, FileId("unknown")) is None
        assert await content_of(it.files, file.file_id) == whole
        assert await it.files.read_bytes(file.file_id, 6) == whole[:6]
        assert await it.files.read_bytes(file.file_id, 10**9) == whole
        assert len(it.contents) == 1
    assert it.contents == []


async def test_the_same_content_again_is_another_file(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        first = await it.files.upload(ALICE, pieces(b"same"))
        second = await it.files.upload(ALICE, pieces(b"same"))
        assert first.file_id != second.file_id
        assert first.sha256 == second.sha256


async def test_an_empty_file(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        file = await it.files.upload(ALICE, pieces())
        assert (file.size, file.media_type) == (0, "application/octet-stream")
        assert await content_of(it.files, file.file_id) == b""


async def test_a_type_that_its_source_knows(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        file = await it.files.upload(ALICE, pieces(b"\x00"), media_type="audio/pcm")
        assert file.media_type == "audio/pcm"


async def test_the_largest_file_and_one_byte_more(tmp_path: Path) -> None:
    limit = WRITE_BYTES + 10
    async with kept(tmp_path, files_max_bytes=limit) as it:
        await it.files.upload(ALICE, pieces(b"x" * WRITE_BYTES, b"x" * 10))
        with pytest.raises(FileTooLarge) as error:
            await it.files.upload(ALICE, pieces(b"x" * WRITE_BYTES, b"x" * 10, b"x"))
        assert error.value.limit == limit
        assert len(it.contents) == 1
        assert await it.store.count_file_bytes(ALICE) == limit


async def test_the_files_of_a_user_and_one_byte_more(tmp_path: Path) -> None:
    async with kept(tmp_path, files_user_max_bytes=10) as it:
        await it.files.upload(ALICE, pieces(b"1234"))
        await it.files.upload(ALICE, pieces(b"123456"))
        with pytest.raises(FilesFull) as error:
            await it.files.upload(ALICE, pieces(b"1"))
        assert error.value.limit == 10
        await it.files.upload(BOB, pieces(b"1"))
        assert len(it.contents) == 3
        assert await it.store.count_file_bytes(ALICE) == 10


class BrokenError(Exception):
    """Raised by a source of content."""


async def broken() -> AsyncIterator[bytes]:
    yield b"x" * WRITE_BYTES
    raise BrokenError


async def test_nothing_is_left_of_a_source_that_fails(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        with pytest.raises(BrokenError):
            await it.files.upload(ALICE, broken())
        assert it.contents == []
        assert await it.store.count_file_bytes(ALICE) == 0


class FailingStorage(FolderStorage):
    """A storage whose calls fail or hang, by their names."""

    fails: str = ""
    hangs: str = ""

    async def _at(self, call: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails == call:
            raise StorageUnavailable("No space left on device")
        if self.hangs == call:
            await trio.sleep_forever()

    async def put(self, file_id: FileId, path: Path) -> None:
        await self._at("put")
        await super().put(file_id, path)
        await self._at("stored")

    async def delete(self, file_id: FileId) -> None:
        await self._at("delete")
        await super().delete(file_id)


@pytest.mark.parametrize("at", ["put", "stored"])
@pytest.mark.parametrize("hangs", [False, True])
async def test_nothing_is_left_of_a_storage_that_fails(
    tmp_path: Path, autojump_clock: MockClock, at: str, hangs: bool
) -> None:
    storage = FailingStorage(tmp_path, is_temporary=True)
    async with kept(tmp_path, storage) as it:
        setattr(storage, "hangs" if hangs else "fails", at)
        with trio.move_on_after(1):
            with pytest.raises((StorageUnavailable, trio.Cancelled)):
                await it.files.upload(ALICE, pieces(b"content"))
        assert it.contents == []
        assert await it.store.count_file_bytes(ALICE) == 0
        setattr(storage, "hangs" if hangs else "fails", "")
        await it.files.upload(ALICE, pieces(b"content"))  # the same again just works


class FailingStore(MemoryStore):
    """A store whose calls fail, by their names; some have been applied all the same."""

    fails: str = ""
    is_applied = False

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        return bool(await self._call("reserve", super().reserve_file(file, max_bytes=max_bytes)))

    async def finish_file(self, file_id: FileId) -> bool:
        return bool(await self._call("finish", super().finish_file(file_id)))

    async def _call(self, name: str, call: Any) -> Any:
        if self.fails != name:
            return await call
        if self.is_applied:
            await call
        else:
            call.close()
        raise StoreUnavailable("gone")


@pytest.mark.parametrize("fails", ["reserve", "finish"])
@pytest.mark.parametrize("is_applied", [False, True])
async def test_leftovers_of_a_store_that_fails_are_collected(
    tmp_path: Path, fails: str, is_applied: bool
) -> None:
    async with kept(tmp_path) as it:
        it.store.__class__ = FailingStore
        assert isinstance(it.store, FailingStore)
        it.store.fails, it.store.is_applied = fails, is_applied
        with pytest.raises(StoreUnavailable):
            await it.files.upload(ALICE, pieces(b"content"))
        it.store.fails = ""
        it.clock.now += ORPHAN_SECONDS + 1
        await it.files.collect()
        assert it.contents == []
        assert await it.store.count_file_bytes(ALICE) == 0


async def test_content_that_is_stored_after_its_file_was_deleted(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:

        class LateStorage(FolderStorage):
            """A storage that stores content when its file is deleted and forgotten already."""

            async def put(self, file_id: FileId, path: Path) -> None:
                it.clock.now += UNFINISHED_SECONDS + 1
                await it.files.collect()
                await super().put(file_id, path)

        it.files._storage = LateStorage(tmp_path)
        with pytest.raises(StorageUnavailable):
            await it.files.upload(ALICE, pieces(b"content"))
        assert it.contents == []


async def test_an_upload_that_is_finished_too_late(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        late = pieces(b"content")

        class LateStorage(FolderStorage):
            """A storage that is so slow that the file is deleted meanwhile."""

            async def put(self, file_id: FileId, path: Path) -> None:
                await super().put(file_id, path)
                it.clock.now += UNFINISHED_SECONDS + 1
                assert await it.store.deleted_files() == [file_id]

        it.files._storage = LateStorage(tmp_path)
        with pytest.raises(StorageUnavailable):
            await it.files.upload(ALICE, late)
        await it.files.collect()
        assert it.contents == []
        assert await it.store.count_file_bytes(ALICE) == 0


# Collection.


async def test_files_that_no_message_names_are_deleted_in_time(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        old = await it.files.upload(ALICE, pieces(b"old"))
        it.clock.now += 1
        fresh = await it.files.upload(ALICE, pieces(b"fresh"))
        it.clock.now += ORPHAN_SECONDS - 1
        await it.files.collect()
        assert await it.files.find(ALICE, old.file_id) is None
        with pytest.raises(ContentMissing):
            await content_of(it.files, old.file_id)
        assert await content_of(it.files, fresh.file_id) == b"fresh"
        assert await it.store.count_file_bytes(ALICE) == 5
        assert len(it.contents) == 1


async def test_more_files_than_a_page_are_deleted_by_several_nodes(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        other = Files(FolderStorage(tmp_path), it.store, settings=Settings(), wall_clock=it.clock)
        for number in range(230):
            await it.files.upload(ALICE, pieces(str(number).encode()))
        it.clock.now += ORPHAN_SECONDS + 1
        async with trio.open_nursery() as nursery:
            for each in (it.files, other, it.files):
                nursery.start_soon(each.collect)
        assert it.contents == []
        assert await it.store.deleted_files() == []


async def test_the_collection_is_tried_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = FailingStorage(tmp_path, is_temporary=True)
    async with kept(tmp_path, storage) as it, trio.open_nursery() as nursery:
        await it.files.upload(ALICE, pieces(b"content"))
        it.clock.now += ORPHAN_SECONDS + 1
        storage.fails = "delete"
        nursery.start_soon(it.files.run)
        await trio.sleep(COLLECT_SECONDS * 2.5)
        assert len(it.contents) == 1
        storage.fails = ""
        await trio.sleep(COLLECT_SECONDS)
        assert it.contents == []
        nursery.cancel_scope.cancel()


class PartlyFailingStorage(FolderStorage):
    """A folder that does not delete some files.

    Attributes:
        kept_forever: These.
        deletes: How many calls there were.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, is_temporary=True)
        self.kept_forever: list[FileId] = []
        self.deletes = 0

    async def delete(self, file_id: FileId) -> None:
        self.deletes += 1
        if file_id in self.kept_forever:
            await trio.lowlevel.checkpoint()
            raise StorageUnavailable("Operation not permitted")
        await super().delete(file_id)


@pytest.mark.parametrize("numbers", [{0, 99, 149}, set(range(2 * DELETED_PAGE))])
async def test_content_that_cannot_be_deleted_does_not_keep_the_rest(
    tmp_path: Path, numbers: set[int]
) -> None:
    storage = PartlyFailingStorage(tmp_path)
    kept_forever = storage.kept_forever
    async with kept(tmp_path, storage) as it:
        for number in range(2 * DELETED_PAGE + 50):
            file = await it.files.upload(ALICE, pieces(str(number).encode()))
            it.clock.now += 1
            if number in numbers:
                kept_forever.append(file.file_id)
        it.clock.now += ORPHAN_SECONDS + 1
        with capture_logs() as logs:
            await it.files.collect()
            await it.files.collect()
        assert [(line["event"], line["reason"]) for line in logs] == [
            ("files_not_deleted", "Operation not permitted")
        ]
        assert {path.name for path in it.contents} == set(kept_forever)
        assert set(await it.store.deleted_files(1000)) == set(kept_forever)
        kept_forever.clear()
        await it.files.collect()
        assert it.contents == []


async def test_a_storage_that_is_down_is_not_tried_with_every_file(tmp_path: Path) -> None:
    class StorageThatIsDown(PartlyFailingStorage):
        async def check(self) -> None:
            await trio.lowlevel.checkpoint()
            raise StorageUnavailable("down")

    await check_one_page_is_tried(StorageThatIsDown(tmp_path), tmp_path)


async def test_a_search_ends_after_too_many_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netra_trio.files.files.FAILURES", DELETED_PAGE)
    await check_one_page_is_tried(PartlyFailingStorage(tmp_path), tmp_path)


async def check_one_page_is_tried(storage: PartlyFailingStorage, folder: Path) -> None:
    """Check that a search ends after the first page, none of whose files can be deleted."""
    async with kept(folder, storage) as it:
        for _ in range(DELETED_PAGE + 1):
            file = await it.files.upload(ALICE, pieces(b"x"))
            storage.kept_forever.append(file.file_id)
        it.clock.now += ORPHAN_SECONDS + 1
        await it.files.collect()
        assert storage.deletes == DELETED_PAGE


async def test_a_storage_that_cannot_be_used_is_logged_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    (tmp_path / "file").write_text("not a folder")
    storage = FolderStorage(tmp_path / "file", is_temporary=True)
    with capture_logs() as logs:
        async with kept(tmp_path, storage) as it, trio.open_nursery() as nursery:
            nursery.start_soon(it.files.run)
            await trio.sleep(1)
            with pytest.raises(StorageUnavailable):
                await it.files.check()
            (tmp_path / "file").unlink()
            await it.files.check()
            await it.files.check()
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in logs] == ["files_unavailable", "files_available"]
    assert logs[0]["reason"] == "Not a directory"


async def test_the_collection_is_soon_when_it_is_wanted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kept(tmp_path) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.files.run)
        await trio.sleep(1)
        await it.files.upload(ALICE, pieces(b"content"))
        it.clock.now += ORPHAN_SECONDS + 1
        it.files.collect_soon()
        await trio.sleep(1)
        assert it.contents == []
        nursery.cancel_scope.cancel()


async def test_leftovers_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    async with kept(tmp_path, storage) as it:
        storage.spool_folder.mkdir(mode=0o700)
        leftover = storage.spool_folder / "upload-1"
        leftover.touch()
        await it.files.collect()
        assert leftover.exists()
        os.utime(leftover, (0, 0))
        await it.files.collect()
        assert not leftover.exists()
