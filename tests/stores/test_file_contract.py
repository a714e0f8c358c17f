"""The contract of `Store` for files, tested for every implementation."""

import pytest
from attrs import evolve
from stores.file_samples import ROOM, a_file, answering, ids, is_there, naming, page, upload
from stores.implementations import THREAD_STORES
from stores.samples import ALICE, BOB, MAIN, OTHER, end_of, new, page_of, record

from netra_trio.errors import FilesNotFound, MessageNotFound
from netra_trio.ids import new_file_id, new_message_id
from netra_trio.protocol.messages import ListedFile, RunStatus
from netra_trio.stores.base import Store
from netra_trio.stores.bounds import HISTORY_LISTED_BYTES, HISTORY_PAGE_BYTES
from netra_trio.stores.files import (
    LISTED_BYTES,
    ORPHAN_SECONDS,
    UNFINISHED_SECONDS,
    StoredFile,
)

pytestmark = pytest.mark.parametrize(
    "store", THREAD_STORES, indirect=True, ids=lambda factory: factory.__name__
)

PAGE = 3  # files
MARGIN = 60.0  # seconds between an age of a test and a limit: the test takes less


# From the upload to the deletion


async def test_a_file_can_be_read_once_it_is_finished(store: Store) -> None:
    file = a_file()
    assert await store.reserve_file(file, max_bytes=ROOM) is True
    assert await store.get_file(file.file_id) is None
    assert await store.find_files(ALICE, [file.file_id]) == []
    assert await store.finish_file(file.file_id) is True
    assert await store.get_file(file.file_id) == file
    assert await store.finish_file(file.file_id) is True  # the answer was lost
    assert await store.deleted_files() == []


async def test_an_unknown_file(store: Store) -> None:
    unknown = new_file_id()
    assert await store.get_file(unknown) is None
    assert await store.finish_file(unknown) is False
    await store.forget_files([unknown])


async def test_files_are_found_in_the_given_order_for_their_user_only(store: Store) -> None:
    first, second = await upload(store), await upload(store)
    of_bob = await upload(store, a_file(user=BOB))
    reserved = a_file()
    assert await store.reserve_file(reserved, max_bytes=ROOM)
    wanted = [second, of_bob, first, reserved]
    assert await store.find_files(ALICE, [*ids(wanted), new_file_id()]) == [second, first]
    assert await store.find_files(BOB, ids(wanted)) == [of_bob]
    assert await store.find_files(ALICE, []) == []


async def test_the_bytes_of_a_user_are_limited(store: Store) -> None:
    assert await store.reserve_file(a_file(60), max_bytes=100)
    assert not await store.reserve_file(a_file(41), max_bytes=100)
    assert await store.count_file_bytes(ALICE) == 60
    assert await store.reserve_file(a_file(40), max_bytes=100)
    assert not await store.reserve_file(a_file(1), max_bytes=100)
    assert await store.reserve_file(a_file(0), max_bytes=100)
    assert await store.reserve_file(a_file(100, user=BOB), max_bytes=100)
    assert await store.count_file_bytes(ALICE) == 100


async def test_a_failed_upload_is_forgotten_at_once(store: Store) -> None:
    file = a_file(60)
    assert await store.reserve_file(file, max_bytes=100)
    await store.forget_files([file.file_id])
    assert await store.count_file_bytes(ALICE) == 0
    assert await store.finish_file(file.file_id) is False
    assert await store.deleted_files() == []


async def test_a_file_that_can_be_named_is_not_forgotten(store: Store) -> None:
    unnamed, named = await upload(store), await upload(store)
    await record(store, naming(named))
    await store.forget_files(ids([unnamed, named]))
    assert await store.find_files(ALICE, ids([unnamed, named])) == [unnamed, named]


@pytest.mark.parametrize(
    ("is_finished", "limit"),
    [(True, ORPHAN_SECONDS), (False, UNFINISHED_SECONDS)],
    ids=["finished", "unfinished"],
)
async def test_a_file_that_no_message_names_is_deleted_after_its_time(
    store: Store, is_finished: bool, limit: float
) -> None:
    young, old = a_file(age=limit - MARGIN), a_file(age=limit + MARGIN)
    oldest = a_file(age=limit + 2 * MARGIN)
    for file in (young, old, oldest):
        assert await store.reserve_file(file, max_bytes=ROOM)
        if is_finished:
            assert await store.finish_file(file.file_id)
    assert await store.deleted_files() == [oldest.file_id, old.file_id]
    assert await store.count_file_bytes(ALICE) == young.size
    assert not await is_there(store, old)
    assert await store.finish_file(old.file_id) is False
    assert await store.finish_file(young.file_id) is True
    with pytest.raises(FilesNotFound):
        await store.record(naming(old))
    assert await store.deleted_files() == [oldest.file_id, old.file_id]  # until it is forgotten
    await store.forget_files([oldest.file_id])
    assert await store.deleted_files() == [old.file_id]
    await store.forget_files([old.file_id])
    assert await store.deleted_files() == []


