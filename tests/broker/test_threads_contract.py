"""The contract of `ThreadDirectory`: the order of threads and the message rate over all nodes."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from attrs import evolve
from support.valkey import Server
from trio.testing import MockClock

from netra_trio.broker.base import LEASE_SECONDS, Backend
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.broker.threads import Admitted, Entry, First, Outcome, Wish
from netra_trio.broker.valkey import scripts
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.ids import RunId, ThreadId, UserId, new_node_id
from netra_trio.protocol.messages import OnBusy
from netra_trio.protocol.ratelimit import SlidingWindow, group_seconds

ALICE, BOB, THREAD = UserId("alice"), UserId("bob"), ThreadId("t")


def wish(run_id: str, on_busy: OnBusy = OnBusy.ENQUEUE, **changes: Any) -> Wish:
    asked = Wish(ALICE, THREAD, RunId(run_id), on_busy, rate=60, burst=20)
    return evolve(asked, **changes)


def entry(run_id: str, order: float = 0.0, *, is_active: bool = False) -> Entry:
    return Entry(ALICE, THREAD, RunId(run_id), order, is_active)


class Nodes:
    """Three nodes with leases, on one server."""

    def __init__(self, backends: Sequence[Backend], lose_everything: Callable[[], object]) -> None:
        self.backends = backends
        self.lose_everything = lose_everything
        self.one, self.two, self.three = (backend.threads for backend in backends)

    async def renew(self) -> None:
        for backend in self.backends:
            await backend.directory.renew()

    def is_first(self, run_id: str, number: int, order: float) -> First:
        return First(RunId(run_id), self.backends[number].directory.node, order)


def nodes_in_memory() -> tuple[Nodes, MemoryServer]:
    """Return three nodes without leases, and their server."""
    server = MemoryServer()
    return Nodes([MemoryBackend(server=server) for _ in range(3)], server.clear), server


@pytest.fixture(params=["memory", "valkey", "redis"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    if request.param == "memory":
        nodes, _ = nodes_in_memory()
        await nodes.renew()
        yield nodes
        return
    running: Server = request.getfixturevalue(f"{request.param}_server")
    await trio.to_thread.run_sync(running.command, "FLUSHALL")
    backends = [ValkeyBackend(new_node_id(), running.url) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for backend in backends:
            await stack.enter_async_context(backend.open())
        nodes = Nodes(backends, lambda: running.command("FLUSHALL"))
        await nodes.renew()
        yield nodes


async def leave(threads: Any, run_id: str, **options: Any) -> First | None:
    first: First | None = await threads.leave(ALICE, THREAD, RunId(run_id), **options)
    return first


def outcomes(*admitted: Admitted) -> list[str]:
    return [each.outcome.value for each in admitted]


async def test_runs_of_a_thread_are_in_the_order_of_admission(nodes: Nodes) -> None:
    a = await nodes.one.admit(wish("a"))
    b = await nodes.two.admit(wish("b"))
    c = await nodes.one.admit(wish("c"))
    assert outcomes(a, b, c) == ["first", "behind", "behind"]
    assert [each.position for each in (a, b, c)] == [1, 1, 2]
    assert a.order < b.order < c.order
    assert a.epoch == b.epoch
    assert await leave(nodes.one, "a") == nodes.is_first("b", 1, b.order)
    assert await leave(nodes.two, "b") == nodes.is_first("c", 0, c.order)
    assert await leave(nodes.one, "c") is None
    assert outcomes(await nodes.two.admit(wish("d"))) == ["first"]


async def test_threads_and_users_are_separate(nodes: Nodes) -> None:
    asked = [wish("a"), wish("b", thread_id=ThreadId("u")), wish("c", user_id=BOB)]
    assert outcomes(*[await nodes.one.admit(each) for each in asked]) == ["first"] * 3


async def test_reject_is_refused_while_the_thread_has_a_run(nodes: Nodes) -> None:
    a = await nodes.one.admit(wish("a", OnBusy.REJECT))
    b = await nodes.two.admit(wish("b", OnBusy.REJECT))
    assert outcomes(a, b) == ["first", "busy"]
    assert await leave(nodes.one, "a") is None  # the refused one is not in the line
    assert outcomes(await nodes.two.admit(wish("b", OnBusy.REJECT))) == ["first"]


async def test_the_newest_interrupt_comes_next(nodes: Nodes) -> None:
    for run_id in ("a", "b"):
        await nodes.one.admit(wish(run_id))
    c = await nodes.two.admit(wish("c", OnBusy.INTERRUPT))
    d = await nodes.three.admit(wish("d", OnBusy.INTERRUPT))
    assert outcomes(c, d) == ["behind", "behind"]
    assert [c.position, d.position] == [1, 1]
    assert d.order < c.order < 0
    assert await leave(nodes.one, "a") == nodes.is_first("d", 2, d.order)
    assert await leave(nodes.three, "d") == nodes.is_first("c", 1, c.order)
    assert (await leave(nodes.two, "c") or c).order > 0


async def test_a_run_leaves_once_and_only_from_its_node(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    b = await nodes.two.admit(wish("b"))
    assert await leave(nodes.two, "a") is None
    assert (await nodes.two.hold([entry("b", b.order)])).firsts[0].run_id == "a"
    assert await leave(nodes.one, "a") == nodes.is_first("b", 1, b.order)
    assert await leave(nodes.one, "a") is None
    assert (await nodes.two.hold([entry("b", b.order)])).firsts[0].run_id == "b"
    assert await leave(nodes.one, "unknown") is None


async def test_a_waiting_run_leaves_its_line(nodes: Nodes) -> None:
    for run_id in ("a", "b"):
        await nodes.one.admit(wish(run_id))
    c = await nodes.one.admit(wish("c"))
    assert await leave(nodes.one, "b") is None
    assert await leave(nodes.one, "a") == nodes.is_first("c", 0, c.order)


async def test_calls_are_applied_in_the_order_of_the_calls(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    leaving = nodes.one.leave(ALICE, THREAD, RunId("a"))
    assert outcomes(await nodes.one.admit(wish("b", OnBusy.REJECT))) == ["first"]
    assert await leaving is None


async def test_the_position_counts_a_first_run_that_is_not_due(nodes: Nodes) -> None:
    assert (await nodes.one.admit(wish("other", thread_id=ThreadId("u"), rate=1))).seconds == 0
    asked = [await nodes.one.admit(wish(run_id, rate=1)) for run_id in ("a", "b", "c")]
    assert outcomes(*asked) == ["first", "behind", "behind"]
    assert [each.position for each in asked] == [1, 2, 3]


async def test_the_rate_is_that_of_all_nodes(nodes: Nodes) -> None:
    threads = [nodes.one, nodes.two, nodes.three]
    delays = []
    for number in range(8):
        asked = wish(f"r{number}", thread_id=ThreadId(f"t{number}"), rate=5, burst=3)
        delays.append((await threads[number % 3].admit(asked)).seconds)
    assert delays == pytest.approx([0] * 5 + [60] * 3, abs=0.5)
    refused = await nodes.one.admit(wish("beyond", rate=5, burst=3))
    assert refused.outcome is Outcome.TOO_FAST
    assert refused.seconds == pytest.approx(60, abs=0.5)


async def test_a_slot_is_given_back(nodes: Nodes) -> None:
    first = await nodes.one.admit(wish("a", rate=1, burst=0))
    assert (await nodes.two.admit(wish("b", rate=1, burst=0))).outcome is Outcome.TOO_FAST
    assert await leave(nodes.one, "a", slot=first.slot) is None
    assert (await nodes.two.admit(wish("b", rate=1, burst=0))).outcome is Outcome.FIRST


async def test_a_message_that_may_not_wait_takes_a_slot_of_the_same_rate(nodes: Nodes) -> None:
    assert await nodes.one.take_slot(ALICE, rate=3, burst=2) == 0
    assert (await nodes.two.admit(wish("a", rate=3, burst=2))).seconds == 0
    assert await nodes.three.take_slot(ALICE, rate=3, burst=2) == 0
    seconds = await nodes.one.take_slot(ALICE, rate=3, burst=2)
    assert 50 < seconds <= 60
    assert await nodes.two.take_slot(BOB, rate=3, burst=2) == 0
    delayed = [await nodes.two.admit(wish(run_id, rate=3, burst=2)) for run_id in ("b", "c")]
    assert all(each.seconds > 50 for each in delayed)  # the refused one has taken nothing
    assert (await nodes.two.admit(wish("d", rate=3, burst=2))).outcome is Outcome.TOO_FAST
    assert await nodes.one.take_slot(ALICE, rate=3, burst=2) > seconds - 10


async def test_a_busy_thread_and_a_full_rate_take_nothing(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a", rate=2, burst=0))
    for _ in range(3):
        refused = await nodes.two.admit(wish("b", OnBusy.REJECT, rate=2, burst=0))
        assert refused.outcome is Outcome.BUSY
    assert (await nodes.two.admit(wish("c", rate=2, burst=0))).outcome is Outcome.BEHIND
    assert (await nodes.two.admit(wish("d", rate=2, burst=0))).outcome is Outcome.TOO_FAST
    assert await leave(nodes.one, "a") is not None
    assert await leave(nodes.two, "c") is None  # the fourth one is not in the line


async def test_runs_of_a_node_that_is_gone_are_removed(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    await nodes.one.admit(wish("b"))
    c = await nodes.two.admit(wish("c"))
    await nodes.backends[0].directory.resign()
    held = await nodes.two.hold([entry("c", c.order)])
    assert held.firsts == [nodes.is_first("c", 1, c.order)]


async def test_a_message_finds_a_thread_free_whose_node_is_gone(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    await nodes.backends[0].directory.resign()
    assert outcomes(await nodes.two.admit(wish("b", OnBusy.REJECT))) == ["first"]
    b = await nodes.two.admit(wish("b2"))
    await nodes.backends[1].directory.resign()
    c = await nodes.three.admit(wish("c"))
    assert b.outcome is Outcome.BEHIND
    assert c.outcome is Outcome.FIRST


async def test_a_node_that_is_gone_is_found_when_another_run_leaves(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    await nodes.two.admit(wish("b"))
    c = await nodes.three.admit(wish("c"))
    await nodes.backends[1].directory.resign()
    assert await leave(nodes.one, "a") == nodes.is_first("c", 2, c.order)


async def test_a_node_without_a_lease_removes_nothing(nodes: Nodes) -> None:
    """The server may have lost all leases: that of another node comes back a moment later."""
    await nodes.one.admit(wish("a"))
    for backend in nodes.backends[:2]:
        await backend.directory.resign()
    assert outcomes(await nodes.two.admit(wish("b", OnBusy.REJECT))) == ["busy"]


async def test_hold_enters_again_what_was_lost(nodes: Nodes) -> None:
    a = await nodes.one.admit(wish("a"))
    b = await nodes.two.admit(wish("b"))
    c = await nodes.one.admit(wish("c"))
    d = await nodes.three.admit(wish("d", OnBusy.INTERRUPT))
    nodes.lose_everything()
    await nodes.renew()
    held = await nodes.one.hold([entry("a", a.order, is_active=True), entry("c", c.order)])
    assert held.epoch != a.epoch
    assert [first.run_id for first in held.firsts] == ["a", "a"]
    assert (await nodes.two.hold([entry("b", b.order)])).firsts[0].run_id == "a"
    assert (await nodes.three.hold([entry("d", d.order)])).firsts[0].run_id == "a"
    await leave(nodes.one, "a")
    assert (await nodes.two.hold([entry("b", b.order)])).firsts[0].run_id == "d"
    await leave(nodes.three, "d")
    assert (await nodes.one.hold([entry("c", c.order)])).firsts[0].run_id == "b"


async def test_two_active_runs_are_both_first(nodes: Nodes) -> None:
    """Two nodes have started runs of a thread while the server could not be reached."""
    await nodes.one.hold([entry("a", 1.0, is_active=True)])
    held = await nodes.two.hold([entry("b", 2.0, is_active=True), entry("c", 3.0)])
    assert [first.run_id for first in held.firsts] == ["b", "a"]
    assert await leave(nodes.one, "a") is None
    assert await leave(nodes.two, "b") == nodes.is_first("c", 1, 3.0)


async def test_hold_moves_a_run_to_another_node(nodes: Nodes) -> None:
    await nodes.one.admit(wish("a"))
    b = await nodes.two.admit(wish("b"))
    c = await nodes.two.admit(wish("c"))
    await nodes.three.hold([entry("b", 9e9)])
    assert await leave(nodes.two, "b") is None  # it is not a run of that node any more
    assert await leave(nodes.one, "a") == nodes.is_first("b", 2, b.order)
    assert await leave(nodes.three, "b") == nodes.is_first("c", 1, c.order)


async def test_hold_of_nothing_returns_the_epoch_and_the_time(nodes: Nodes) -> None:
    held = await nodes.one.hold([])
    assert held.epoch == (await nodes.two.admit(wish("a"))).epoch
    assert held.firsts == []
    await trio.sleep(0.01)
    assert 0.01 <= (await nodes.one.hold([])).now - held.now < 1


async def test_a_first_run_steps_back_before_those_that_interrupt(nodes: Nodes) -> None:
    a = await nodes.one.admit(wish("a"))
    b = await nodes.one.admit(wish("b"))
    first = await nodes.one.step_back(entry("a", a.order))
    assert first == nodes.is_first("a", 0, a.order)
    c = await nodes.two.admit(wish("c", OnBusy.INTERRUPT))
    assert await nodes.two.step_back(entry("a", a.order)) == first  # a run of another node
    assert await nodes.one.step_back(entry("a", a.order)) == nodes.is_first("c", 1, c.order)
    assert await leave(nodes.two, "c") == first
    assert await leave(nodes.one, "a") == nodes.is_first("b", 0, b.order)


async def test_step_back_of_a_lost_run_enters_it_again(nodes: Nodes) -> None:
    nodes.lose_everything()
    assert await nodes.one.step_back(entry("a", 5.0)) == nodes.is_first("a", 0, 5.0)


async def test_every_call_can_be_cancelled(nodes: Nodes) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await nodes.one.admit(wish("a"))
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await nodes.one.hold([entry("a")])
    assert scope.cancelled_caught
    await leave(nodes.one, "a")
    assert outcomes(await nodes.two.admit(wish("b", OnBusy.REJECT))) == ["first"]


@pytest.mark.parametrize("rate", [3, 2000])
async def test_the_rate_is_that_of_a_sliding_window(autojump_clock: MockClock, rate: int) -> None:
    """In virtual time, in memory."""
    nodes, _ = nodes_in_memory()
    chance = random.Random(rate)  # noqa: S311 - repeatable
    window = SlidingWindow(rate=rate, waiting=2)
    taken: list[tuple[str, float, float]] = []
    for number in range(300):
        await trio.sleep(chance.choice([0.0, 0.0, 0.25, 1.0, 20.0]))
        now = trio.current_time()
        if taken and chance.random() < 0.2:
            run_id, mine, theirs = taken.pop()
            window.give_back(mine)
            await leave(nodes.one, run_id, slot=theirs)
            continue
        expected, run_id = window.take(now), f"r{number}"
        admitted = await nodes.two.admit(wish(run_id, rate=rate, burst=2))
        if expected is None:
            assert admitted.outcome is Outcome.TOO_FAST
            assert admitted.seconds == window.retry_after(now)
        else:
            assert admitted.seconds == expected - now
            taken.append((run_id, expected, admitted.slot))


async def test_idle_windows_and_lines_are_dropped(autojump_clock: MockClock) -> None:
    nodes, server = nodes_in_memory()
    await nodes.one.admit(wish("a"))
    await leave(nodes.one, "a")
    await trio.sleep(60)
    await nodes.one.admit(wish("b", user_id=BOB))
    assert list(server.threads.windows) == [BOB]
    assert list(server.threads.lines) == [(BOB, THREAD)]


async def test_runs_of_a_node_whose_lease_has_ended_are_removed(autojump_clock: MockClock) -> None:
    nodes, _ = nodes_in_memory()
    await nodes.renew()
    await nodes.one.admit(wish("a"))
    await trio.sleep(LEASE_SECONDS)
    await nodes.backends[1].directory.renew()
    assert outcomes(await nodes.two.admit(wish("b", OnBusy.REJECT))) == ["first"]


@pytest.mark.parametrize("rate", [3, 2000])
def test_the_script_is_a_sliding_window(valkey_server: Server, rate: int) -> None:
    """At chosen times: the script takes them as its last argument instead of asking the server."""
    valkey_server.command("FLUSHALL")
    admit, give_back, take = (
        script.text.replace("redis.call('TIME')", "{ARGV[#ARGV], 0}")
        for script in (scripts.ADMIT, scripts.LEAVE, scripts.TAKE_SLOT)
    )
    chance, now = random.Random(rate), 1000.0  # noqa: S311 - repeatable
    window = SlidingWindow(rate=rate, waiting=2)
    taken: list[float] = []
    for number in range(400):
        now += chance.choice([0.0, 0.0, 0.01, 0.25, 1.0, 20.0])
        if taken and chance.random() < 0.2:
            slot = taken.pop(chance.randrange(len(taken)))
            window.give_back(slot)
            call = [give_back, "2", f"l{number}", "w", "r", "n", repr(slot), "1000", "nt:n:"]
            valkey_server.command("EVAL", *call, repr(now))
            continue
        group = repr(group_seconds(rate))
        if chance.random() < 0.2:
            seconds = valkey_server.command("EVAL", take, "1", "w", str(rate), group, repr(now))
            assert float(seconds) == window.take_now(now)
            continue
        call = ["r", "n", "enqueue", str(rate), "2", group, "1000", "nt:n:", "1e-6", repr(now)]
        keys = ["3", "w", f"l{number}", "e"]
        outcome, _, seconds, *_ = valkey_server.command("EVAL", admit, *keys, "epoch", *call)
        expected = window.take(now)
        if expected is None:
            assert (outcome, float(seconds)) == (b"too_fast", window.retry_after(now))
        else:
            assert (outcome, float(seconds)) == (b"first", expected - now)
            taken.append(expected)
