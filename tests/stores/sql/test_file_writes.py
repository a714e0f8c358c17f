"""Files in a database: concurrent transactions, writes that fail or are half done, clocks."""

import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
from attrs import evolve
from sqlalchemy import Connection, select, text
from stores.file_samples import ROOM, a_file, answering, ids, is_there, naming, page, upload
from stores.samples import (
    ALICE,
    BOB,
    MAIN,
    OTHER,
    PATIENCE,
    again,
    change,
    end_of,
    new,
    record,
)
from stores.sql_samples import LostAnswers, outcome, wait_until_ready

from netra_trio.errors import DatabaseUnusable, FilesNotFound, NotStorable, StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.files import DELETED_PAGE, ORPHAN_SECONDS, UNFINISHED_SECONDS, StoredFile
from netra_trio.stores.sql import files as sql_files
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.entries import EndRun, RecordMessage
from netra_trio.stores.sql.errors import Overtaken
from netra_trio.stores.sql.files import NamedFiles, name_files, reserve, take_deleted
from netra_trio.stores.sql.retention import DAY, delete_old
from netra_trio.stores.sql.schema import files, message_files, messages
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.sql.thread_numbers import ThreadNumbers
from netra_trio.stores.sql.threads import delete_thread

T = TypeVar("T")
Work = Callable[[Connection], Any]

pytestmark = pytest.mark.usefixtures("short_retry")

OLD = ORPHAN_SECONDS + 60.0  # seconds, an age
WAITS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def state_of(connection: Connection, file: StoredFile) -> str | None:
    """Return the state of a file, None if it has no row."""
    this = select(files.c.state).where(files.c.file_id == file.file_id)
    state: str | None = connection.scalar(this)
    return state


def states(url: str, *these: StoredFile) -> list[str | None]:
    return change(url, lambda connection: [state_of(connection, file) for file in these])


# Several transactions at once, in PostgreSQL: SQLite executes one after the other


@contextmanager
def in_order(url: str, first: Callable[[Connection], T], second: Work) -> Iterator[Future[Any]]:
    """Execute two transactions; the second one begins before the first one is committed.

    If the second one waits for the first one, it waits until the block is entered.
    """
    with ThreadPoolExecutor(1) as executor, closing(Database(url)) as database:
        with database.engine.connect() as connection, connection.begin():
            first(connection)
            late = executor.submit(change, url, second)
            until = time.monotonic() + PATIENCE
            while not late.done() and not change(url, lambda other: other.scalar(WAITS)):
                assert time.monotonic() < until
        yield late


async def number_of(store: SqlStore, *named: StoredFile, thread: Any = MAIN) -> int:
    """Record a message that names files; return its number."""
    message = naming(*named, thread=thread)
    await record(store, message)
    this = select(messages.c.number).where(messages.c.message_id == message.message_id)
    return int(await store.database.read(lambda connection: connection.scalar(this)) or 0)


def naming_work(number: int, file: StoredFile) -> Work:
    """Return a transaction that names a file, as that of a batch does."""
    return lambda connection: name_files(connection, [NamedFiles(number, ALICE, [file.file_id])])


def taking_work(connection: Connection) -> list[str]:
    """Delete what is too old, as `deleted_files` does."""
    return list(take_deleted(connection, moment=time.time(), limit=DELETED_PAGE))


def deleting_work(thread: Any) -> Work:
    """Return a transaction that deletes a thread of Alice."""
    return lambda connection: delete_thread(connection, ALICE, thread)


