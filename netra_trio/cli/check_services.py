"""Whether the services that the settings name answer: the database and the key server.

ok, text = (await check_services(settings))["database"]
"""

from contextlib import closing

import trio
from sqlalchemy import text

from netra_trio.auth.jwk import KeysUnavailable, parse_keys
from netra_trio.auth.key_server import KeyServer
from netra_trio.config.settings import Settings
from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.stores.sql.database import Database, database_file, is_in_memory
from netra_trio.stores.sql.migrate import current_revision

ANSWER_SECONDS = 5.0  # for a database: it connects within 3 s and cancels a statement after 2 s

Answer = tuple[bool, str]


async def check_services(settings: Settings) -> dict[str, Answer]:
    """Return for each service whether it answers, and a text about it."""
    answers = {
        "database": await check_database(settings),
        "key server": await check_key_server(settings),
    }
    return {service: answer for service, answer in answers.items() if answer is not None}


async def check_database(settings: Settings) -> Answer:
    """Return whether the database answers, and a text about it; changes no data."""
    url = settings.database_url
    if url is None or is_in_memory(url):
        return True, "in memory: everything is lost when the process ends"
    file = database_file(url)
    if file is not None and not file.exists():
        return True, "does not exist yet; the first start creates it"
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
        return False, f"does not answer: {reason_of(error)}"
    name = "SQLite" if database.is_sqlite else "PostgreSQL"
    schema = (
        "no schema yet; the first start creates it" if revision is None else f"schema {revision}"
    )
    return True, f"answers, {name} {'.'.join(map(str, version or ()))}, {schema}"


async def check_key_server(settings: Settings) -> Answer | None:
    """Return whether the key server answers, and a text about it; None if there is none."""
    if settings.jwt_jwks_url is None:
        return None
    try:
        keys = parse_keys(await KeyServer(settings.jwt_jwks_url).fetch())
    except KeysUnavailable as error:
        return False, str(error)
    return True, f"answers, {len(keys)} usable keys ({', '.join(key.algorithm for key in keys)})"


def reason_of(error: Exception) -> str:
    """Return the text of an error; a time-out has none of its own."""
    return str(error) or f"nothing within {ANSWER_SECONDS:g} s"
