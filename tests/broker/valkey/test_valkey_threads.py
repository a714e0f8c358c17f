"""Threads on a real server that loses its scripts, is full, is killed, and is emptied."""

from contextlib import suppress

import pytest
import trio
from attrs import define, evolve
from support.valkey import Server
from support.valkey_nodes import opened, until_true

from netra_trio.broker.base import RENEW_SECONDS
from netra_trio.broker.threads import Outcome, Wish
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.cluster.admission import CHECK, FIRST, INTERRUPT, ClusterAdmission
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import RunId, ThreadId, UserId
from netra_trio.protocol.messages import OnBusy
from netra_trio.telemetry.metrics import Metrics

ALICE, THREAD = UserId("alice"), ThreadId("t")


def wish(run_id: str) -> Wish:
    return Wish(ALICE, THREAD, RunId(run_id), OnBusy.ENQUEUE, rate=60, burst=20)


async def test_the_server_loses_its_scripts(own_server: Server, nursery: trio.Nursery) -> None:
    one = await opened(own_server.url, nursery)
    await one.directory.renew()
    own_server.command("SCRIPT", "FLUSH")
    assert (await one.threads.admit(wish("a"))).outcome is Outcome.FIRST
    b = await one.threads.admit(wish("b"))
    own_server.command("SCRIPT", "FLUSH")
    first = await one.threads.leave(ALICE, THREAD, RunId("a"))
    assert first is not None
    assert (first.run_id, first.order) == ("b", b.order)


async def test_runs_leave_a_full_server(own_server: Server, nursery: trio.Nursery) -> None:
    one = await opened(own_server.url, nursery)
    await one.directory.renew()
    for run_id in ("a", "b"):
        await one.threads.admit(wish(run_id))
    own_server.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(BrokerUnavailable, match="OOM"):
        await one.threads.admit(wish("c"))
    first = await one.threads.leave(ALICE, THREAD, RunId("a"))
    assert first is not None
    assert first.run_id == "b"
    assert await one.threads.leave(ALICE, THREAD, RunId("b")) is None


@define(eq=False)
class Place:
    """The place of a run."""

    run: str
    thread: str = THREAD
    is_active: bool = False
    is_granted: bool | None = False
    is_refused: bool = False
    position: int | None = None
    was_interrupted: bool = False

    def wake(self) -> None:
        """Do nothing: it is polled."""

    def interrupt(self) -> None:
        self.was_interrupted = True


async def admission_of(backend: ValkeyBackend, nursery: trio.Nursery) -> ClusterAdmission:
    """Return the running admission of a node."""
    mailbox = Mailbox(backend.directory)
    admission = ClusterAdmission(
        backend.threads,
        mailbox.post,
        settings=evolve(Settings(), max_message_rate=1000),
        metrics=Metrics(),
    )
    mailbox.handle_now(FIRST, admission.on_first)
    mailbox.handle_now(INTERRUPT, admission.on_interrupt)
    mailbox.handle_now(CHECK, admission.on_check)

    async def renew() -> None:
        while True:
            with suppress(BrokerUnavailable):
                await backend.directory.renew()
            await trio.sleep(RENEW_SECONDS)

    await backend.directory.renew()
    nursery.start_soon(renew)
    nursery.start_soon(mailbox.run)
    nursery.start_soon(admission.run)
    return admission


async def admit(admission: ClusterAdmission, run: str, on_busy: OnBusy = OnBusy.ENQUEUE) -> Place:
    place = Place(run)
    await admission.admit(ALICE, place, on_busy)
    return place


async def test_the_order_on_two_nodes_of_a_server_that_is_killed(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one, two = [
        await admission_of(await opened(own_server.url, nursery), nursery) for _ in range(2)
    ]
    a = await admit(one, "a")
    a.is_active = True
    b, c = await admit(two, "b"), await admit(one, "c")
    assert [each.position for each in (a, b, c)] == [1, 1, 2]
    d = await admit(two, "d", OnBusy.INTERRUPT)
    two.interrupt(d)
    await until_true(lambda: a.was_interrupted)
    one.leave(a)
    await until_true(lambda: bool(d.is_granted))
    d.is_active = True

    own_server.kill()
    e = await admit(one, "e")  # decided alone
    assert e.is_granted is None
    await until_true(lambda: c.is_granted is None)
    own_server.start()  # empty

    await until_true(lambda: c.is_granted is False)
    await until_true(lambda: e.is_granted is False)
    two.leave(d)
    order = []
    waiting = {"b": (two, b), "c": (one, c), "e": (one, e)}
    while waiting:
        await until_true(lambda: any(place.is_granted for _, place in waiting.values()))
        (run,) = [run for run, (_, place) in waiting.items() if place.is_granted]
        admission, place = waiting.pop(run)
        order.append(run)
        admission.leave(place)
    assert order == ["b", "c", "e"]
    nursery.cancel_scope.cancel()
