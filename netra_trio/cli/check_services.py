"""Whether the services that the settings name answer: database, files, login, broker, webhook.

ok, text = (await check_services(settings))["database"]
"""

import os
import time
from contextlib import closing
from pathlib import Path

import trio

from netra_trio.auth.jwk import KeysUnavailable, parse_keys
from netra_trio.auth.key_server import KeyServer
from netra_trio.auth.provider import IdentityProvider
from netra_trio.broker.valkey.choice import backend_of
from netra_trio.config.settings import KEY_SERVER_ALGORITHMS, Settings
from netra_trio.config.value_kinds import S3_SCHEME
from netra_trio.errors import (
    BrokerUnavailable,
    BrokerUnusable,
    ContentMissing,
    DatabaseUnusable,
    SettingsError,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.files.base import FileStorage
from netra_trio.files.choice import storage_of
from netra_trio.files.spool import Spool
from netra_trio.ids import new_file_id, new_node_id
from netra_trio.stores.sql.database import Database, database_file, is_in_memory
from netra_trio.stores.sql.errors import advice, is_answer
from netra_trio.stores.sql.rehearsal import rehearse
from netra_trio.stores.sql.schema import REVISIONS
from netra_trio.webhook.endpoint import Endpoint, NotDelivered

ANSWER_SECONDS = 5.0  # for a database: it connects within 3 s and cancels a statement after 2 s

Answer = tuple[bool, str]


async def check_services(settings: Settings) -> dict[str, Answer]:
    """Return for each service whether it answers, and a text about it."""
    answers = {
        "database": await check_database(settings),
        "files": await check_files(settings),
        "key server": await check_key_server(settings),
        "identity provider": await check_provider(settings),
        "broker": await check_broker(settings),
        "webhook": await check_webhook(settings),
    }
    return {service: answer for service, answer in answers.items() if answer is not None}


async def check_database(settings: Settings) -> Answer:
    """Return whether the database can do what a server needs, and a text about it.

    Writes are tried and rolled back, the creation of the schema too: no data is changed.
    """
    url = settings.database_url
    if url is None or is_in_memory(url):
        return True, "in memory: everything is lost when the process ends"
    file = database_file(url)
    if file is not None and not file.exists():
        return _check_folder(file)
    try:
        database = Database(url)
    except DatabaseUnusable as error:
        return False, f"does not answer: {error}"
    try:
        with closing(database), trio.fail_after(ANSWER_SECONDS):
            revision = await database.rehearse(rehearse)
    except DatabaseUnusable as error:
        return False, f"cannot be used: {error}"
    except (StoreUnavailable, trio.TooSlowError) as error:
        how = "cannot be used" if is_answer(error.__cause__) else "does not answer"
        todo = advice(error.__cause__)
        return False, f"{how}: {reason_of(error)}" + ("" if todo is None else f"; {todo}")
    name = "SQLite" if database.is_sqlite else "PostgreSQL"
    version = ".".join(map(str, database.engine.dialect.server_version_info or ()))
    return True, f"answers, {name} {version}, takes writes, {_schema_text(revision)}"


def _schema_text(revision: str | None) -> str:
    if revision is None:
        return "no schema yet; the first start creates it"
    if revision != REVISIONS[-1]:
        return f"schema {revision}; the next start brings it to {REVISIONS[-1]}"
    return f"schema {revision}"


def _check_folder(file: Path) -> Answer:
    """Return whether a database file that does not exist can be created."""
    folder = file.parent
    if not folder.is_dir():
        return False, f"{file} cannot be created; create {folder}, or use another path"
    as_writer = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=as_writer):
        return False, f"{file} cannot be created; make {folder} writable, or use another path"
    return True, "does not exist yet; the first start creates it"


async def check_key_server(settings: Settings) -> Answer | None:
    """Return whether the key server answers, and a text about it; None if there is none."""
    if settings.jwt_jwks_url is None:
        return None
    try:
        keys = parse_keys(await KeyServer(settings.jwt_jwks_url).fetch())
    except KeysUnavailable as error:
        return False, str(error)
    return True, f"answers, {len(keys)} usable keys ({', '.join(key.algorithm for key in keys)})"