async def test_deleted_files_come_in_pages(store: Store) -> None:
    files = [a_file(age=ORPHAN_SECONDS + MARGIN + each) for each in range(PAGE + 1)]
    for file in files:
        await upload(store, file)
    oldest_first = ids(files)[::-1]
    assert await store.deleted_files(PAGE) == oldest_first[:PAGE]
    assert await store.deleted_files(PAGE + 1) == oldest_first
    await store.forget_files(oldest_first[:PAGE])
    assert await store.deleted_files(PAGE) == oldest_first[PAGE:]


# Messages that name files


async def test_the_history_lists_the_files_of_both_roles(store: Store) -> None:
    first, second, third = [await upload(store) for _ in range(3)]
    message = naming(second, first)
    await record(store, message)
    await store.end_run(answering(message, third, first))
    of_user, of_agent = await page(store)
    assert of_user.attachments == (second.file_id, first.file_id)
    assert of_user.files == (
        ListedFile(second.file_id, "a\x00é.txt", "text/plain", 10),
        ListedFile(first.file_id, "a\x00é.txt", "text/plain", 10),
    )
    assert of_agent.attachments == (third.file_id, first.file_id)
    assert of_agent.files is not None
    assert [file.file_id for file in of_agent.files] == [third.file_id, first.file_id]


async def test_a_message_without_files_lists_none(store: Store) -> None:
    message = new()
    await record(store, message)
    await store.end_run(end_of(message))
    assert [(each.attachments, each.files) for each in await page(store)] == [(None, None)] * 2


async def test_a_message_without_a_key_names_files(store: Store) -> None:
    file = await upload(store)
    await record(store, evolve(new(keyed=False), attachments=(file.file_id,)))
    assert [each.attachments for each in await page(store)] == [(file.file_id,)]


async def test_an_answer_of_files_only_is_a_message(store: Store) -> None:
    file = await upload(store)
    message = new()
    await record(store, message)
    await store.end_run(answering(message, file, text=""))
    _, of_agent = await page(store)
    assert (of_agent.content, of_agent.attachments) == ("", (file.file_id,))


async def missing(_: Store) -> StoredFile:
    return a_file()


async def of_another_user(store: Store) -> StoredFile:
    return await upload(store, a_file(user=BOB))


async def unfinished(store: Store) -> StoredFile:
    file = a_file()
    assert await store.reserve_file(file, max_bytes=ROOM)
    return file


async def deleted(store: Store) -> StoredFile:
    file = await upload(store)
    await record(store, naming(file, thread=OTHER))
    assert await store.delete_thread(ALICE, OTHER)
    return file


async def too_old(store: Store) -> StoredFile:
    file = await upload(store, a_file(age=ORPHAN_SECONDS + MARGIN))
    assert file.file_id in await store.deleted_files()
    return file


ABSENT = (missing, of_another_user, unfinished, deleted, too_old)


async def test_a_message_that_names_absent_files_is_not_recorded(store: Store) -> None:
    present, gone = await upload(store), [await make(store) for make in ABSENT]
    message = naming(gone[0], present, *gone[1:], key="c-1")
    with pytest.raises(FilesNotFound) as error:
        await store.record(message)
    assert list(error.value.file_ids) == ids(gone)
    assert await store.find(message) is None
    assert await store.history(ALICE, MAIN, limit=10) is None
    await record(store, naming(present, key="c-1"))  # the key is free
    assert [each.attachments for each in await page(store)] == [(present.file_id,)]


async def test_one_absent_file_is_enough(store: Store) -> None:
    present = await upload(store)
    for make in ABSENT:
        gone = await make(store)
        with pytest.raises(FilesNotFound) as error:
            await store.record(naming(present, gone))
        assert error.value.file_ids == (gone.file_id,)
    assert await store.history(ALICE, MAIN, limit=10) is None


async def test_an_answer_leaves_absent_files_out(store: Store) -> None:
    present, gone = await upload(store), [await make(store) for make in ABSENT]
    message = new()
    await record(store, message)
    assert await store.end_run(answering(message, *gone, present)) is None
    of_user, of_agent = await page(store)
    assert of_user.run is not None
    assert of_user.run.status is RunStatus.COMPLETED
    assert of_agent.attachments == (present.file_id,)


