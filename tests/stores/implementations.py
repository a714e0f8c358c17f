"""Factories of the stores that the contract suite tests."""

from collections.abc import Callable

import pytest

from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.store import SqlStore

Factory = Callable[[pytest.FixtureRequest], Store]
"""Makes an empty store."""


def memory(_: pytest.FixtureRequest) -> Store:
    """Return the store in memory."""
    return MemoryStore()


def sqlite(request: pytest.FixtureRequest) -> Store:
    """Return a store on an SQLite file."""
    return on(request.getfixturevalue("sqlite_database"))


def sqlite_in_memory(request: pytest.FixtureRequest) -> Store:
    """Return a store on SQLite in memory."""
    return on(request.getfixturevalue("memory_database"))


def postgresql(request: pytest.FixtureRequest) -> Store:
    """Return a store on a real PostgreSQL server."""
    return on(request.getfixturevalue("postgres_database"))


def pgbouncer(request: pytest.FixtureRequest) -> Store:
    """Return a store on a real PostgreSQL server behind a real PgBouncer, in transaction mode."""
    return on(request.getfixturevalue("pooled_database"))


def on(database: Database) -> Store:
    """Return a store on a database of earlier tests, which keeps its compiled statements."""
    return SqlStore(database)


STORES: list[Factory] = [memory, sqlite, sqlite_in_memory, postgresql, pgbouncer]
