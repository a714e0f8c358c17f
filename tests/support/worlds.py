"""Nodes on one broker, in memory or real, for tests that are the same for both.

one, two = await world.node(), await world.node()
await world.elapse(3.0)
"""

from collections import OrderedDict, deque

import trio
from attrs import define, evolve

from netra_trio.broker.base import Backend, Batch, Directory, SessionRecord
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.ids import NodeId, ThreadId, UserId, new_node_id, new_session_id
from support.valkey import Server

_ELAPSE = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if string.match(key, '^nt:{r:.*}:l$') then
    local events = redis.call('XRANGE', key, '-', '+')
    redis.call('DEL', key)
    for _, event in ipairs(events) do
      local ms, offset = string.match(event[1], '(%d+)-(%d+)')
      local id = string.format('%.0f-%s', ms - ARGV[1], offset)
      redis.call('XADD', key, id, unpack(event[2]))
    end
  end
  if left >= 0 then
    redis.call('PEXPIRE', key, math.max(0, left - ARGV[1]))
  end
end
"""
"""Shortens the remaining time of each key, and makes the events of rooms older."""


@define(eq=False)
class World:
    """A broker, and a maker of nodes on it."""

    server: Server | MemoryServer
    _nursery: trio.Nursery

    def __attrs_post_init__(self) -> None:
        if isinstance(self.server, Server):
            self.server.command("FLUSHALL")

    async def node(self, node: NodeId | None = None) -> Backend:
        """Open a node; it is closed at the end of the test."""
        node = node or new_node_id()
        backend: Backend
        if isinstance(self.server, MemoryServer):
            backend = MemoryBackend(node, self.server)
        else:
            backend = ValkeyBackend(node, self.server.url)
        await self._nursery.start(_hold, backend)
        return backend

    def elapse(self, seconds: float) -> None:
        """Let what expires be so much older."""
        if isinstance(self.server, MemoryServer):
            _age(self.server, seconds)
        else:
            assert self.server.command("EVAL", _ELAPSE, 0, round(seconds * 1000)) is None

    def forget_all(self) -> None:
        """Lose everything, as a broker that restarts empty."""
        if isinstance(self.server, MemoryServer):
            self.server.clear()
        else:
            self.server.command("FLUSHALL")


def session_of(directory: Directory, *, epoch: int = 1) -> SessionRecord:
    """Return the record of a new session of a node."""
    return SessionRecord(
        session_id=new_session_id(),
        user_id=UserId("user"),
        owner=directory.node,
        epoch=epoch,
        acknowledging=True,
        is_anonymous=False,
        thread_id=ThreadId("thread"),
        lease=directory.node,
    )


def batch(
    record: SessionRecord,
    previous: int | None,
    last: int,
    data: bytes = b"data",
    *,
    seconds: float = 60.0,
) -> Batch:
    """Return a batch; with `previous` None it replaces the log."""
    return Batch(record, previous, last, data, seconds)


async def _hold(backend: Backend, task_status: trio.TaskStatus[None]) -> None:
    async with backend.open():
        task_status.started()
        await trio.sleep_forever()


def _age(server: MemoryServer, seconds: float) -> None:
    for node, lease in server.leases.items():
        server.leases[node] = evolve(lease, until=lease.until - seconds)
    for session in server.sessions.values():
        session.until -= seconds
    for room in server.rooms.values():
        room.events = deque((at - seconds, event) for at, event in room.events)
        room.keys = OrderedDict(
            (key, (at - seconds, place)) for key, (at, place) in room.keys.items()
        )
        room.used -= seconds