async def test_a_duplicate_is_found_before_its_files(store: Store) -> None:
    file = await upload(store)
    message = naming(file, key="c-1")
    await record(store, message)
    known = await store.record(evolve(naming(a_file(), key="c-1"), content=message.content))
    assert known is not None
    assert known.message_id == message.message_id


async def test_a_message_that_replaces_another_one_and_lacks_a_file(store: Store) -> None:
    first = new()
    await record(store, first)
    with pytest.raises(FilesNotFound):
        await store.record(evolve(naming(a_file()), replaces=first.message_id))
    assert [each.message_id for each in await page(store)] == [first.message_id]


async def test_a_message_whose_branch_is_missing_names_no_file(store: Store) -> None:
    file = await upload(store, a_file(age=ORPHAN_SECONDS + MARGIN))
    with pytest.raises(MessageNotFound):
        await store.record(evolve(naming(file), replaces=new_message_id()))
    assert await store.deleted_files() == [file.file_id]


# The deletion of messages


async def test_a_named_file_is_never_too_old(store: Store) -> None:
    of_user, of_agent = [await upload(store, a_file(age=ORPHAN_SECONDS + MARGIN)) for _ in range(2)]
    message = naming(of_user)
    await record(store, message)
    await store.end_run(answering(message, of_agent))
    assert await store.deleted_files() == []
    assert await is_there(store, of_user)
    assert await is_there(store, of_agent)


async def test_files_are_deleted_with_their_thread(store: Store) -> None:
    of_user, of_agent, other = [await upload(store) for _ in range(3)]
    message = naming(of_user)
    await record(store, message, naming(other, thread=OTHER))
    await store.end_run(answering(message, of_agent))
    assert await store.delete_thread(ALICE, MAIN)
    assert set(await store.deleted_files()) == {of_user.file_id, of_agent.file_id}
    assert not await is_there(store, of_user)
    assert not await is_there(store, of_agent)
    assert await is_there(store, other)
    assert await store.count_file_bytes(ALICE) == other.size


async def test_a_file_of_two_threads_is_deleted_with_the_last_one(store: Store) -> None:
    file = await upload(store)
    await record(store, naming(file), naming(file), naming(file, thread=OTHER))
    assert await store.delete_thread(ALICE, MAIN)
    assert await is_there(store, file)
    assert await store.deleted_files() == []
    assert await store.delete_thread(ALICE, OTHER)
    assert await store.deleted_files() == [file.file_id]


async def test_a_replaced_message_keeps_its_files(store: Store) -> None:
    file, answer = await upload(store), await upload(store)
    first = naming(file)
    await record(store, first)
    await store.end_run(answering(first, answer))
    await record(store, new(replaces=first.message_id))
    assert [each.attachments for each in await page(store)] == [None]
    assert await is_there(store, file)
    assert await is_there(store, answer)
    assert await store.delete_thread(ALICE, MAIN)
    assert set(await store.deleted_files()) == {file.file_id, answer.file_id}


async def test_the_end_of_a_run_of_a_deleted_thread_names_no_file(store: Store) -> None:
    message = new()
    await record(store, message)
    file = await upload(store, a_file(age=ORPHAN_SECONDS + MARGIN))
    assert await store.delete_thread(ALICE, MAIN)
    await store.end_run(answering(message, file))
    assert await store.deleted_files() == [file.file_id]


async def test_a_second_end_of_a_run_names_no_file(store: Store) -> None:
    message = new()
    await record(store, message)
    await store.end_run(end_of(message))
    file = await upload(store, a_file(age=ORPHAN_SECONDS + MARGIN))
    await store.end_run(answering(message, file))
    assert await store.deleted_files() == [file.file_id]


# The size of a page


def _full(files: int, over: int) -> list[StoredFile]:
    """Return files whose message takes half a page, or `over` bytes more."""
    left = HISTORY_PAGE_BYTES // 2 - HISTORY_LISTED_BYTES + over
    name = left // files - LISTED_BYTES - len("text/plain")
    rest = left - files * (name + LISTED_BYTES + len("text/plain"))
    return [a_file(name="n" * (name + (rest if each == 0 else 0))) for each in range(files)]


@pytest.mark.parametrize("over", [0, 1])
async def test_files_count_for_the_size_of_a_page(store: Store, over: int) -> None:
    for each in (0, over):
        files = _full(2, each)
        for file in files:
            await upload(store, file)
        await record(store, evolve(naming(*files), content=""))
    messages, has_more = await page_of(store)
    assert (len(messages), has_more) == (2 - over, bool(over))
    assert messages[-1].files is not None
    assert len(messages[-1].files) == 2
