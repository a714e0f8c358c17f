"""What an operator asks from a command line: users, and whether what the server needs answers.

async with open_users(settings) as store:
    await store.create_user(UserId("alice"))
ok, told = await ask_database(settings)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import trio
from sqlalchemy import text

from netra_trio.auth.identity import is_user_id
from netra_trio.auth.jwk import KeysUnavailable, parse_keys
from netra_trio.auth.key_server import KeyServer
from netra_trio.config.settings import Settings
from netra_trio.errors import DatabaseUnusable, NetraError, StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.stores.sql.database import Database, database_file, is_in_memory
from netra_trio.stores.sql.migrate import current_revision
from netra_trio.stores.sql.store import SqlStore

ANSWER_SECONDS = 5.0  # for a database to answer: it connects within 3 and gives up a statement in 2
PAGE = 1000  # users listed at once


class OperatorError(NetraError):
    """What was asked for cannot be done; the text says why and what to do."""


@asynccontextmanager
async def open_users(settings: Settings) -> AsyncIterator[SqlStore]:
    """Open the users table of the database that the settings name, made where there is none.

    Raises:
        OperatorError: If there is no database, or it does not answer.
        DatabaseUnusable: If it can never work.
    """
    if settings.database_url is None or is_in_memory(settings.database_url):
        raise OperatorError("users in memory go with the process: set DATABASE_URL to a database")
    store = SqlStore(settings.database_url)
    try:
        with trio.fail_after(ANSWER_SECONDS):
            await store.bring_up()
            yield store
    except (StoreUnavailable, trio.TooSlowError) as error:
        raise OperatorError(f"the database does not answer: {_why(error)}") from None
    finally:
        store.database.close()


async def add_user(settings: Settings, name: str) -> bool:
    """Add a user, enabled; return whether there was none of that name."""
    user_id = _user_id(name)
    async with open_users(settings) as store:
        known = await store.get_user(user_id)
        await store.create_user(user_id)
    return known is None


async def set_user_enabled(settings: Settings, name: str, *, enabled: bool) -> None:
    """Enable or disable a user.

    Raises:
        OperatorError: If there is no such user.
    """
    user_id = _user_id(name)
    async with open_users(settings) as store:
        if not await store.set_user_enabled(user_id, enabled=enabled):
            raise OperatorError(f"there is no user {name!r}; add it with: netra-trio user add")


async def list_users(settings: Settings) -> list[tuple[str, bool]]:
    """Return every user by id, and whether it is enabled."""
    async with open_users(settings) as store:
        page = await store.list_users(limit=PAGE)
        users = list(page)
        while len(page) == PAGE:
            page = await store.list_users(after=page[-1].id, limit=PAGE)
            users += page
    return [(user.id, user.enabled) for user in users]


async def ask_database(settings: Settings) -> tuple[bool, str]:
    """Return whether the database answers, and in words how; no data of it is changed."""
    url = settings.database_url
    if url is None or is_in_memory(url):
        return True, "in memory: everything goes with the process"
    file = database_file(url)
    if file is not None and not file.exists():
        return True, "not there yet; the first start makes it"
    try:
        database = Database(url)
        with closing(database), trio.fail_after(ANSWER_SECONDS):
            version, revision = await database.read(
                lambda connection: (
                    connection.dialect.server_version_info,
                    current_revision(connection) if connection.scalar(text("SELECT 1")) else None,
                )
            )
    except (DatabaseUnusable, StoreUnavailable, trio.TooSlowError) as error:
        return False, f"does not answer: {_why(error)}"
    name = "SQLite" if database.is_sqlite else "PostgreSQL"
    schema = "no schema yet; the first start makes it" if revision is None else f"schema {revision}"
    return True, f"answers, {name} {'.'.join(map(str, version or ()))}, {schema}"


async def ask_key_server(settings: Settings) -> tuple[bool, str] | None:
    """Return whether the key server answers, and in words how; None where there is none."""
    if settings.jwt_jwks_url is None:
        return None
    try:
        keys = parse_keys(await KeyServer(settings.jwt_jwks_url).fetch())
    except KeysUnavailable as error:
        return False, str(error)
    return True, f"answers, {len(keys)} usable keys ({', '.join(key.algorithm for key in keys)})"


def _user_id(name: str) -> UserId:
    if not is_user_id(name):
        raise OperatorError(f"expected a printable user id of 1 to 255 characters, got {name!r}")
    return UserId(name)


def _why(error: Exception) -> str:
    return str(error) or f"nothing within {ANSWER_SECONDS:g} s"
