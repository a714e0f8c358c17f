"""The command `user`: adds, disables, enables and lists users; `user_data` exports and deletes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import cast

import cyclopts
import trio

from netra_trio.auth.identity import is_user_id
from netra_trio.cli.arguments import Text
from netra_trio.cli.check_services import ANSWER_SECONDS, reason_of
from netra_trio.cli.errors import CommandError
from netra_trio.config.loading import load
from netra_trio.config.settings import Settings
from netra_trio.errors import NotStorable, StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.stores.sql.database import STATEMENT_SECONDS, Database, is_in_memory
from netra_trio.stores.sql.store import SqlStore
from netra_trio.telemetry import logs

PAGE = 1000  # users that are read at once

_STATE = {True: "enabled", False: "disabled"}

users = cyclopts.App(name="user", help="Add, disable, enable, list, export and delete users.")
users.command(
    "netra_trio.cli.user_data:user_export", name="export", help="Print all data of a user."
)
users.command(
    "netra_trio.cli.user_data:user_delete", name="delete", help="Delete a user permanently."
)


@users.command(name="add")
def user_add(*user: Text) -> None:
    """Add users, so that the server accepts their tokens.

    Parameters
    ----------
    user
        The user's id: the subject of the user's tokens. One or more.
    """
    settings = load_settings()
    for name in _at_least_one(user):
        is_new = trio.run(add_user, settings, name)
        print(f"{name}: {'added' if is_new else 'exists already'}")  # noqa: T201 - a command's own output


@users.command(name="disable")
def user_disable(*user: Text) -> None:
    """Disable users: they are refused, and their connections end within seconds (4403).

    Parameters
    ----------
    user
        The user's id. One or more.
    """
    _set_enabled(user, enabled=False)


@users.command(name="enable")
def user_enable(*user: Text) -> None:
    """Enable users who were disabled.

    Parameters
    ----------
    user
        The user's id. One or more.
    """
    _set_enabled(user, enabled=True)


@users.command(name="list")
def user_list() -> None:
    """List every user by id, and whether the user is enabled."""
    for name, is_enabled in trio.run(list_users, load_settings()):
        print(f"{name}\t{_STATE[is_enabled]}")  # noqa: T201 - a command's own output


def _set_enabled(names: tuple[str, ...], *, enabled: bool) -> None:
    settings = load_settings()
    for name in _at_least_one(names):
        trio.run(partial(set_user_enabled, enabled=enabled), settings, name)
        print(f"{name}: {_STATE[enabled]}")  # noqa: T201 - a command's own output


def load_settings() -> Settings:
    """Return the settings, and prepare the log."""
    logs.configure()  # to standard error: that a database was created, if it was
    return load(os.environ, directory=Path.cwd()).settings


def _at_least_one(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise CommandError("expected a user id, got nothing")
    return names


@asynccontextmanager
async def open_users(settings: Settings) -> AsyncIterator[SqlStore]:
    """Open the users table of the configured database, which is created if it does not exist.

    Raises:
        CommandError: There is no database, it does not answer, or it refuses what is written.
        DatabaseUnusable: The database can never work.
    """
    if settings.database_url is None or is_in_memory(settings.database_url):
        raise CommandError(
            "users in memory are lost when the process ends: set DATABASE_URL to a database"
        )
    store = SqlStore(settings.database_url)
    try:
        with trio.fail_after(ANSWER_SECONDS):
            await store.bring_up()
            yield store
    except (StoreUnavailable, trio.TooSlowError) as error:
        raise CommandError(f"the database does not answer: {reason_of(error)}") from None
    except NotStorable as error:
        raise CommandError(f"the database refuses it: {error}") from None
    finally:
        store.database.close()


@asynccontextmanager
async def open_store(
    settings: Settings, *, statement_seconds: int = STATEMENT_SECONDS
) -> AsyncIterator[SqlStore]:
    """Open the configured database for longer than `open_users`; its schema is up to date.

    The caller handles `StoreUnavailable` in the block.

    Args:
        settings: The settings.
        statement_seconds: After this time PostgreSQL cancels a statement.

    Raises:
        CommandError: As `open_users`.
        DatabaseUnusable: The database can never work.
    """
    async with open_users(settings):
        pass  # the time limit of this context is short
    url = cast("str", settings.database_url)  # `open_users` rejects None
    with closing(Database(url, statement_seconds=statement_seconds)) as database:
        yield SqlStore(database)


async def add_user(settings: Settings, name: str) -> bool:
    """Add a user, enabled; return whether the user is new."""
    user_id = user_id_of(name)
    async with open_users(settings) as store:
        known = await store.get_user(user_id)
        await store.create_user(user_id)
    return known is None


async def set_user_enabled(settings: Settings, name: str, *, enabled: bool) -> None:
    """Enable or disable a user.

    Raises:
        CommandError: There is no such user.
    """
    user_id = user_id_of(name)
    async with open_users(settings) as store:
        if not await store.set_user_enabled(user_id, enabled=enabled):
            raise CommandError(f"there is no user {name!r}; add it with: netra-trio user add")


async def list_users(settings: Settings) -> list[tuple[str, bool]]:
    """Return every user by id, and whether it is enabled."""
    async with open_users(settings) as store:
        page = await store.list_users(limit=PAGE)
        found = list(page)
        while len(page) == PAGE:
            page = await store.list_users(after=page[-1].id, limit=PAGE)
            found += page
    return [(user.id, user.enabled) for user in found]


def user_id_of(name: str) -> UserId:
    """Return a user id.

    Raises:
        CommandError: If it can be none.
    """
    if not is_user_id(name):
        raise CommandError(f"expected a printable user id of 1 to 255 characters, got {name!r}")
    return UserId(name)
