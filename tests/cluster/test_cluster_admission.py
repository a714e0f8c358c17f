"""The admission over all nodes: grants, interrupts, moves, outages, and what is repaired."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.broker.base import RENEW_SECONDS
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.threads import Admitted, Entry, First, Held, Outcome, Wish
from netra_trio.cluster.admission import (
    ACTIVE_RUNS,
    CHECK,
    CHECK_SECONDS,
    FIRST,
    INTERRUPT,
    LOOK_SECONDS,
    RELEASED_SECONDS,
    ClusterAdmission,
)
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import OnBusy
from netra_trio.telemetry.metrics import Metrics

ALICE, THREAD = UserId("alice"), ThreadId("t")


@define(eq=False)
class Place:
    """The place of a run, which notes what it is told."""

    run: str
    thread: str = THREAD
    is_active: bool = False
    is_granted: bool | None = False
    is_refused: bool = False
    position: int | None = None
    wakes: int = 0
    interrupts: int = 0

    def wake(self) -> None:
        self.wakes += 1

    def interrupt(self) -> None:
        self.interrupts += 1


def granted(place: Place) -> bool | None:
    """Return whether a run may start now; a type checker keeps what it knows of an attribute."""
    return place.is_granted


@define(eq=False)
class Threads:
    """The thread directory of a node, which can be unreachable."""

    inner: Any
    is_down: bool = False
    calls: list[str] = field(factory=list)

    @property
    def node(self) -> NodeId:
        node: NodeId = self.inner.node
        return node

    async def _call(self, name: str, call: Any) -> Any:
        self.calls.append(name)
        if self.is_down:
            await trio.lowlevel.checkpoint()
            raise BrokerUnavailable("it is down")
        return await call()

    async def admit(self, wish: Wish) -> Admitted:
        admitted: Admitted = await self._call("admit", lambda: self.inner.admit(wish))
        return admitted

    def leave(
        self, user_id: UserId, thread_id: ThreadId, run_id: RunId, *, slot: float | None = None
    ) -> Awaitable[First | None]:
        if self.is_down:
            return self._call("leave", None)
        answer = self.inner.leave(user_id, thread_id, run_id, slot=slot)
        return self._call("leave", lambda: answer)

    async def take_slot(self, user_id: UserId, *, rate: int, burst: int) -> float:
        call = partial(self.inner.take_slot, user_id, rate=rate, burst=burst)
        seconds: float = await self._call("take_slot", call)
        return seconds

    async def hold(self, entries: Sequence[Entry]) -> Held:
        held: Held = await self._call(f"hold {len(entries)}", lambda: self.inner.hold(entries))
        return held

    async def step_back(self, entry: Entry) -> First:
        first: First = await self._call("step_back", lambda: self.inner.step_back(entry))
        return first


@define(eq=False, slots=False)
class Node:
    """A node with a lease."""

    nodes: "list[Node]"
    server: MemoryServer
    mail: list[tuple[str, str]] = field(factory=list)
    loses_mail: bool = False
    rate: int = 60
    is_gone: bool = False

    def __attrs_post_init__(self) -> None:
        self.backend = MemoryBackend(server=self.server)
        self.threads = Threads(self.backend.threads)
        self.metrics = Metrics()
        settings = evolve(Settings(), max_message_rate=self.rate, burst_queue=0)
        self.admission = ClusterAdmission(
            self.threads, self.post, settings=settings, metrics=self.metrics
        )

    @property
    def id(self) -> NodeId:
        return self.backend.node

    async def renew(self) -> None:
        """Renew the lease, until the node is gone."""
        while not self.is_gone:
            await self.backend.directory.renew()
            await trio.sleep(RENEW_SECONDS)

    async def post(self, node: NodeId, kind: str, header: JsonObject) -> None:
        await trio.lowlevel.checkpoint()
        self.mail.append((kind, str(header["run"])))
        if not self.loses_mail:
            next(other for other in self.nodes if other.id == node).receive(kind, header)

    def receive(self, kind: str, header: JsonObject) -> None:
        admission = self.admission
        handlers = {
            FIRST: admission.on_first,
            INTERRUPT: admission.on_interrupt,
            CHECK: admission.on_check,
        }
        handlers[kind](self.id, header, b"")

    async def admit(self, run: str, on_busy: OnBusy = OnBusy.ENQUEUE) -> Place:
        """Admit a message, and return the place of its run."""
        place = Place(run)
        admitted = await self.admission.admit(ALICE, place, on_busy)
        assert admitted is None or admitted.outcome in {Outcome.FIRST, Outcome.BEHIND}
        return place

    def line(self) -> list[str]:
        """Return the runs of the thread, the first one first."""
        return [run.run_id for run in self.server.threads.lines.get((ALICE, THREAD), [])]


@asynccontextmanager
async def open_nodes(count: int = 2, *, rate: int = 60) -> AsyncIterator[list[Node]]:
    nodes: list[Node] = []
    server = MemoryServer()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nodes.append(Node(nodes, server, rate=rate))
            nursery.start_soon(nodes[-1].renew)
            nursery.start_soon(nodes[-1].admission.run)
        await wait_all_tasks_blocked()
        yield nodes
        nursery.cancel_scope.cancel()


async def test_the_next_run_is_granted_as_soon_as_the_first_one_leaves(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, two):
        a, b, c = await one.admit("a"), await two.admit("b"), await two.admit("c")
        assert [granted(each) for each in (a, b, c)] == [True, False, False]
        assert [each.position for each in (a, b, c)] == [1, 1, 2]
        one.admission.leave(a)
        await wait_all_tasks_blocked()
        assert one.mail == [(FIRST, "b")]
        assert (granted(b), b.wakes, granted(c)) == (True, 1, False)
        two.admission.leave(b)
        await wait_all_tasks_blocked()
        assert two.mail == []  # its own run
        assert (granted(c), c.wakes) == (True, 1)
        assert trio.current_time() < LOOK_SECONDS


async def test_a_refused_message_takes_nothing(autojump_clock: MockClock) -> None:
    async with open_nodes(rate=2) as (one, two):
        a = await one.admit("a")
        busy = await two.admission.admit(ALICE, Place("b"), OnBusy.REJECT)
        assert busy is not None
        assert busy.outcome is Outcome.BUSY
        await two.admit("c")
        place = Place("d")
        fast = await two.admission.admit(ALICE, place, OnBusy.ENQUEUE)
        assert fast is not None
        assert (fast.outcome, fast.seconds) == (Outcome.TOO_FAST, 60)
        two.admission.leave(place)  # its session forgets it
        one.admission.leave(a)
        await wait_all_tasks_blocked()
        assert one.line() == ["c"]


async def test_the_slot_of_a_message_that_was_not_recorded_is_given_back(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(rate=1) as (one, two):
        a = await one.admit("a")
        a.is_refused = True
        one.admission.leave(a)
        assert granted(await two.admit("b"))


async def test_a_lost_message_delays_a_run_by_a_second(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        one.loses_mail = True
        a, b = await one.admit("a"), await two.admit("b")
        one.admission.leave(a)
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert (granted(b), b.wakes) == (True, 1)


async def test_a_run_of_a_node_that_is_gone_is_removed(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        await one.admit("a")
        b = await two.admit("b")
        one.threads.is_down = one.is_gone = True
        await one.backend.directory.resign()
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert granted(b)
        assert two.line() == ["b"]


async def test_nothing_is_asked_while_no_run_waits(autojump_clock: MockClock) -> None:
    async with open_nodes(1) as (one,):
        await trio.sleep(10)
        assert one.threads.calls == ["hold 0"]  # at the start
        a = await one.admit("a")
        a.is_active = True
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert one.threads.calls[-1] == "hold 1"
        one.admission.leave(a)
        await trio.sleep(10)
        assert one.threads.calls[-1] == "leave"


async def test_active_runs_are_looked_at_in_turn(autojump_clock: MockClock) -> None:
    async with open_nodes(1, rate=10_000) as (one,):
        for number in range(ACTIVE_RUNS + 1):
            place = Place(f"r{number}", f"t{number}", is_active=True)
            await one.admission.admit(ALICE, place, OnBusy.ENQUEUE)
        one.threads.calls.clear()
        await trio.sleep(3.5 * LOOK_SECONDS)
        assert one.threads.calls == [f"hold {ACTIVE_RUNS}", "hold 1", f"hold {ACTIVE_RUNS}"]


async def test_an_active_run_of_another_node_is_interrupted(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        a = await one.admit("a")
        a.is_active = True
        b = await two.admit("b", OnBusy.INTERRUPT)
        two.admission.interrupt(b)
        await wait_all_tasks_blocked()
        assert two.mail == [(INTERRUPT, "a")]
        assert a.interrupts == 1
        one.admission.leave(a)
        await wait_all_tasks_blocked()
        assert granted(b)


async def test_a_lost_interrupt_is_repeated(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        a = await one.admit("a")
        a.is_active = True
        two.loses_mail = True
        b = await two.admit("b", OnBusy.INTERRUPT)
        two.admission.interrupt(b)
        await wait_all_tasks_blocked()
        two.loses_mail = False
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert a.interrupts == 1


async def test_an_interrupt_does_not_cancel_a_newer_one(autojump_clock: MockClock) -> None:
    async with open_nodes(3) as (one, two, three):
        a = await one.admit("a")
        older = await two.admit("b", OnBusy.INTERRUPT)
        newer = await three.admit("c", OnBusy.INTERRUPT)
        one.admission.leave(a)
        await wait_all_tasks_blocked()
        newer.is_active = True
        two.admission.interrupt(older)
        await wait_all_tasks_blocked()
        assert newer.interrupts == 0
        three.admission.leave(newer)
        await wait_all_tasks_blocked()
        assert granted(older)


async def test_a_first_run_that_has_not_started_makes_way(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        a = await one.admit("a")
        b = await two.admit("b", OnBusy.INTERRUPT)
        two.admission.interrupt(b)
        await wait_all_tasks_blocked()
        assert (granted(a), granted(b)) == (False, True)
        # A message that was sent before may arrive now; it is not believed.
        one.receive(FIRST, {"user": ALICE, "thread": THREAD, "run": "a"})
        await wait_all_tasks_blocked()
        assert granted(a) is False
        two.admission.leave(b)
        await wait_all_tasks_blocked()
        assert granted(a)
        assert a.interrupts == 0


async def test_a_first_run_of_the_same_node_makes_way(autojump_clock: MockClock) -> None:
    async with open_nodes(1) as (one,):
        a = await one.admit("a")
        b = await one.admit("b", OnBusy.INTERRUPT)
        one.admission.interrupt(b)
        await wait_all_tasks_blocked()
        assert (granted(a), granted(b)) == (False, True)
        assert one.mail == []


async def test_a_run_that_nothing_interrupts_stays_the_first(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, _):
        a = await one.admit("a")
        one.receive(INTERRUPT, {"user": ALICE, "thread": THREAD, "run": "a"})
        await wait_all_tasks_blocked()
        assert granted(a)


@pytest.mark.parametrize("kind", [FIRST, INTERRUPT, CHECK])
async def test_a_first_run_that_has_ended_leaves_its_line(
    autojump_clock: MockClock, kind: str
) -> None:
    """Its node does not know it: the server has failed over to an earlier state."""
    async with open_nodes() as (one, two):
        await one.backend.threads.hold([Entry(ALICE, THREAD, RunId("old"), 0.0, is_active=True)])
        b = await two.admit("b")
        one.receive(kind, {"user": ALICE, "thread": THREAD, "run": "old"})
        await wait_all_tasks_blocked()
        assert granted(b)


async def test_a_node_is_asked_for_a_run_that_is_the_first_for_long(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, two):
        await one.backend.threads.hold([Entry(ALICE, THREAD, RunId("old"), 0.0, is_active=True)])
        b, long = await two.admit("b"), Place("long", "u", is_active=True)
        await one.admission.admit(ALICE, long, OnBusy.ENQUEUE)
        waits = Place("waits", "u")
        await two.admission.admit(ALICE, waits, OnBusy.ENQUEUE)
        await trio.sleep(CHECK_SECONDS + 2 * LOOK_SECONDS)
        assert sorted(two.mail) == [(CHECK, "long"), (CHECK, "old")]
        assert (granted(b), granted(waits)) == (True, False)


async def test_a_run_that_moves_keeps_its_place(autojump_clock: MockClock) -> None:
    async with open_nodes(3) as (one, two, three):
        a, b = await one.admit("a"), await two.admit("b")
        c = await one.admit("c")
        two.admission.release(b)
        two.admission.leave(b)  # as its session forgets it
        one.admission.leave(a)
        await wait_all_tasks_blocked()
        assert one.line() == ["b", "c"]  # nothing starts meanwhile
        moved = Place("b")
        three.admission.adopt(ALICE, moved)
        await wait_all_tasks_blocked()
        assert (granted(moved), moved.wakes, granted(c)) == (True, 1, False)
        await trio.sleep(RELEASED_SECONDS + LOOK_SECONDS)
        three.admission.leave(moved)
        await wait_all_tasks_blocked()
        assert granted(c)


async def test_a_node_decides_alone_while_the_directory_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, two):
        a = await one.admit("a")
        a.is_active = True
        b = await two.admit("b")
        two.threads.is_down = True
        with capture_logs() as logs:
            for run in ("c", "d"):
                place = Place(run)
                assert await two.admission.admit(ALICE, place, OnBusy.ENQUEUE) is None
                assert granted(place) is None
        assert [entry["event"] for entry in logs] == ["threads_local"]
        assert two.metrics.broker_fallbacks["messages"] == 2
        assert two.threads.calls.count("admit") == 2  # the answer is not waited for again
        assert (granted(b), b.wakes) == (None, 1)
        adopted = Place("e")
        two.admission.adopt(ALICE, adopted)
        assert granted(adopted) is None
        two.receive(INTERRUPT, {"user": ALICE, "thread": THREAD, "run": "c"})
        two.threads.is_down = False
        with capture_logs() as logs:
            await trio.sleep(LOOK_SECONDS)
            await wait_all_tasks_blocked()
        assert [entry["event"] for entry in logs] == ["threads_shared"]
        assert (granted(b), granted(adopted)) == (False, False)
        assert one.line() == ["a", "b"]
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert one.line() == ["a", "b", "c", "d", "e"]
        assert (granted(b), granted(adopted)) == (False, False)


async def test_a_message_outside_of_threads_takes_a_slot_of_all_nodes(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(rate=2) as (one, two):
        await one.admit("a")
        assert await two.admission.take_slot(ALICE) == 0
        assert await one.admission.take_slot(ALICE) == 60
        one.threads.is_down = True
        for _ in range(2):
            assert await one.admission.take_slot(ALICE) is None
        assert one.threads.calls.count("take_slot") == 2  # the answer is not waited for again
        assert one.metrics.broker_fallbacks["messages"] == 2
        assert await two.admission.take_slot(ALICE) == 60


async def test_a_run_leaves_after_an_outage(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        a, b = await one.admit("a"), await two.admit("b")
        u = Place("u", "u")
        await one.admission.admit(ALICE, u, OnBusy.ENQUEUE)
        one.threads.is_down = True
        one.admission.leave(a)  # finds out that it does not answer
        await wait_all_tasks_blocked()
        one.admission.leave(u)
        await trio.sleep(3 * LOOK_SECONDS)
        assert granted(b) is False
        one.threads.is_down = False
        await trio.sleep(LOOK_SECONDS)
        await wait_all_tasks_blocked()
        assert granted(b)
        assert list(one.server.threads.lines) == [(ALICE, THREAD)]


@pytest.mark.parametrize("what", ["hold", "step_back"])
async def test_the_directory_fails_in_between(autojump_clock: MockClock, what: str) -> None:
    async with open_nodes() as (one, two):
        await one.admit("a")
        b = await two.admit("b", OnBusy.INTERRUPT)
        if what == "hold":
            two.threads.is_down = True
        else:
            one.threads.is_down = True
        two.admission.interrupt(b)
        await wait_all_tasks_blocked()
        one.threads.is_down = two.threads.is_down = False
        await trio.sleep(3 * LOOK_SECONDS)
        assert granted(b)


async def test_all_runs_enter_again_after_the_server_has_lost_them(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, two):
        a = await one.admit("a")
        a.is_active = True
        for number in range(3):
            await two.admit(f"b{number}")
        elsewhere = Place("u", "u", is_active=True)
        await one.admission.admit(ALICE, elsewhere, OnBusy.ENQUEUE)
        one.server.threads.clear()
        with capture_logs() as logs:
            await trio.sleep(2 * LOOK_SECONDS)
            await wait_all_tasks_blocked()
        assert [entry["event"] for entry in logs].count("threads_lost") == 2
        assert one.line() == ["a", "b0", "b1", "b2"]
        assert (ALICE, ThreadId("u")) in one.server.threads.lines


async def test_a_message_notices_that_the_server_has_lost_everything(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, _):
        a = await one.admit("a")
        a.is_active = True
        one.server.threads.clear()
        other = Place("other", "u")
        await one.admission.admit(ALICE, other, OnBusy.ENQUEUE)
        await wait_all_tasks_blocked()
        assert trio.current_time() < LOOK_SECONDS
        assert one.line() == ["a"]


async def test_a_cancelled_message_leaves_its_line(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two):
        place = Place("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.admission.admit(ALICE, place, OnBusy.ENQUEUE)
        assert scope.cancelled_caught
        one.admission.leave(place)
        assert granted(await two.admit("b"))


async def test_nothing_is_sent_when_the_node_is_closed(autojump_clock: MockClock) -> None:
    async with open_nodes(1) as (one,):
        a = await one.admit("a")
    one.admission.leave(a)
    one.admission.adopt(ALICE, Place("b"))
    assert one.threads.calls == ["hold 0", "admit"]
