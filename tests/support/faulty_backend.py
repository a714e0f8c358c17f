"""The directory and the store of one node in memory, with faults between the node and them.

    faults = NodeFaults(Random(7))
    backend = FaultyBackend(MemoryBackend(node, server), faults, nursery.start_soon)
    store = faulty_store(MemoryStore(node), faults, nursery.start_soon)
    faults.pause()                      # as SIGSTOP: no call begins or returns
    faults.resume()
    faults.is_cut = True                # calls raise after `ANSWER_SECONDS`
    faults.kill()                       # nothing reaches directory or store any more

Calls are executed in their order, as over one connection. A call that was sent is executed, whether
its caller still waits for the answer or not.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, Generic, TypeVar, cast

import trio
from attrs import define, field

from netra_trio.broker.base import (
    ANSWER_SECONDS,
    Appended,
    Batch,
    Broker,
    Found,
    Mail,
    SessionRecord,
    check_mail,
)
from netra_trio.broker.limits import Limits
from netra_trio.broker.memory import MemoryBackend, MemoryDirectory
from netra_trio.broker.threads import ThreadDirectory
from netra_trio.broker.usage import UsageCounters
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import NodeId, SessionId
from netra_trio.stores.base import RunEnd, Store, StoredEnd

_T = TypeVar("_T")

StartSoon = Callable[..., None]


@define(eq=False)
class NodeFaults:
    """The faults of one node; they may change at any time.

    Attributes:
        random: Decides delays and losses.
        is_killed: Whether nothing of the node reaches a server any more.
        is_cut: Whether the directory cannot be reached.
        delay: The longest time of a call on its way to a server.
        loss: The share of the calls of the directory that are executed, and raise.
    """

    random: Random
    is_killed: bool = False
    is_cut: bool = False
    delay: float = 0.0
    loss: float = 0.0
    _continued: trio.Event | None = None

    @property
    def is_paused(self) -> bool:
        """Whether the node is stopped."""
        return self._continued is not None

    def pause(self) -> None:
        """Stop the node."""
        if self._continued is None:
            self._continued = trio.Event()

    def resume(self) -> None:
        """Continue the node."""
        if self._continued is not None:
            self._continued.set()
            self._continued = None

    def kill(self) -> None:
        """Kill the node, stopped or not."""
        self.is_killed = True
        self.resume()

    async def running(self) -> None:
        """Wait until the node is not stopped."""
        while self._continued is not None:
            await self._continued.wait()


@define(eq=False)
class _Call(Generic[_T]):
    """A call on its way; `outcome` returns its result, or raises."""

    execute: Callable[[], Awaitable[_T]]
    due: float
    outcome: Callable[[], _T] | None = None
    done: trio.Event = field(factory=trio.Event)

    def settle(self, outcome: Callable[[], _T]) -> None:
        self.outcome = outcome
        self.done.set()


class _Line:
    """The way of a node's calls to one server, in order."""

    def __init__(
        self,
        faults: NodeFaults,
        start_soon: StartSoon,
        *,
        unavailable: type[Exception],
        is_reachable: Callable[[], bool],
        patience: float,
        loses_answers: bool = False,
    ) -> None:
        self.faults = faults
        self._loses_answers = loses_answers
        self._unavailable = unavailable
        self._is_reachable = is_reachable
        self._patience = patience
        self._send, self._receive = trio.open_memory_channel[_Call[Any]](100_000)
        self._start_soon = start_soon
        self._is_open = False

    def send(self, execute: Callable[[], Awaitable[_T]]) -> _Call[_T]:
        """Send a call."""
        delay = self.faults.random.uniform(0, self.faults.delay) if self.faults.delay else 0.0
        call = _Call(execute, trio.current_time() + delay)
        if not self._is_open:
            self._is_open = True
            self._start_soon(self._carry)
        self._send.send_nowait(call)
        return call

    async def answer(self, call: _Call[_T]) -> _T:
        """Wait for the answer to a call, for as long as the client of the server does."""
        with trio.move_on_after(self._patience):
            await call.done.wait()
        await self.faults.running()
        if call.outcome is None or self.faults.is_killed:
            raise self._unavailable("no answer")
        return call.outcome()

    async def ask(self, execute: Callable[[], Awaitable[_T]]) -> _T:
        """Send a call and wait for its answer."""
        await self.faults.running()
        return await self.answer(self.send(execute))

    async def _carry(self) -> None:
        faults = self.faults
        async for call in self._receive:
            await trio.sleep_until(call.due)
            await faults.running()
            if faults.is_killed or not self._is_reachable():
                continue
            try:
                result = await call.execute()
            except Exception as error:
                call.settle(partial(_raise, error))
                continue
            if not self._loses_answers or faults.random.random() >= faults.loss:
                call.settle(partial(_return, result))


def _raise(error: Exception) -> Any:
    raise error


def _return(result: _T) -> _T:
    return result


@define(eq=False)
class _Answer(Generic[_T]):
    """An awaitable answer, which need not be awaited."""

    line: _Line
    call: _Call[_T]

    def __await__(self) -> Generator[Any, Any, _T]:
        return self.line.answer(self.call).__await__()


