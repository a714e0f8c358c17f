"""A seeded simulation of one thread on three nodes, in virtual time.

    report = run_script(seed, faulty=True)
    assert not report.violations

Sessions on several nodes send messages to one thread of one user. Nodes are killed, the server
cannot be reached or loses everything, and messages between nodes are late or lost.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

import trio
from attrs import define, evolve, field

from netra_trio.agents.run import Run
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import RENEW_SECONDS
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.threads import Admitted, Entry, First, Held, Wish
from netra_trio.cluster.admission import CHECK, FIRST, INTERRUPT, ClusterAdmission
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.node.user_threads import NodeThreads
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import OnBusy, UserMessage
from netra_trio.protocol.problem import Refused
from netra_trio.services import Services
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.metrics import Metrics
from support.seeds import in_virtual_time, run_seeds

ALICE, THREAD = UserId("alice"), ThreadId("t")
REPAIR_SECONDS = 4.0  # after a fault: a lease ends, and every node looks at its threads
SETTLE_SECONDS = 0.3  # in which the order of two messages is not known for certain

T = TypeVar("T")


@define(eq=False)
class Message:
    """A message of the script.

    Attributes:
        name: Its number.
        recorded: When it was recorded.
        started: When its run started; None if it has not.
        ended: When it ended, or its node was killed.
    """

    name: str
    node: "Node"
    interrupts: bool
    recorded: float | None = None
    started: float | None = None
    ended: float | None = None
    status: str | None = None


@define(eq=False)
class World:
    """The state that all nodes share, and the observations."""

    random: Random
    nursery: trio.Nursery
    server: MemoryServer = field(factory=MemoryServer)
    nodes: list["Node"] = field(factory=list)
    messages: dict[str, Message] = field(factory=dict)
    violations: list[str] = field(factory=list)
    excused_until: float = -1.0
    is_down: bool = False
    loses_mail: bool = False
    has_ended: trio.Event = field(factory=trio.Event)  # set when a run ends, and replaced

    def excuse(self) -> None:
        """Permit two runs at once until all nodes can have noticed the fault of this moment."""
        self.excused_until = trio.current_time() + REPAIR_SECONDS

    @property
    def is_excused(self) -> bool:
        return self.is_down or trio.current_time() < self.excused_until

    def note_start(self, message: Message) -> None:
        """Check that a run may start now."""
        now = message.started = trio.current_time()
        others = [each for each in self.messages.values() if each is not message]
        active = [each.name for each in others if each.started is not None and each.ended is None]
        if self.is_excused:
            return
        if active:
            self.violations.append(f"{now:.2f}: {message.name} starts beside {active}")
        for other in others:
            if other.recorded is None or other.started is not None or other.ended is not None:
                continue
            if other.recorded > now - SETTLE_SECONDS:
                continue
            assert message.recorded is not None
            first = other.recorded < message.recorded - SETTLE_SECONDS
            if message.interrupts and other.interrupts:
                first = other.recorded > message.recorded + SETTLE_SECONDS
            elif message.interrupts or other.interrupts:
                first = other.interrupts
            if first and other.recorded > self.excused_until:
                self.violations.append(f"{now:.2f}: {message.name} starts before {other.name}")


class WatchedStore(MemoryStore):
    """A store that tells when messages are recorded and runs end."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.names: dict[RunId, str] = {}

    async def record(self, message: NewMessage) -> Duplicate | None:
        name = message.content.partition(":")[0]
        self.names[message.run_id] = name
        known = await super().record(message)
        self.world.messages[name].recorded = trio.current_time()
        return known

    def end_run(self, end: RunEnd) -> Awaitable[Any]:
        message = self.world.messages[self.names[end.run_id]]
        message.ended, message.status = trio.current_time(), end.status
        self.world.has_ended.set()
        return super().end_run(end)


