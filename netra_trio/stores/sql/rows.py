"""Many rows in one statement, without SQLAlchemy's work for each row.

    insert = Insert(messages, returning=("message_id", "number"))
    numbers = insert.execute(connection, rows)

What a batch inserts is most of what a server writes. SQLAlchemy takes some 20 µs for each row of
an `executemany`, this 3; its statements are the same.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Table

from netra_trio.stores.sql.schema import exact

PIECES = (64, 16, 4, 1)
"""How many rows a statement has. A statement for every number would be kept prepared for each, by
the driver and by the database, in a megabyte and more for every connection."""

Values = tuple[Any, ...]
"""The values of a row, in the order of the table's columns without its own number."""


class Insert:
    """An insert into a table, of every column that the table does not number itself.

    Args:
        table: The table; texts in it are `ExactText`, or have no character that needs it.
        returning: The columns to return of each row, in any order of the rows.
    """

    def __init__(self, table: Table, *, returning: Sequence[str] = ()) -> None:
        numbered = table.autoincrement_column
        self._columns = tuple(c.name for c in table.columns if c is not numbered)
        self._head = f"INSERT INTO {table.name} ({', '.join(self._columns)}) VALUES "  # noqa: S608 - names of our own
        self._tail = f" RETURNING {', '.join(returning)}" if returning else ""
        self._statement = lru_cache(maxsize=None)(self._make_statement)

    def execute(self, connection: Connection, rows: Sequence[Values]) -> Sequence[Row[Any]]:
        """Insert the rows, numbered in their order; return what is to be returned."""
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        returned: list[Row[Any]] = []
        for count, start in _pieces(len(rows)):
            values = tuple(
                exact(value) if isinstance(value, str) else value
                for row in rows[start : start + count]
                for value in row
            )
            done = connection.exec_driver_sql(self._statement(mark, count), values)
            if self._tail:
                returned += done.all()
        return returned

    def _make_statement(self, mark: str, count: int) -> str:
        row = f"({', '.join([mark] * len(self._columns))})"
        return self._head + ", ".join([row] * count) + self._tail


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """Divide so many rows into statements; return how many each has, and where it begins."""
    start = 0
    for size in PIECES:
        while count - start >= size:
            yield size, start
            start += size