async def test_a_file_that_is_being_named_is_not_deleted(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        file = await upload(store, a_file(age=OLD))
        number = await number_of(store)
    with in_order(postgres_url, naming_work(number, file), taking_work) as late:
        assert late.result() == []
    assert change(postgres_url, taking_work) == []
    assert states(postgres_url, file) == ["named"]


async def test_a_file_that_is_being_deleted_is_not_named(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        file = await upload(store, a_file(age=OLD))
        number = await number_of(store)
    with in_order(postgres_url, taking_work, naming_work(number, file)) as late:
        assert isinstance(late.exception(), Overtaken)
    assert states(postgres_url, file) == ["deleted"]


async def test_a_thread_is_deleted_while_another_one_names_its_file(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        file = await upload(store)
        await record(store, naming(file))
        number = await number_of(store, thread=OTHER)
    with in_order(postgres_url, naming_work(number, file), deleting_work(MAIN)) as late:
        assert late.result() is True
    assert states(postgres_url, file) == ["named"]
    assert change(postgres_url, deleting_work(OTHER)) is True
    assert states(postgres_url, file) == ["deleted"]


async def test_a_message_names_a_file_whose_thread_is_being_deleted(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        file = await upload(store)
        await record(store, naming(file))
        number = await number_of(store, thread=OTHER)
    with in_order(postgres_url, deleting_work(MAIN), naming_work(number, file)) as late:
        assert isinstance(late.exception(), Overtaken)
    assert states(postgres_url, file) == ["deleted"]


async def test_the_last_two_threads_of_a_file_are_deleted_at_once(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        file = await upload(store)
        await record(store, naming(file), naming(file, thread=OTHER))
    with in_order(postgres_url, deleting_work(MAIN), deleting_work(OTHER)) as late:
        assert late.result() is True
    assert states(postgres_url, file) == ["deleted"]


async def test_a_file_is_deleted_while_a_message_that_names_it_is_recorded(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        gone, kept = await upload(store, a_file(age=OLD)), await upload(store)
        message, other = naming(gone, kept, key="c-1"), naming(kept, thread=OTHER)

        def then_delete(connection: Connection, *wanted: Any) -> Any:
            found = sql_files.missing_files(connection, *wanted)
            change(postgres_url, taking_work)
            return found

        monkeypatch.setattr(f"{Batch.__module__}.missing_files", then_delete)
        with pytest.raises(FilesNotFound) as error:
            await store.record(message)
        assert error.value.file_ids == (gone.file_id,)
        assert await store.find(message) is None
        assert await store.history(ALICE, MAIN, limit=1) is None
        await record(store, other)
        assert await is_there(store, kept)


async def test_the_quota_holds_for_two_transactions(postgres_url: str) -> None:
    one, other = a_file(60), a_file(60)
    works = [partial(reserve, file=each, max_bytes=100) for each in (one, other)]
    with in_order(postgres_url, works[0], works[1]) as late:
        assert late.result() is False
    assert states(postgres_url, one, other) == ["reserved", None]


async def test_other_users_do_not_wait_for_the_quota(postgres_url: str) -> None:
    one, other = a_file(60), a_file(60, user=BOB)
    works = [partial(reserve, file=each, max_bytes=100) for each in (one, other)]
    with in_order(postgres_url, works[0], works[1]) as late:
        assert late.result() is True
    assert states(postgres_url, one, other) == ["reserved", "reserved"]


# Retention


async def test_old_messages_take_their_files_with_them(store: SqlStore, url: str) -> None:
    of_old, of_answer, of_both, of_young = [await upload(store) for _ in range(4)]
    old, young = naming(of_old, of_both), naming(of_young, of_both)
    old, young = evolve(old, created_at=1.0), evolve(young, created_at=10.0)
    for message in (old, young):
        await record(store, message)
    await store.end_run(answering(old, of_answer))
    await store.end_run(end_of(young))
    assert change(url, partial(delete_old, older_than=5.0)) == 1
    these = (of_old, of_answer, of_both, of_young)
    assert states(url, *these) == ["deleted", "deleted", "named", "named"]
    assert set(await store.deleted_files()) == {of_old.file_id, of_answer.file_id}
    assert change(url, partial(delete_old, older_than=50.0)) == 1
    assert states(url, of_both, of_young) == ["deleted", "deleted"]


# Writes that fail


async def test_a_message_that_was_not_stored_lets_its_file_be_named_again(
    store: SqlStore, url: str
) -> None:
    file, shared = await upload(store), await upload(store)
    await record(store, naming(shared, thread=OTHER))
    lost = LostAnswers(store.database)
    lost.times = 3
    message = naming(file, shared, key="c-1")
    assert await outcome(store, message) == "unavailable"
    await wait_until_ready(store)
    assert states(url, file, shared) == ["unnamed", "named"]
    await record(store, evolve(again(message), attachments=message.attachments))
    assert [each.attachments for each in await page(store)] == [message.attachments]


async def test_a_cancelled_message_lets_its_file_be_named_again(store: SqlStore, url: str) -> None:
    file = await upload(store, a_file(age=OLD))
    write = store.database.write

    async def write_and_cancel(work: Callable[[Connection], Any]) -> Any:
        done = await write(work)
        scope.cancel()
        return done

    store.database.write = write_and_cancel  # type: ignore[method-assign]
    with trio.CancelScope() as scope:
        await store.record(naming(file))
    store.database.write = write  # type: ignore[method-assign]
    assert scope.cancelled_caught
    assert await store.history(ALICE, MAIN, limit=1) is None
    assert states(url, file) == ["unnamed"]
    assert await store.deleted_files() == [file.file_id]


async def test_a_lost_answer_names_files_once(store: SqlStore) -> None:
    first, second = await upload(store), await upload(store)
    message = naming(first)
    entries = [RecordMessage(message), EndRun(answering(message, second))]
    # Its transaction was committed, and the answer was lost: the batch is repeated.
    for may_be_partial in (False, True):
        batch = Batch(entries, store.owner, ThreadNumbers(), may_be_partial)
        await store.database.write(batch.write)
    assert [each.attachments for each in await page(store)] == [
        (first.file_id,),
        (second.file_id,),
    ]


async def test_a_transaction_that_is_repeated_names_files_once(store: SqlStore) -> None:
    file = await upload(store)
    batch = Batch([RecordMessage(naming(file))], store.owner, ThreadNumbers())
    await store.database.rehearse(batch.write)  # it is rolled back, as after a deadlock
    await store.database.write(batch.write)
    assert [each.attachments for each in await page(store)] == [(file.file_id,)]


async def test_messages_of_one_batch_name_one_file(store: SqlStore, url: str) -> None:
    first, second = await upload(store), await upload(store)
    earlier = new()
    await record(store, earlier)
    one, other = naming(first), evolve(naming(first, second), replaces=earlier.message_id)
    lacking = naming(a_file())
    entries = [RecordMessage(message) for message in (one, other, lacking)]
    answer = EndRun(answering(earlier, second, second))
    batch = Batch([*entries, answer], store.owner, ThreadNumbers())
    await store.database.write(batch.write)
    assert [len(entry.missing_files) for entry in entries] == [0, 0, 1]
    assert states(url, first, second) == ["named", "named"]
    rows = change(url, lambda connection: connection.execute(select(message_files)).all())
    assert sorted(row.file_id for row in rows) == sorted(ids([first, first, second, second]))


async def test_an_end_that_is_refused_is_stored_without_text_and_files(store: SqlStore) -> None:
    file = await upload(store)
    message = new()
    await record(store, message)
    await store.end_run(answering(message, file, text="\ud800"))
    (of_user,) = await page(store)
    assert of_user.run is not None
    assert of_user.run.status is RunStatus.COMPLETED


async def test_a_name_that_cannot_be_stored(store: SqlStore) -> None:
    with pytest.raises(NotStorable):
        await store.reserve_file(a_file(name="\ud800"), max_bytes=ROOM)
    assert await store.count_file_bytes(ALICE) == 0


async def test_a_database_that_became_unusable(store: SqlStore) -> None:
    async def fail(_: object) -> None:
        raise DatabaseUnusable("another file")

    store.database.write = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable, match="another file"):
        await store.reserve_file(a_file(), max_bytes=ROOM)


RESERVED, TOO_OLD = a_file(), a_file(age=UNFINISHED_SECONDS + 60.0)
CALLS: dict[str, tuple[Callable[[SqlStore], Awaitable[Any]], Any]] = {
    "reserve": (lambda store: store.reserve_file(RESERVED, max_bytes=RESERVED.size), True),
    "finish": (lambda store: store.finish_file(TOO_OLD.file_id), True),
    "deleted": (lambda store: store.deleted_files(), [TOO_OLD.file_id]),
    "forget": (lambda store: store.forget_files([TOO_OLD.file_id]), None),
}


async def lose_the_answer(store: SqlStore, call: Awaitable[Any]) -> None:
    lost = LostAnswers(store.database)
    lost.times = 1
    with pytest.raises(StoreUnavailable):
        await call


async def cancel(store: SqlStore, call: Awaitable[Any]) -> None:
    write = store.database.write

    async def write_and_cancel(work: Callable[[Connection], Any]) -> Any:
        done = await write(work)
        scope.cancel()
        await trio.lowlevel.checkpoint()
        return done

    store.database.write = write_and_cancel  # type: ignore[method-assign]
    with trio.CancelScope() as scope:
        await call
    store.database.write = write  # type: ignore[method-assign]
    assert scope.cancelled_caught


@pytest.mark.parametrize("fail", [lose_the_answer, cancel])
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_repeated_after_its_answer_was_lost(
    store: SqlStore,
    name: str,
    fail: Callable[[SqlStore, Awaitable[Any]], Awaitable[None]],
) -> None:
    call, expected = CALLS[name]
    if name != "reserve":
        assert await store.reserve_file(TOO_OLD, max_bytes=ROOM)
    await fail(store, call(store))
    assert await call(store) == expected
    total = {"reserve": RESERVED.size, "finish": TOO_OLD.size}
    assert await store.count_file_bytes(ALICE) == total.get(name, 0)


# Clocks


@pytest.mark.parametrize(
    ("ahead", "age"),
    [(10 * DAY, 0.0), (-10 * DAY, 10 * DAY)],
    ids=["ahead", "behind, as the file's"],
)
async def test_a_clock_that_is_wrong_deletes_no_recent_file(
    url: str, ahead: float, age: float
) -> None:
    store = SqlStore(url, wall_clock=lambda: time.time() + ahead)
    async with store.open():
        file = await upload(store, a_file(age=age))
        assert await store.deleted_files() == []
        assert await is_there(store, file)


async def test_many_files_are_found_and_forgotten(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_files, "KEYS", 2)
    these = [await upload(store) for _ in range(5)]
    assert await store.find_files(ALICE, ids(these)) == these
    await record(store, naming(*these))
    assert await store.delete_thread(ALICE, MAIN)
    assert set(await store.deleted_files()) == set(ids(these))
    await store.forget_files(ids(these))
    assert await store.deleted_files() == []
