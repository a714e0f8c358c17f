"""The commands `user export` and `user delete`: everything that is stored of a user."""

import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import trio
from attrs import frozen

from netra_trio.cli.arguments import Flag, Text
from netra_trio.cli.errors import CommandError
from netra_trio.cli.rows import print_row
from netra_trio.cli.terminal import Screen
from netra_trio.cli.user import load_settings, open_store, user_id_of
from netra_trio.config.settings import Settings
from netra_trio.errors import StorageUnavailable, StoreUnavailable
from netra_trio.files.base import FileStorage
from netra_trio.files.choice import storage_of
from netra_trio.ids import FileId, ThreadId, UserId
from netra_trio.stores.sql.files import delete_unnamed
from netra_trio.stores.sql.personal_data import (
    delete_some_usage,
    deleted_files_of,
    has_data,
    read_files,
    read_messages,
    read_questions_of,
    read_threads,
    read_usage,
    read_user,
    remove_user,
)
from netra_trio.stores.sql.store import SqlStore

STOP_SECONDS = 10.0  # for runs to end; as `netra-trio runs --stop`
LOOK_SECONDS = 0.1  # between two polls of the unfinished runs


def user_export(user: Text, *, json: Flag = False) -> None:
    """Print everything that is stored of a user, also messages that were replaced by an edit.

    Parameters
    ----------
    user
        The user's id.
    json
        Print one JSON object on each line, for programs: its `type` is `user`, `thread`, `message`
        with its feedback, `question`, `file` or `usage`. A `file` says in `location` where its
        content is.
    """
    trio.run(partial(export_user, as_json=json), load_settings(), user)


def user_delete(user: Text, *, json: Flag = False) -> None:
    """Delete a user with all conversations, files, feedback and usage. It cannot be undone.

    The user's connections end (4403), and the runs are stopped. If AUTH_AUTO_PROVISION is true, a
    valid token creates the user again, without the deleted data.

    Parameters
    ----------
    user
        The user's id.
    json
        Print one JSON object, for programs.
    """
    deleted = trio.run(delete_user, load_settings(), user)
    if json:
        counts = {"threads": deleted.threads, "files": deleted.files, "usage": deleted.usage}
        print_row({"user_id": user, **counts})
    else:
        what = f"threads: {deleted.threads}, files: {deleted.files}"
        what += f", reports of usage: {deleted.usage}"
        print(f"{user}: deleted ({what})")  # noqa: T201 - a command's own output
    if deleted.unfinished:
        text = f"{deleted.unfinished} runs have not ended and may still store their usage"
        print(f"{text}; repeat the command later", file=sys.stderr)  # noqa: T201 - likewise


@frozen
class Deleted:
    """How much of a user was deleted.

    Attributes:
        files: The number of files whose content was deleted.
        usage: The number of reports of usage.
        unfinished: The number of runs that did not end within `STOP_SECONDS`.
    """

    threads: int
    files: int
    usage: int
    unfinished: int


async def export_user(settings: Settings, name: str, *, as_json: bool) -> None:
    """Print everything that is stored of a user; on a terminal without its control characters.

    Raises:
        CommandError: There is no such user, no database, or it does not answer.
        DatabaseUnusable: The database can never work.
    """
    user_id, screen = user_id_of(name), Screen(sys.stdout)
    async with open_store(settings) as store:
        try:
            await _check_known(store, user_id)
            async for kind, row in _rows(store, storage_of(settings.files_url), user_id):
                if as_json:
                    print_row({"type": kind, **row})
                else:
                    screen.answer(f"{_text(kind, row)}\n")
        except StoreUnavailable as error:
            raise CommandError(f"the database does not answer: {error}") from None


async def delete_user(settings: Settings, name: str) -> Deleted:
    """Delete everything that is stored of a user.

    First the user is disabled and the runs are stopped, so that nothing is written meanwhile. If it
    is cancelled, a part is deleted; it can be called again.

    Raises:
        CommandError: There is no such user, no database, or it does not answer.
        DatabaseUnusable: The database can never work.
    """
    user_id = user_id_of(name)
    async with open_store(settings) as store:
        try:
            await _check_known(store, user_id)
            await store.set_user_enabled(user_id, enabled=False)
            unfinished = await _stop_runs(store, user_id)
            threads = files = usage = 0
            # A connection may store a last message meanwhile.
            while await store.database.read(partial(has_data, user_id=user_id)):
                threads += await _delete_threads(store, user_id)
                usage += await _delete_usage(store, user_id)
                files += await _delete_files(store, settings, user_id)
                await store.database.write_repeatable(partial(remove_user, user_id=user_id))
            return Deleted(threads, files, usage, unfinished)
        except StoreUnavailable as error:
            raise CommandError(f"the database does not answer: {error}") from None
        except StorageUnavailable as error:
            what = "content of files is left, and the user is disabled; repeat the command later"
            raise CommandError(f"FILES_URL: {error}: {what}") from None


