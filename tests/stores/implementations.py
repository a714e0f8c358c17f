"""Factories of the stores that the contract suite tests."""

from collections.abc import Callable

import pytest

from netra_trio.ids import new_node_id
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.store import SqlStore
from netra_trio.stores.timeout import TimeoutStore

Factory = Callable[[pytest.FixtureRequest], Store]
"""Makes an empty store."""

Nodes = tuple[Store, Store]
"""The stores of two nodes on the same data."""


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


def with_timeout(_: pytest.FixtureRequest) -> Store:
    """Return a store whose calls are passed on by the one that bounds their time."""
    return TimeoutStore(MemoryStore())


def on(database: Database) -> Store:
    """Return a store on a database of earlier tests, which keeps its compiled statements."""
    return SqlStore(database)


def other_node(store: Store) -> Store:
    """Return a store of another node with the same data."""
    if isinstance(store, MemoryStore):
        return store.for_node(new_node_id())
    assert isinstance(store, SqlStore)
    return SqlStore(store.database)


STORES: list[Factory] = [memory, sqlite, sqlite_in_memory, postgresql, pgbouncer]

THREAD_STORES: list[Factory] = [memory, with_timeout, sqlite, postgresql]
"""Those of the tests of threads and notifications: one of each kind, for their time."""

SHARED_STORES = [factory for factory in STORES if factory is not sqlite_in_memory]
"""Those whose data several nodes can share: SQLite in memory has one connection, of one store."""