@define(eq=False)
class FaultyThreads:
    """The thread directory of a node, with late answers and faults."""

    inner: Any
    world: World
    is_killed: bool = False

    @property
    def node(self) -> NodeId:
        node: NodeId = self.inner.node
        return node

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.is_killed:
            await trio.sleep_forever()
        world = self.world
        if world.is_down:
            if world.random.random() < 0.5:
                await call()
            await trio.sleep(0.05)
            raise BrokerUnavailable("down")
        answer = await call()
        await trio.sleep(world.random.uniform(0, 0.02))
        return answer

    async def admit(self, wish: Wish) -> Admitted:
        return await self._call(lambda: self.inner.admit(wish))

    def leave(
        self, user_id: UserId, thread_id: ThreadId, run_id: RunId, *, slot: float | None = None
    ) -> Awaitable[First | None]:
        if self.is_killed or self.world.is_down:
            return self._call(lambda: self.inner.leave(user_id, thread_id, run_id, slot=slot))
        answer = self.inner.leave(user_id, thread_id, run_id, slot=slot)
        return self._call(lambda: answer)

    async def take_slot(self, user_id: UserId, *, rate: int, burst: int) -> float:
        return await self._call(lambda: self.inner.take_slot(user_id, rate=rate, burst=burst))

    async def hold(self, entries: Sequence[Entry]) -> Held:
        return await self._call(lambda: self.inner.hold(entries))

    async def step_back(self, entry: Entry) -> First:
        return await self._call(lambda: self.inner.step_back(entry))