async def _delete_threads(store: SqlStore, user_id: UserId) -> int:
    count = 0
    while page := await store.database.read(partial(read_threads, user_id=user_id, after=0)):
        for _, row in page:
            await store.delete_thread(user_id, ThreadId(row["thread_id"]))
        count += len(page)
    return count


async def _delete_files(store: SqlStore, settings: Settings, user_id: UserId) -> int:
    """Delete the files that no message names any more; return how many contents were deleted."""
    await store.database.write_repeatable(partial(delete_unnamed, user_id=user_id))
    count = 0
    work = partial(deleted_files_of, user_id=user_id)
    while page := await store.database.read(work):
        storage = storage_of(settings.files_url)
        async with storage.open():
            for file_id in page:
                await storage.delete(file_id)
        await store.forget_files(page)
        count += len(page)
    return count


async def _delete_usage(store: SqlStore, user_id: UserId) -> int:
    count = 0
    work = partial(delete_some_usage, user_id=user_id)
    while deleted := await store.database.write_repeatable(work):
        count += deleted
    return count


async def _stop_runs(store: SqlStore, user_id: UserId) -> int:
    """Stop the runs of a user, and wait until they have ended; return how many have not.

    A run of an ended server ends.
    """
    await store.end_gone_runs()
    for run in await store.unfinished_runs(user_id):
        await store.request_stop(run.run_id)
    with trio.move_on_after(STOP_SECONDS):
        while await store.unfinished_runs(user_id):  # noqa: ASYNC110 - a database sends no event
            await trio.sleep(LOOK_SECONDS)
    return len(await store.unfinished_runs(user_id))


async def _check_known(store: SqlStore, user_id: UserId) -> None:
    if not await store.database.read(partial(has_data, user_id=user_id)):
        raise CommandError(f"there is no user {user_id!r}; list them with: netra-trio user list")


async def _rows(
    store: SqlStore, storage: FileStorage, user_id: UserId
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield what is stored of a user, each with its kind, in pages of bounded size."""
    read = store.database.read
    if (user := await read(partial(read_user, user_id=user_id))) is not None:
        yield "user", user
    thread = 0
    while page := await read(partial(read_threads, user_id=user_id, after=thread)):
        for thread, row in page:  # the next page begins after the last one
            yield "thread", row
            async for each in _messages(store, thread, row["thread_id"]):
                yield each
    last = ""
    while files := await read(partial(read_files, user_id=user_id, after=last)):
        last = files[-1]["file_id"]
        for row in files:
            yield "file", {**row, "location": storage.location(FileId(row["file_id"]))}
    report = ""
    while reports := await read(partial(read_usage, user_id=user_id, after=report)):
        for report, row in reports:  # noqa: B007 - the next page begins after the last one
            yield "usage", row


async def _messages(
    store: SqlStore, thread: int, thread_id: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    read = store.database.read
    last = (0, 0)
    while page := await read(partial(read_messages, thread=thread, after=last)):
        of_page = [row["run"]["run_id"] for _, row in page if row["role"] == "user"]
        asked = await read(partial(read_questions_of, run_ids=of_page))
        last = page[-1][0]
        for _, row in page:
            yield "message", {"thread_id": thread_id, **row}
            its = row["run"]["run_id"] if row["role"] == "user" else None
            for question in asked:
                if question["run_id"] == its:
                    yield "question", {"thread_id": thread_id, **question}


def _text(kind: str, row: dict[str, Any]) -> str:
    """Return a row as lines for people: Markdown."""
    match kind:
        case "user":
            return f"# {row['user_id']}\n"
        case "thread":
            return f"## {row['title'] or row['thread_id']}\n\n{_moment(row['updated_at'])}\n"
        case "message":
            name = row["run"]["agent_name"] if row["role"] == "agent" and "run" in row else None
            marks = [_moment(row["created_at"]), *(["replaced"] if "replaced" in row else [])]
            if "feedback" in row:
                rated = row["feedback"]
                marks.append(f"rated {rated['rating']}: {rated.get('comment', 'no comment')}")
            return f"### {name or row['role']} ({', '.join(marks)})\n\n{row['content']}\n"
        case "question":
            return f"### {row['kind']}: {row.get('outcome', 'open')}\n\n{row['prompt']}\n"
        case "file":
            return f"file {row['name']!r}, {row['bytes']} bytes: {row['location']}"
        case _:
            used = f"{row['input_tokens']} + {row['output_tokens']} tokens"
            return f"{_moment(row['created_at'])} {row['model']}: {used}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