async def check_provider(settings: Settings) -> Answer | None:
    """Return whether users can sign in at the provider, and a text about it.

    None without a provider, and if this server does not ask it, because JWT_JWKS_URL is set.
    """
    if settings.oidc_issuer is None or settings.jwt_jwks_url is not None:
        return None
    provider = IdentityProvider(settings.oidc_issuer)
    try:
        keys = parse_keys(await provider.fetch())
    except KeysUnavailable as error:
        return False, str(error)
    document = provider.document
    accepted = [name for name in settings.jwt_algorithms or () if name in KEY_SERVER_ALGORITHMS]
    if document is not None:
        signed = document.algorithms
        if signed and not set(signed) & set(accepted):
            listed = ", ".join(signed)
            return False, f"signs tokens with {listed}, and only {', '.join(accepted)} are accepted"
        if document.challenge_methods is not None and "S256" not in document.challenge_methods:
            return False, "does not offer PKCE with S256, which the pages use to sign in"
    return True, f"answers, {len(keys)} usable keys ({', '.join(key.algorithm for key in keys)})"


async def check_broker(settings: Settings) -> Answer | None:
    """Return whether the broker can do what a server needs, and a text about it; None without one.

    What is written is deleted again: running servers are not disturbed.
    """
    try:
        backend = backend_of(settings.redis_url, new_node_id())
        if backend is None:
            return None
        server, nodes = await backend.try_out()
    except BrokerUnusable as error:
        return False, f"cannot be used: {error}"
    except BrokerUnavailable as error:
        return False, f"does not answer as needed: {error}"
    doubt = "" if server.policy else "; its maxmemory-policy is unknown, and must be noeviction"
    return True, f"answers, {server.name}, takes writes, running servers: {nodes}{doubt}"


async def check_files(settings: Settings) -> Answer:
    """Return whether files can be stored, and a text about it.

    The written file is deleted again. A folder that does not exist is not created.
    """
    url = settings.files_url
    try:
        storage = storage_of(url)
        with trio.fail_after(ANSWER_SECONDS):
            async with storage.open():
                await storage.check()
                if url is not None and not url.startswith(S3_SCHEME) and not _exists(url):
                    return True, f"{url} does not exist yet; the first upload creates it"
                await _try_out(storage)
    except SettingsError as error:
        return False, str(error)
    except (StorageUnavailable, ContentMissing, trio.TooSlowError) as error:
        return False, f"{url} cannot be used: {reason_of(error)}; set FILES_URL to another place"
    return True, f"{url} takes writes"


def _exists(folder: str) -> bool:
    return Path(folder).exists()


async def _try_out(storage: FileStorage) -> None:
    """Store a file, read it and delete it.

    Raises:
        StorageUnavailable: That is not possible.
        ContentMissing: The stored content cannot be read.
    """
    file_id = new_file_id()
    async with Spool(storage.spool_folder, limit=1, threads=storage.threads) as spool:
        await spool.write(b"x")
        await spool.finish()
        await storage.put(file_id, spool.path)
    async with storage.read(file_id) as chunks:
        async for _ in chunks:
            pass
    await storage.delete(file_id)


async def check_webhook(settings: Settings) -> Answer | None:
    """Return whether the webhook accepts connections, and a text about it; None without one.

    Nothing is sent to it, because its receiver acts on each request.
    """
    url, secret = settings.notify_webhook, settings.notify_webhook_secret
    if url is None or secret is None:
        return None
    try:
        await Endpoint(url, secret, wall_clock=time.time, seconds=ANSWER_SECONDS).check()
    except NotDelivered as reason:
        return False, f"does not accept a connection ({reason})"
    return True, "accepts connections; nothing was sent to it"


def reason_of(error: Exception) -> str:
    """Return the text of an error; a time-out has none of its own."""
    return str(error) or f"nothing within {ANSWER_SECONDS:g} s"
