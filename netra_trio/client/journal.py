"""A file that keeps unconfirmed messages over a restart: one line of JSON for each change.

    with Journal.open(Path("outbox.jsonl")) as journal:
        for entry in journal.entries:
            print(entry.key)

    {"add": "c-1", "frame": "…"}
    {"done": "c-1"}

A message is on the disk before it is sent. That it is settled is written without waiting for the
disk: if that is lost in a crash, the message is sent again, and its key makes it a duplicate.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import orjson

from netra_trio.client.errors import OutboxUnusable
from netra_trio.client.outbox import Entry

SPARE_BYTES = 1024 * 1024  # of settled messages in the file, then it is emptied


class Journal:
    """The open file.

    Attributes:
        entries: The messages that were not settled when it was opened, in their order.
    """

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self._path = path
        self._pending = {id(entry): entry for entry in entries}
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        self.entries = entries

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Read what the file has, write it anew without what is settled, and hold it open.

        Nobody but the owner may read a file that is made. Beside it there is one of the same name
        with `.lock` at its end, which keeps a second client out. Blocks on the disk.

        Raises:
            OutboxUnusable: It cannot be read or written, holds something else, or is held open by
                another client.
        """
        try:
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxUnusable(f"cannot use the outbox {path}: {error.strerror}") from None
        try:
            _take(lock, path)
            journal = cls._load(path)
            try:
                yield journal
            finally:
                journal.close()
        finally:
            os.close(lock)

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            entries = list(_read(path))
            _write(path, b"".join(map(_line_of, entries)))
            return cls(path, entries)
        except OSError as error:
            raise OutboxUnusable(f"cannot use the outbox {path}: {error.strerror}") from None

    def add(self, entry: Entry) -> None:
        """Write a message to the disk, and wait until it is there. Blocks.

        Raises:
            OutboxUnusable: The disk does not take it.
        """
        try:
            self._append(_line_of(entry))
            os.fsync(self._file)
        except OSError as error:
            text = f"cannot write the outbox {self._path}: {error.strerror}"
            raise OutboxUnusable(text) from None
        self._pending[id(entry)] = entry

    def remove(self, entry: Entry) -> None:
        """Note that a message is settled; nothing where it is not in the file."""
        if self._pending.pop(id(entry), None) is None:
            return
        # On a full disk the line is missing, and the next start sends the message again.
        with contextlib.suppress(OSError):
            self._append(orjson.dumps({"done": entry.key}) + b"\n")
            if not self._pending and self._size > SPARE_BYTES:
                os.ftruncate(self._file, 0)
                self._size = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        os.write(self._file, line)
        self._size += len(line)


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OutboxUnusable(f"cannot use the outbox {path}: another client has it open") from None


def _write(path: Path, content: bytes) -> None:
    """Replace a file: after a crash it is the old one or the new one."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _line_of(entry: Entry) -> bytes:
    return orjson.dumps({"add": entry.key, "frame": entry.text}) + b"\n"


def _read(path: Path) -> Iterator[Entry]:
    """Return the messages that a file has and that are not settled."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # nothing, or what a crash left of a last line: its message was not sent
    pending: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            change = orjson.loads(line)
            if "add" in change:
                pending.append(Entry(str(change["add"]), str(change["frame"])))
            else:
                done = str(change["done"])
                pending.remove(next(entry for entry in pending if entry.key == done))
        except (orjson.JSONDecodeError, KeyError, TypeError, StopIteration):
            text = f"{path}, line {number}: not a line of an outbox; move the file away"
            raise OutboxUnusable(text) from None
    yield from pending
