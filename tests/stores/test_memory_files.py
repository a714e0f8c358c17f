"""The files of the store in memory, within its bounds."""

import pytest
from attrs import evolve
from stores.file_samples import ROOM, a_file, ids
from stores.memory_samples import ALICE, end_of, new, record, result, settle

from netra_trio.errors import FilesNotFound, StoreUnavailable
from netra_trio.stores.base import NewMessage
from netra_trio.stores.files import ORPHAN_SECONDS, UNFINISHED_SECONDS, StoredFile
from netra_trio.stores.memory import MemoryStore


def upload(store: MemoryStore, file: StoredFile | None = None) -> StoredFile:
    """Store a file that can be named."""
    file = a_file() if file is None else file
    assert result(store.reserve_file(file, max_bytes=ROOM))
    assert result(store.finish_file(file.file_id))
    return file


def naming(*files: StoredFile, content: str = "x") -> NewMessage:
    return evolve(new(content), attachments=tuple(ids(files)))


def is_there(store: MemoryStore, file: StoredFile) -> bool:
    return result(store.get_file(file.file_id)) is not None


async def test_files_are_refused_beyond_their_bound() -> None:
    store = MemoryStore(files=2)
    first, _ = upload(store), upload(store)
    with pytest.raises(StoreUnavailable, match="there are 2 files"):
        result(store.reserve_file(a_file(), max_bytes=ROOM))
    message = naming(first)
    record(store, message)
    assert result(store.delete_thread(ALICE, message.thread_id))
    assert store.statistics()["files"] == 2  # its content is not deleted
    with pytest.raises(StoreUnavailable):
        result(store.reserve_file(a_file(), max_bytes=ROOM))
    result(store.forget_files([first.file_id]))
    assert store.statistics()["files"] == 1
    upload(store)


def test_a_dropped_message_takes_its_files_with_it() -> None:
    store = MemoryStore(messages=2)
    of_first, of_answer, shared = [upload(store) for _ in range(3)]
    first = naming(of_first, shared)
    record(store, first)
    result(store.end_run(evolve(end_of(first), attachments=(of_answer.file_id,))))
    settle(store, naming(shared))  # drops the first message with its answer
    assert [is_there(store, each) for each in (of_first, of_answer, shared)] == [False, False, True]
    assert set(result(store.deleted_files())) == {of_first.file_id, of_answer.file_id}
    assert result(store.count_file_bytes(ALICE)) == shared.size


def test_a_message_keeps_the_file_of_the_message_that_is_dropped_for_it() -> None:
    store = MemoryStore(messages=1)
    file = upload(store)
    settle(store, naming(file))
    record(store, naming(file))
    assert store.statistics()["messages_dropped"] == 1
    assert is_there(store, file)
    assert result(store.deleted_files()) == []


def test_a_message_without_room_names_no_file() -> None:
    now = 0.0
    store = MemoryStore(text_bytes=1, wall_clock=lambda: now)
    file = upload(store, evolve(a_file(), created_at=now))
    with pytest.raises(StoreUnavailable):
        result(store.record(naming(file, content="xx")))
    now = ORPHAN_SECONDS
    assert result(store.deleted_files()) == [file.file_id]


def test_a_message_that_lacks_a_file_drops_nothing() -> None:
    store = MemoryStore(messages=1)
    settle(store, new())
    with pytest.raises(FilesNotFound):
        result(store.record(naming(a_file())))
    assert store.statistics()["messages_dropped"] == 0


@pytest.mark.parametrize(
    ("is_finished", "limit"), [(True, ORPHAN_SECONDS), (False, UNFINISHED_SECONDS)]
)
def test_a_file_that_no_message_names_is_deleted_at_its_age(
    is_finished: bool, limit: float
) -> None:
    now = 0.0
    store = MemoryStore(wall_clock=lambda: now)
    file = evolve(a_file(), created_at=1000.0)
    assert result(store.reserve_file(file, max_bytes=ROOM))
    if is_finished:
        assert result(store.finish_file(file.file_id))
    now = 999.0 + limit
    assert result(store.deleted_files()) == []
    now = 1000.0 + limit
    assert result(store.deleted_files()) == [file.file_id]
