"""Inserts of many rows in few statements, without SQLAlchemy's work for each row.

    insert = Insert(messages)
    insert.execute(connection, [*first_row, *second_row])

The inserts of a batch are most of what a server writes. SQLAlchemy takes some 20 µs for each row of
an `executemany`, this 1 µs beside the database's own work.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

PIECES = (64, 16, 4, 1)
"""Rows of one statement. With a statement for every number of rows, the driver and the database
would keep each one prepared, for each connection: a megabyte and more."""


class Insert:
    """An insert into columns of a table.

    Args:
        table: The table. The caller has to convert texts as `schema.ExactText` does.
        omitted: The columns that get their defaults.
    """

    def __init__(self, table: Table, *, omitted: Collection[str] = ()) -> None:
        names = [column.name for column in table.columns if column.name not in omitted]
        self._width = len(names)
        columns = ", ".join(names)
        self._head = f"INSERT INTO {table.name} ({columns}) VALUES "  # noqa: S608 - names of our own
        self._statement = lru_cache(maxsize=None)(self._make_statement)

    def execute(self, connection: Connection, values: Sequence[object]) -> None:
        """Insert rows.

        Args:
            connection: In a transaction.
            values: Of all rows, one row after the other, in the order of the table's columns.
        """
        width, mark = self._width, placeholder(connection)
        for count, start in _pieces(len(values) // width):
            piece = tuple(values[start * width : (start + count) * width])
            connection.exec_driver_sql(self._statement(mark, count), piece)

    def _make_statement(self, mark: str, count: int) -> str:
        row = f"({', '.join([mark] * self._width)})"
        return self._head + ", ".join([row] * count)


def placeholder(connection: Connection) -> str:
    """Return how the driver marks a parameter in its own SQL."""
    return "?" if connection.dialect.name == "sqlite" else "%s"


def insert_missing(connection: Connection, table: Table) -> Any:
    """Return an insert that skips rows which exist already."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def replace_or_insert(connection: Connection, table: Table) -> Any:
    """Return an insert that replaces rows with the same key."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    values = {column.name: statement.excluded[column.name] for column in table.columns}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """Return how many rows each statement has, and the index of its first row."""
    start = 0
    for size in PIECES:
        while count - start >= size:
            yield size, start
            start += size
