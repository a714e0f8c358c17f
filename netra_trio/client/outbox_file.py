"""A file that keeps unconfirmed messages over a restart: one line of JSON for each change.

    with OutboxFile.open(Path("outbox.jsonl")) as file:
        for message in file.messages:
            print(message.key)

    {"add": "c-1", "frame": "…"}          # and "data", in base64, of a message with data
    {"done": "c-1"}

A message is on the disk before it is sent. The line that it is settled is written without waiting
for the disk: if a crash loses that line, the message is sent again, and its key makes it a
duplicate.
"""

import contextlib
import fcntl
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import orjson

from netra_trio.client.errors import OutboxUnusable
from netra_trio.client.outbox import OutboxMessage

SPARE_BYTES = 1024 * 1024  # of settled messages in the file before it is emptied


class OutboxFile:
    """The open file.

    Attributes:
        messages: The messages that were not settled when it was opened, in their order.
    """

    def __init__(self, path: Path, messages: list[OutboxMessage]) -> None:
        self._path = path
        self._pending = {id(message): message for message in messages}
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        self.messages = messages

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Read the file, rewrite it without settled messages, and hold it open. Blocks.

        A new file is readable by its owner only. A file of the same name with the suffix `.lock`
        keeps a second client out.

        Raises:
            OutboxUnusable: It cannot be read or written, has other content, or is held open by
                another client.
        """
        try:
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxUnusable(f"cannot use the outbox {path}: {error.strerror}") from None
        try:
            _lock(lock, path)
            file = cls._load(path)
            try:
                yield file
            finally:
                file.close()
        finally:
            os.close(lock)

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            messages = list(_read(path))
            _write(path, b"".join(map(_line_of, messages)))
            return cls(path, messages)
        except OSError as error:
            raise OutboxUnusable(f"cannot use the outbox {path}: {error.strerror}") from None

    def add(self, message: OutboxMessage) -> None:
        """Write a message, and wait until it is on the disk. Blocks.

        Raises:
            OutboxUnusable: Writing failed.
        """
        try:
            self._append(_line_of(message))
            os.fsync(self._file)
        except OSError as error:
            text = f"cannot write the outbox {self._path}: {error.strerror}"
            raise OutboxUnusable(text) from None
        self._pending[id(message)] = message

    def remove(self, message: OutboxMessage) -> None:
        """Note that a message is settled; does nothing if it is not in the file."""
        if self._pending.pop(id(message), None) is None:
            return
        # On a full disk the line is missing, and the next start sends the message again.
        with contextlib.suppress(OSError):
            self._append(orjson.dumps({"done": message.key}) + b"\n")
            if not self._pending and self._size > SPARE_BYTES:
                os.ftruncate(self._file, 0)
                self._size = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        """Append a line; if the disk is full, the file has all of it or nothing of it."""
        try:
            left = line
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OutboxUnusable(f"cannot use the outbox {path}: another client has it open") from None


def _write(path: Path, content: bytes) -> None:
    """Replace a file atomically: after a crash it has the old or the new content."""
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


def _line_of(message: OutboxMessage) -> bytes:
    change = {"add": message.key, "frame": message.text}
    if message.data is not None:
        change["data"] = b64encode(message.data).decode()
    return orjson.dumps(change) + b"\n"


def _read(path: Path) -> Iterator[OutboxMessage]:
    """Return the messages of a file that are not settled."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # empty, or a line that a crash cut off: its message was not sent
    pending: list[OutboxMessage] = []
    for number, line in enumerate(lines, start=1):
        try:
            change = orjson.loads(line)
            if "add" in change:
                data = b64decode(change["data"], validate=True) if "data" in change else None
                key, text = str(change["add"]), str(change["frame"])
                pending.append(OutboxMessage(key, text, data=data))
            else:
                done = str(change["done"])
                pending.remove(next(message for message in pending if message.key == done))
        except (ValueError, KeyError, TypeError, StopIteration):  # of JSON and of base64, too
            text = f"{path}, line {number}: not a line of an outbox; move the file away"
            raise OutboxUnusable(text) from None
    yield from pending