@define(eq=False, slots=False)
class Node:
    """A node with sessions of one user."""

    world: World
    sessions: list[Session] = field(factory=list)
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        world = self.world
        self.backend = MemoryBackend(server=world.server)
        self.threads = FaultyThreads(self.backend.threads, world)
        settings = evolve(Settings(), max_message_rate=100_000)
        metrics = Metrics(("sleeper",))
        self.admission = ClusterAdmission(
            self.threads, self.post, settings=settings, metrics=metrics
        )
        self.store = WatchedStore(world)
        self.users = Users(rate=100_000, waiting=20)
        self.services = Services(
            settings=settings,
            store=self.store,
            verifier=TokenVerifier("x" * 32),
            instruments=Instruments(metrics),
            threads=NodeThreads(self.users, self.store, self.start_soon),
            admission=self.admission,
        )
        self.ready = trio.Event()

    async def serve(self) -> None:
        """Run the node until it is killed."""
        await self.store.create_user(ALICE)
        with self.scope:
            await self.backend.directory.renew()
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self.admission.run)
                nursery.start_soon(self.renew)
                nursery.start_soon(self.reap)
                self.ready.set()
                await trio.sleep_forever()

    async def renew(self) -> None:
        while True:
            if not self.world.is_down:
                await self.backend.directory.renew()
            await trio.sleep(RENEW_SECONDS)

    async def reap(self) -> None:
        while True:
            await trio.sleep(1)
            for session in self.sessions:
                session.abandon_overdue()
                session.suspend()

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that ends with the node."""
        self.nursery.start_soon(function, *args)

    def new_session(self) -> Session:
        """Open a session."""
        user = self.users.get(ALICE, trio.current_time())
        session = Session(
            user=user,
            permissions=frozenset(),
            agents={"sleeper": self.sleeper},
            services=self.services,
            acknowledging=False,
            wake=lambda woken: self.nursery.start_soon(woken.serve),
        )
        self.sessions.append(session)
        return session

    async def sleeper(self, run: Run) -> None:
        """Run as long as the message says."""
        name, _, seconds = run.content.partition(":")
        self.world.note_start(self.world.messages[name])
        await trio.sleep(float(seconds))

    async def post(self, node: NodeId, kind: str, header: JsonObject) -> None:
        """Send a message to another node."""
        if self.threads.is_killed:
            await trio.sleep_forever()
        if self.world.is_down:
            raise BrokerUnavailable("down")
        await trio.sleep(self.world.random.uniform(0, 0.02))
        if self.world.loses_mail and self.world.random.random() < 0.1:
            return
        for other in self.world.nodes:
            if other.threads.node == node and not other.threads.is_killed:
                admission = other.admission
                handlers = {
                    FIRST: admission.on_first,
                    INTERRUPT: admission.on_interrupt,
                    CHECK: admission.on_check,
                }
                handlers[kind](self.threads.node, header, b"")

    def kill(self) -> None:
        """End the node at once: nothing of it reaches the others any more."""
        self.threads.is_killed = True
        self.world.nodes.remove(self)
        self.scope.cancel()
        for message in self.world.messages.values():
            if message.node is self and message.ended is None:
                message.ended, message.status = trio.current_time(), "killed"


async def run_script(seed: int, *, faulty: bool, steps: int = 60) -> World:
    """Run one script and return the world, with the violations."""
    random = Random(seed)  # noqa: S311 - repeatable
    async with trio.open_nursery() as nursery:
        world = World(random, nursery)
        world.loses_mail = faulty and random.random() < 0.5
        for _ in range(3):
            await _start_node(world)
        for number in range(steps):
            await _step(world, number, faulty=faulty)
            await trio.sleep(random.choice([0.01, 0.1, 0.4, 0.8, 1.5]))
        world.is_down = False
        world.excuse()
        # Every run ends: each takes at most two seconds, and a lost message costs at most seconds.
        with trio.move_on_after(steps * 8):
            while any(_is_open(message) for message in world.messages.values()):
                world.has_ended = trio.Event()
                await world.has_ended.wait()
        for message in world.messages.values():
            if _is_open(message):
                world.violations.append(f"{message.name} has not ended: {message}")
        await trio.sleep(10)
        live = {node.threads.node for node in world.nodes}
        left = [run for line in world.server.threads.lines.values() for run in line]
        if any(run.node in live for run in left):
            world.violations.append(f"left in the lines: {left}")
        nursery.cancel_scope.cancel()
    return world


def _is_open(message: Message) -> bool:
    return message.recorded is not None and message.ended is None


async def _start_node(world: World) -> None:
    node = Node(world)
    world.nodes.append(node)
    world.nursery.start_soon(node.serve)
    await node.ready.wait()
    for _ in range(2):
        node.new_session()


async def _step(world: World, number: int, *, faulty: bool) -> None:
    random = world.random
    node = random.choice(world.nodes)
    fault = random.random() if faulty else 1.0
    if fault < 0.03:
        node.kill()
        world.excuse()
        await _start_node(world)
    elif fault < 0.06:
        world.server.clear()
        world.excuse()
    elif fault < 0.1:
        world.nursery.start_soon(_go_down, world, random.choice([0.3, 2.0, 5.0]))
    elif random.random() < 0.06:
        session = random.choice(node.sessions)
        node.sessions.remove(session)
        session.close()
        node.new_session()
    else:
        on_busy = random.choice([OnBusy.ENQUEUE] * 5 + [OnBusy.REJECT, OnBusy.INTERRUPT])
        name = f"m{number}"
        message = Message(name, node, on_busy is OnBusy.INTERRUPT)
        world.messages[name] = message
        content = f"{name}:{random.choice([0.05, 0.3, 1.0, 2.0])}"
        asked = UserMessage(content=content, thread_id=THREAD, on_busy=on_busy)
        try:
            random.choice(node.sessions).offer(asked, None)
        except Refused:
            message.status = "refused"


async def _go_down(world: World, seconds: float) -> None:
    if not world.is_down:
        world.is_down = True
        await trio.sleep(seconds)
        world.is_down = False
        world.excuse()


def simulate(seed: int, *, faulty: bool) -> World:
    """Run a script in virtual time."""
    return in_virtual_time(partial(run_script, seed, faulty=faulty))


if __name__ == "__main__":
    raise SystemExit(run_seeds(lambda seed: simulate(seed, faulty=True).violations))