class _Faulty:
    """Passes all calls on over a line; each is sent when it is made, awaited or not."""

    def __init__(self, target: Any, line: _Line) -> None:
        self._target = target
        self._line = line

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)

        def send(*args: Any, **options: Any) -> Any:
            async def execute() -> Any:
                return await found(*args, **options)

            return _Answer(self._line, self._line.send(execute))

        return send if callable(found) else found


class FaultyDirectory:
    """The `Directory` of a node with faults."""

    def __init__(self, directory: MemoryDirectory, line: _Line) -> None:
        self.node = directory.node
        self._directory = directory
        self._line = line

    async def renew(self, *, draining: bool = False) -> bool:
        return await self._line.ask(partial(self._directory.renew, draining=draining))

    async def resign(self, node: NodeId | None = None) -> None:
        await self._line.ask(partial(self._directory.resign, node))

    async def nodes(self) -> Mapping[NodeId, bool]:
        return await self._line.ask(self._directory.nodes)

    async def post(self, node: NodeId, mail: Sequence[Mail]) -> None:
        check_mail(mail)
        await self._line.ask(partial(self._directory.post, node, mail))

    async def receive(self) -> Sequence[Mail]:
        received = await self._directory.receive()
        faults = self._line.faults
        while faults.is_paused or faults.is_cut:
            await faults.running()
            if faults.is_cut:
                await trio.sleep(ANSWER_SECONDS / 10)
        return received

    async def find(self, session_id: SessionId) -> Found:
        return await self._line.ask(partial(self._directory.find, session_id))

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Appended]]:
        async def execute() -> Sequence[Appended]:
            return await self._directory.append(batches)

        return _Answer(self._line, self._line.send(execute))

    async def read(self, session_id: SessionId) -> Sequence[bytes]:
        return await self._line.ask(partial(self._directory.read, session_id))

    async def take(self, session_id: SessionId, *, owner: NodeId | None, epoch: int) -> bool:
        take = partial(self._directory.take, session_id, owner=owner, epoch=epoch)
        return await self._line.ask(take)

    async def release(
        self,
        record: SessionRecord,
        *,
        to: NodeId | None,
        lease: NodeId,
        waiting: bytes = b"",
        seconds: float,
    ) -> bool:
        return await self._line.ask(
            partial(
                self._directory.release,
                record,
                to=to,
                lease=lease,
                waiting=waiting,
                seconds=seconds,
            )
        )

    async def keep(self, sessions: Mapping[SessionId, float]) -> None:
        await self._line.ask(partial(self._directory.keep, sessions))

    async def drop(self, records: Sequence[SessionRecord]) -> None:
        await self._line.ask(partial(self._directory.drop, records))


class FaultyBackend:
    """The `Backend` of a node with faults."""

    def __init__(
        self,
        backend: MemoryBackend,
        faults: NodeFaults,
        start_soon: StartSoon,
        *,
        is_up: Callable[[], bool] = lambda: True,
    ) -> None:
        self._line = _Line(
            faults,
            start_soon,
            unavailable=BrokerUnavailable,
            is_reachable=lambda: is_up() and not faults.is_cut,
            patience=ANSWER_SECONDS,
            loses_answers=True,
        )
        self.directory = FaultyDirectory(backend.directory, self._line)
        self.broker: Broker = backend.broker
        self.threads = cast("ThreadDirectory", _Faulty(backend.threads, self._line))
        self.limits = cast("Limits", _Faulty(backend.limits, self._line))
        self.usage = cast("UsageCounters", _Faulty(backend.usage, self._line))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    async def check(self) -> None:
        await self._line.ask(trio.lowlevel.checkpoint)

    def statistics(self) -> Mapping[str, float]:
        return {"lag": 0.0}


class _FaultyStore:
    """Passes the calls of a store on, in order."""

    def __init__(self, store: Store, line: _Line) -> None:
        self._store = store
        self._line = line

    @property
    def owner(self) -> NodeId:
        return self._store.owner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def ask(*args: Any, **options: Any) -> Any:
            return await self._line.ask(partial(method, *args, **options))

        return ask

    def open(self) -> Any:
        return self._store.open()

    def start_run(self, run_id: Any) -> None:
        async def execute() -> None:
            self._store.start_run(run_id)

        self._line.send(execute)

    def end_run(self, end: RunEnd) -> Awaitable[StoredEnd | None]:
        async def execute() -> StoredEnd | None:
            return await self._store.end_run(end)

        return _Answer(self._line, self._line.send(execute))

    def end_question(self, end: Any) -> Awaitable[None]:
        async def execute() -> None:
            await self._store.end_question(end)

        return _Answer(self._line, self._line.send(execute))


def faulty_store(store: Store, faults: NodeFaults, start_soon: StartSoon) -> Store:
    """Return the store of a node with faults; it is never cut from the node."""
    line = _Line(
        faults,
        start_soon,
        unavailable=StoreUnavailable,
        is_reachable=lambda: True,
        patience=float("inf"),
    )
    return cast("Store", _FaultyStore(store, line))
