"""Several nodes in one process, whose links to the shared state can be cut, in virtual time.

async with open_nodes(2, max_connections_per_user=1) as (one, two):
    async with one.connect("alice") as client:
        ...
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from attrs import Factory, define, field, frozen

from netra_trio.broker.base import Mail
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId
from netra_trio.stores.memory import MemoryStore
from support.memory import Server, open_server

HEAL_SECONDS = 0.05  # between two looks whether a link is healed, for what has arrived


@define(eq=False)
class Link:
    """The link of one node to the server.

    Attributes:
        is_cut: Whether the server does not answer this node.
        is_cut_behind: The call that arrives, and whose answer is lost with the link.
        lost: Kinds of mail that this node sends and no node gets.
        on_call: Awaited with the name of each call before it is passed on.
        calls: The names of the calls.
    """

    is_cut: bool = False
    is_cut_behind: str | None = None
    lost: set[str] = field(factory=set)
    on_call: Callable[[str], Awaitable[None]] | None = None
    calls: list[str] = field(factory=list)

    async def pass_call(self, name: str) -> None:
        """Raise if the link is cut."""
        self.calls.append(name)
        await trio.lowlevel.checkpoint()
        if self.on_call is not None:
            await self.on_call(name)
        if self.is_cut:
            raise BrokerUnavailable("the link is cut")


@frozen
class _Lost:
    """The answer to a call on a link that is cut."""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from trio.lowlevel.checkpoint().__await__()  # noqa: ASYNC105 - it is awaited here
        raise BrokerUnavailable("the link is cut")


class _Linked:
    """Passes calls on, unless the link is cut."""

    def __init__(self, link: Link, target: Any) -> None:
        self._link = link
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            await self._link.pass_call(name)
            result = await found(*args, **options)
            if self._link.is_cut_behind == name:
                self._link.is_cut = True
                raise BrokerUnavailable("the answer is lost")
            return result

        return call

    def append(self, batches: Sequence[Any]) -> Any:
        """Append batches; the answer need not be awaited."""
        return _Lost() if self._link.is_cut else self._target.append(batches)

    async def post(self, node: NodeId, mail: Sequence[Mail]) -> None:
        """Send mail, but not the lost kinds."""
        await self._link.pass_call("post")
        await self._target.post(node, [each for each in mail if each.kind not in self._link.lost])

    async def receive(self) -> Any:
        """Wait for messages; they arrive once the link is not cut."""
        received = await self._target.receive()
        while self._link.is_cut:  # noqa: ASYNC110 - tests set the flag
            await trio.sleep(HEAL_SECONDS)
        return received


@define(eq=False)
class LinkedBackend:
    """A `Backend` in memory behind a link."""

    memory: MemoryBackend
    link: Link = field(factory=Link)
    directory: Any = Factory(lambda self: _Linked(self.link, self.memory.directory), True)
    broker: Any = Factory(lambda self: _Linked(self.link, self.memory.broker), True)
    threads: Any = Factory(lambda self: _Linked(self.link, self.memory.threads), True)
    limits: Any = Factory(lambda self: _Linked(self.link, self.memory.limits), True)
    usage: Any = Factory(lambda self: _Linked(self.link, self.memory.usage), True)

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold it open."""
        return self.memory.open()

    async def check(self) -> None:
        """Raise if the link is cut."""
        await self.link.pass_call("check")

    def statistics(self) -> Mapping[str, float]:
        """Return figures for the metrics."""
        return self.memory.statistics()


@define(eq=False)
class LinkedNode(Server):
    """A node of several.

    Attributes:
        memory: What it shares, without the link.
        link: Its link to the other nodes.
        store: The store as it sees it.
    """

    memory: MemoryBackend
    link: Link
    store: MemoryStore

    @property
    def id(self) -> NodeId:
        """Its id."""
        return self.memory.node

    async def kill(self) -> None:
        """End its lease and everything that it sends, as `kill -9` does after the lease."""
        self.link.is_cut = True
        await self.memory.directory.resign()


@asynccontextmanager
async def open_nodes(
    count: int, *, server: MemoryServer | None = None, **options: Any
) -> AsyncIterator[tuple[LinkedNode, ...]]:
    """Open nodes on one store and one server; `options` are those of `open_server`."""
    server = server or MemoryServer()
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            backend = LinkedBackend(MemoryBackend(server=server))
            own = store.for_node(backend.memory.node)
            opened = await stack.enter_async_context(
                open_server(store=own, backend=backend, **options)
            )
            nodes.append(LinkedNode(opened.node, opened.nursery, backend.memory, backend.link, own))
        await trio.sleep(0.0625)  # until they have their leases
        yield tuple(nodes)
