"""Receives the messages to this node."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio
from attrs import define, field

from netra_trio.broker.base import ANSWER_SECONDS, Mail
from netra_trio.broker.valkey import keys
from netra_trio.broker.valkey.calls import checked
from netra_trio.broker.valkey.connection import Connection
from netra_trio.broker.valkey.listening import Listening
from netra_trio.broker.valkey.scripts import RESUME
from netra_trio.ids import NodeId

BLOCK_SECONDS = 1.0  # of one read: the server's silence is noticed after this and ANSWER_SECONDS
READ_MAIL = 64  # messages of one read

PROBE_FIELD = b"probe"
KIND, SENDER, HEADER, DATA = b"k", b"s", b"h", b"d"


def fields_of(mail: Mail) -> list[bytes | str | int]:
    """Return the fields of the entry of a message."""
    return [KIND, mail.kind, SENDER, mail.sender, HEADER, mail.header, DATA, mail.data]


@define(eq=False)
class Inbox:
    """The listener of the inbox of a node; reads no further while messages wait to be taken."""

    node: NodeId
    listening: Listening = field(factory=Listening)
    _position: str = "0-0"
    _mail: deque[Mail] = field(factory=deque)
    _changed: trio.Event = field(factory=trio.Event)

    async def take(self) -> Sequence[Mail]:
        """Wait for messages."""
        await trio.lowlevel.checkpoint()
        while not self._mail:
            await self._changed.wait()
        taken = list(self._mail)
        self._mail.clear()
        self._announce()
        return taken

    async def listen(self, connection: Connection) -> None:
        """Read, until the connection ends or cancelled."""
        key = keys.inbox(self.node)
        (position,) = await connection.submit([("EVAL", RESUME.text, 1, key, self._position)])
        self._position = checked(position).decode()
        while True:
            while self._mail:
                self.listening.is_reading = False
                await self._changed.wait()
            self.listening.is_reading = True
            milliseconds = round(BLOCK_SECONDS * 1000)
            trimmed, found = await connection.submit(
                [
                    ("XTRIM", key, "MINID", _after(self._position)),
                    (
                        *("XREAD", "COUNT", READ_MAIL, "BLOCK", milliseconds),
                        *("STREAMS", key, self._position),
                    ),
                ],
                seconds=BLOCK_SECONDS + ANSWER_SECONDS,
            )
            checked(trimmed)
            for entries in (checked(found) or {}).values():
                self._receive(entries)

    def _receive(self, entries: list[Any]) -> None:
        for entry_id, pairs in entries:
            self._position = entry_id.decode()
            fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
            if PROBE_FIELD not in fields:
                self._mail.append(
                    Mail(
                        fields[KIND].decode(),
                        NodeId(fields[SENDER].decode()),
                        fields[HEADER],
                        fields[DATA],
                    )
                )
        self.listening.note_received()
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _after(entry_id: str) -> str:
    """Return the smallest id that is greater."""
    milliseconds, _, number = entry_id.partition("-")
    return f"{milliseconds}-{int(number) + 1}"
