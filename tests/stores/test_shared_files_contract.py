"""The files of two nodes with one store and one storage: limits, and which node deletes what."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from stores.file_samples import ROOM, a_file, answering, ids, naming, page, upload
from stores.implementations import Nodes
from stores.samples import ALICE, MAIN, OTHER, record

from netra_trio.config.settings import Settings
from netra_trio.errors import ContentMissing, FilesNotFound, StorageUnavailable
from netra_trio.files.files import Files
from netra_trio.files.folder import FolderStorage
from netra_trio.ids import FileId
from netra_trio.stores.base import Store
from netra_trio.stores.files import ORPHAN_SECONDS, StoredFile


class GatedStorage(FolderStorage):
    """A storage whose deletions wait until the gate is open, or fail.

    Attributes:
        is_reached: Set when a deletion has begun.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate, self.is_reached = trio.Event(), trio.Event()
        self.gate.set()
        self.is_down = False
        self.deleted: list[FileId] = []

    async def delete(self, file_id: FileId) -> None:
        self.is_reached.set()
        await self.gate.wait()
        if self.is_down:
            raise StorageUnavailable("down")
        await super().delete(file_id)
        self.deleted.append(file_id)


class Node:
    """A node: its store, and its access to the folder of all."""

    def __init__(self, store: Store, folder: Path, *, age: float = 0.0) -> None:
        self.store, self.storage = store, GatedStorage(folder)
        self.files = Files(
            self.storage, store, settings=Settings(), wall_clock=lambda: time.time() - age
        )

    async def upload(self) -> StoredFile:
        return await self.files.upload(ALICE, _content(), name="a.txt")

    async def has_content(self, file: StoredFile) -> bool:
        try:
            return await self.files.read_bytes(file.file_id, 10) == b"content"
        except ContentMissing:
            return False


async def _content() -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    yield b"content"


@asynccontextmanager
async def two(nodes: Nodes, folder: Path, *, age: float = 0.0) -> AsyncIterator[tuple[Node, Node]]:
    """Open the files of two nodes; a new one is so many seconds old."""
    one, other = (Node(store, folder, age=age) for store in nodes)
    async with one.files.open(), other.files.open():
        yield one, other


async def test_a_file_of_one_node_is_read_and_named_on_the_other(
    nodes: Nodes, tmp_path: Path
) -> None:
    async with two(nodes, tmp_path) as (one, other):
        file, answer = await one.upload(), await other.upload()
        assert await other.files.find(ALICE, file.file_id) == file
        assert await other.has_content(file)
        message = naming(file)
        await record(other.store, message)
        await other.store.end_run(answering(message, answer))
        listed = [each.attachments for each in await page(one.store)]
        assert listed == [(file.file_id,), (answer.file_id,)]


async def test_both_nodes_delete_the_content_of_a_deleted_thread_at_once(
    nodes: Nodes, tmp_path: Path
) -> None:
    async with two(nodes, tmp_path) as (one, other):
        files = [await one.upload() for _ in range(3)]
        kept = await other.upload()
        await record(one.store, naming(*files[:2]), naming(files[2], kept))
        await record(other.store, naming(kept, thread=OTHER))
        assert await other.store.delete_thread(ALICE, MAIN)
        async with trio.open_nursery() as nursery:
            for node in (one, other):
                nursery.start_soon(node.files.collect)
        assert [await other.has_content(file) for file in (*files, kept)] == [False] * 3 + [True]
        for node in (one, other):
            assert list(await node.store.deleted_files()) == []
        assert await one.store.count_file_bytes(ALICE) == kept.size


async def test_a_file_is_named_while_another_node_deletes_it(nodes: Nodes, tmp_path: Path) -> None:
    async with two(nodes, tmp_path, age=ORPHAN_SECONDS + 60) as (one, other):
        file = await one.upload()
        one.storage.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.files.collect)
            await one.storage.is_reached.wait()
            with pytest.raises(FilesNotFound):
                await other.store.record(naming(file))
            one.storage.gate.set()
        assert not await other.has_content(file)
        assert await other.store.history(ALICE, MAIN, limit=1) is None


async def test_a_file_that_was_named_is_not_deleted_by_another_node(
    nodes: Nodes, tmp_path: Path
) -> None:
    async with two(nodes, tmp_path, age=ORPHAN_SECONDS + 60) as (one, other):
        file = await one.upload()
        await record(other.store, naming(file))
        await one.files.collect()
        assert one.storage.deleted == []
        assert await other.has_content(file)


@pytest.mark.parametrize("how", ["killed", "without its storage"])
async def test_a_node_that_does_not_finish_leaves_the_rest_to_the_other(
    nodes: Nodes, tmp_path: Path, how: str
) -> None:
    async with two(nodes, tmp_path) as (one, other):
        files = [await one.upload() for _ in range(2)]
        await record(one.store, naming(*files))
        assert await one.store.delete_thread(ALICE, MAIN)
        if how == "killed":
            one.storage.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.files.collect)
                await one.storage.is_reached.wait()
                nursery.cancel_scope.cancel()
        else:
            one.storage.is_down = True
            await one.files.collect()
        assert set(await other.store.deleted_files()) == set(ids(files))
        await other.files.collect()
        assert sorted(other.storage.deleted) == sorted(ids(files))
        assert list(await one.store.deleted_files()) == []


async def test_the_limit_of_a_user_holds_over_both_nodes(nodes: Nodes) -> None:
    reserved: list[StoredFile] = []

    async def reserve(store: Store) -> None:
        file = a_file(10)
        if await store.reserve_file(file, max_bytes=35):
            reserved.append(file)

    async with trio.open_nursery() as nursery:
        for each in range(10):
            nursery.start_soon(reserve, nodes[each % 2])
    assert len(reserved) == 3
    assert await nodes[0].count_file_bytes(ALICE) == 30
    await nodes[0].forget_files([reserved[0].file_id])
    assert await nodes[1].reserve_file(a_file(15), max_bytes=35)


async def test_a_thread_that_another_node_deleted_frees_the_bytes_of_its_files(
    nodes: Nodes,
) -> None:
    one, other = nodes
    file = await upload(one, a_file(ROOM))
    assert not await other.reserve_file(a_file(1), max_bytes=ROOM)
    await record(other, naming(file))
    assert await one.delete_thread(ALICE, MAIN)
    assert await other.reserve_file(a_file(ROOM), max_bytes=ROOM)
