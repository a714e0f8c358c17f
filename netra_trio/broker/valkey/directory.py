"""The directory on Valkey or Redis."""

import itertools
from collections.abc import Awaitable, Generator, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from netra_trio.broker.base import (
    INBOX_MAIL,
    LEASE_SECONDS,
    Appended,
    Batch,
    Found,
    Mail,
    SessionRecord,
    check_mail,
)
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import Calls, checked, evaluation, milliseconds
from netra_trio.broker.valkey.connection import Command, Reply
from netra_trio.broker.valkey.inbox import Inbox, fields_of
from netra_trio.ids import NodeId, SessionId, ThreadId, UserId

INBOX_SECONDS = 30.0  # an inbox that nothing was posted to for so long is deleted
FORGET_SECONDS = 60.0  # a node without a lease leaves the list after this time
SESSIONS = 100  # of one call: a script blocks the server while it runs

DRAINING, SERVING = "d", "s"

_RESULTS = {each.value.encode(): each for each in Appended}


@frozen
class _Answer:
    """The awaitable answer to `append`; it need not be awaited."""

    reply: Reply

    def __await__(self) -> Generator[Any, None, Sequence[Appended]]:
        values = yield from self.reply.__await__()
        return [_RESULTS[checked(value)] for value in values]


@define(eq=False)
class ValkeyDirectory:
    """The `Directory` of one node."""

    node: NodeId
    _calls: Calls
    _inbox: Inbox
    _renewals: Iterator[int] = field(factory=lambda: itertools.count(1))
    _renewed: int = 0  # the newest renewal that was answered

    # Nodes.

    async def renew(self, *, draining: bool = False) -> bool:
        """Take or renew the lease of this node; return whether it held it."""
        number = next(self._renewals)
        held = await self._calls.run(
            scripts.RENEW,
            [keys.lease(self.node), keys.NODES],
            [
                self.node,
                DRAINING if draining else SERVING,
                milliseconds(LEASE_SECONDS),
                milliseconds(FORGET_SECONDS),
                number,
                self._renewed,
            ],
        )
        self._renewed = number
        return bool(held)

    async def resign(self, node: NodeId | None = None) -> None:
        """Delete the lease of this node, or of another one."""
        node = node or self.node
        await self._calls.run_all(
            [("DEL", keys.lease(node), keys.inbox(node)), ("ZREM", keys.NODES, node)]
        )

    async def nodes(self) -> Mapping[NodeId, bool]:
        """Return the live nodes; for each, whether it drains."""
        found = await self._calls.run(scripts.NODES, [keys.NODES], [keys.LEASE_PREFIX])
        leases = zip(found[::2], found[1::2], strict=True)
        return {
            NodeId(node.decode()): lease.startswith(DRAINING.encode()) for node, lease in leases
        }

    async def post(self, node: NodeId, mail: Sequence[Mail]) -> None:
        """Put messages into the inbox of a node."""
        check_mail(mail)
        inbox = keys.inbox(node)
        posts: list[Command] = [
            ("XADD", inbox, "MAXLEN", INBOX_MAIL, "*", *fields_of(each)) for each in mail
        ]
        expiry: Command = ("PEXPIRE", inbox, milliseconds(INBOX_SECONDS))
        await self._calls.run_all([*posts, expiry], is_bulk=True)

    async def receive(self) -> Sequence[Mail]:
        """Wait for messages to this node."""
        return await self._inbox.take()

    # Sessions.

    async def find(self, session_id: SessionId) -> Found:
        """Look a session up."""
        pairs, owner_is_live, is_registered = await self._calls.run(
            scripts.FIND, [keys.session(session_id)], [self.node, keys.LEASE_PREFIX]
        )
        fields = {key.decode(): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
        record = _record(session_id, fields) if fields else None
        return Found(record, bool(owner_is_live), bool(is_registered))

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Appended]]:
        """Append batches to the logs of sessions that this node owns."""
        lasting = self._calls.lasting
        number = lasting.connections
        commands = [self._append(batch, number) for batch in batches]
        return _Answer(lasting.submit(commands, is_bulk=True))

    def _append(self, batch: Batch, number: int) -> Command:
        record, previous = batch.record, batch.previous
        command = (
            *("EVALSHA", scripts.APPEND.sha, 2),
            *(keys.session(record.session_id), keys.log(record.session_id)),
            *(self.node, record.epoch, number),
            *("" if previous is None else previous, batch.last, batch.data),
            milliseconds(batch.seconds),
        )
        return command if previous is not None else (*command, *_fields(record))

    async def read(self, session_id: SessionId) -> Sequence[bytes]:
        """Return the batches of the log of a session."""
        (entries,) = await self._calls.run_all([("XRANGE", keys.log(session_id), "-", "+")])
        return [pairs[3] for _, pairs in entries]

    async def take(self, session_id: SessionId, *, owner: NodeId | None, epoch: int) -> bool:
        """Make this node the owner of a session, with the next epoch."""
        arguments = [self.node, owner or "", epoch]
        return bool(await self._calls.run(scripts.TAKE, [keys.session(session_id)], arguments))

    async def release(
        self,
        record: SessionRecord,
        *,
        to: NodeId | None,
        lease: NodeId,
        waiting: bytes = b"",
        seconds: float,
    ) -> bool:
        """Give a session of this node to another node, or to any node that asks for it."""
        released = await self._calls.run(
            scripts.RELEASE,
            [keys.session(record.session_id), keys.log(record.session_id)],
            [self.node, record.epoch, to or "", lease, waiting, milliseconds(seconds)],
        )
        return bool(released)

    async def keep(self, sessions: Mapping[SessionId, float]) -> None:
        """Keep sessions for that many seconds from now."""
        kept = [(each, milliseconds(seconds)) for each, seconds in sessions.items()]
        await self._for_each(scripts.KEEP, kept)

    async def drop(self, records: Sequence[SessionRecord]) -> None:
        """Forget sessions that have ended."""
        await self._for_each(scripts.DROP, [(each.session_id, each.epoch) for each in records])

    async def _for_each(
        self, script: scripts.Script, sessions: Sequence[tuple[SessionId, int]]
    ) -> None:
        """Run a script that takes sessions, each with a number."""
        parts = [sessions[at : at + SESSIONS] for at in range(0, len(sessions), SESSIONS)]
        await self._calls.run_all(
            [
                evaluation(
                    script,
                    [key(each) for each, _ in part for key in (keys.session, keys.log)],
                    [self.node, *(number for _, number in part)],
                )
                for part in parts
            ]
        )


def _fields(record: SessionRecord) -> list[bytes | str | int]:
    """Return the fields of the hash of a session that its log does not change."""
    return [
        *("user", record.user_id),
        *("acknowledging", int(record.acknowledging)),
        *("anonymous", int(record.is_anonymous)),
        *("thread", record.thread_id),
        *("lease", record.lease),
        *("waiting", record.waiting),
    ]


def _record(session_id: SessionId, fields: Mapping[str, bytes]) -> SessionRecord:
    owner = fields["node"].decode()
    return SessionRecord(
        session_id=session_id,
        user_id=UserId(fields["user"].decode()),
        owner=NodeId(owner) if owner else None,
        epoch=int(fields["epoch"]),
        acknowledging=fields["acknowledging"] == b"1",
        is_anonymous=fields["anonymous"] == b"1",
        thread_id=ThreadId(fields["thread"].decode()),
        lease=NodeId(fields["lease"].decode()),
        waiting=fields["waiting"],
    )
