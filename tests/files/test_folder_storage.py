"""The storage in a folder: modes, faults of the disk, and threads that are abandoned."""

import os
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest
import trio
import trio.testing

from netra_trio.errors import StorageUnavailable
from netra_trio.files.folder import FolderStorage
from netra_trio.files.folders import make_private
from netra_trio.files.spool import Spool
from netra_trio.files.threads import OpenFile, StorageThreads
from netra_trio.ids import FileId, new_file_id


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of each path below a folder and of itself."""
    return {
        str(path.relative_to(folder.parent)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (folder, *folder.rglob("*"))
    }


async def stored(storage: FolderStorage, content: bytes = b"content") -> FileId:
    """Store content through a spool."""
    file_id = new_file_id()
    async with Spool(storage.spool_folder, limit=100, threads=storage.threads) as spool:
        await spool.write(content)
        await spool.finish()
        await storage.put(file_id, spool.path)
    return file_id


async def test_only_the_user_of_the_server_can_open_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        storage = FolderStorage(tmp_path / "kept" / "files")
        file_id = await stored(storage)
        found = modes(tmp_path / "kept")
    finally:
        os.umask(umask)
    assert {path: mode for path, mode in found.items() if not path.endswith(file_id)} == {
        "kept": "0o700",
        "kept/files": "0o700",
        "kept/files/spool": "0o700",
        **{path: "0o700" for path in found if path.count("/") == 2},
    }
    assert [mode for path, mode in found.items() if path.endswith(file_id)] == ["0o600"]


async def test_the_names_of_new_folders_are_written_permanently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    folder = tmp_path / "deep" / "files"
    storage = FolderStorage(folder)
    path = Path(storage.location(await stored(storage)))
    assert {tmp_path, folder.parent, folder, path.parent} <= set(synced)
    assert any(each.name.startswith("upload-") for each in synced)


async def test_a_temporary_folder_ends_with_its_storage(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "files", is_temporary=True)
    async with storage.open():
        assert not (tmp_path / "files").exists()
        await stored(storage)
        assert (tmp_path / "files").exists()
    assert not (tmp_path / "files").exists()


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    storage = FolderStorage(tmp_path / "file" / "files")
    for function in (storage.check, lambda: stored(storage)):
        with pytest.raises(StorageUnavailable, match=r"Not a directory|Permission denied"):
            await function()
    with pytest.raises(StorageUnavailable):
        async with storage.read(FileId("file_1")):
            pass


async def test_a_folder_that_does_not_exist_yet_is_not_made_by_a_check(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "a" / "b")
    await storage.check()
    assert modes(tmp_path).keys() == {tmp_path.name}


async def test_a_folder_below_one_that_takes_none() -> None:
    with pytest.raises(StorageUnavailable):
        await FolderStorage(Path("/proc/files")).check()


async def test_a_full_disk(tmp_path: Path) -> None:
    # /dev/full refuses every byte as a full disk does.
    spool_folder = tmp_path / "spool"
    spool_folder.mkdir()
    spool = Spool(spool_folder, limit=100, threads=StorageThreads())
    spool.path.symlink_to("/dev/full")
    async with spool:
        await spool.write(b"content")
        with pytest.raises(StorageUnavailable, match="No space left on device"):
            await spool.finish()
    assert modes(spool_folder).keys() == {spool_folder.name}


async def test_small_chunks_take_no_more_memory_than_their_bytes(tmp_path: Path) -> None:
    async with Spool(tmp_path, limit=100_000, threads=StorageThreads()) as spool:
        tracemalloc.start()
        try:
            for number in range(20_000):
                await spool.write(number.to_bytes(2, "big"))
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 100_000
        assert (await spool.finish()).size == 40_000


def test_two_processes_may_make_the_folders_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    threads = [threading.Thread(target=make_private, args=(folder,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.is_dir()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def descriptor_of(content: OpenFile) -> int | None:
    return content._descriptor


def test_a_file_that_is_closed_while_a_thread_opens_or_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    before = open_files()
    content = OpenFile()
    with content:
        content.open(path)
        assert content.read(3, 100) == b"tent"
        with content.in_use():  # as a thread that was abandoned
            content.__exit__()
            assert descriptor_of(content) is not None
        assert descriptor_of(content) is None
    assert content.read(0, 1) == b""
    late = OpenFile()
    with late:
        pass
    late.open(path)
    assert descriptor_of(late) is None
    assert open_files() == before


async def test_a_thread_that_hangs_does_not_delay_a_cancelled_task() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(100)
        ended.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(StorageThreads().run, hang)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert not ended.is_set()
    release.set()
    assert await trio.to_thread.run_sync(ended.wait, 100)
