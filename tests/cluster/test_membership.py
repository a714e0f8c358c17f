"""The lease of a node, and what it learns of the others."""

import pytest
import trio
from trio.testing import MockClock

from netra_trio.broker.base import LEASE_SECONDS, RENEW_SECONDS
from netra_trio.broker.memory import MemoryBackend, MemoryDirectory, MemoryServer
from netra_trio.cluster.membership import SETTLE_SECONDS, Membership
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId

ONE, TWO = NodeId("one"), NodeId("two")


def membership(server: MemoryServer, node: NodeId) -> Membership:
    return Membership(MemoryBackend(node, server).directory)


async def test_nodes_see_each_other(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    one, two = membership(server, ONE), membership(server, TWO)
    new: list[NodeId] = []
    gone: list[NodeId] = []
    one.on_new.append(new.append)
    one.on_gone.append(gone.append)
    await one.renew()
    assert not one.has_peers_beside(())
    await two.renew()
    await one.renew()
    assert one.has_peers_beside(())
    assert one.peers.keys() == {TWO}
    assert (new, gone) == ([TWO], [])
    two.start_draining()
    await two.renew()
    await one.renew()
    assert (one.peers, one.has_peers_beside(())) == ({TWO: True}, False)
    await two.resign()
    await one.renew()
    assert TWO not in one.peers
    assert (new, gone) == ([TWO], [TWO])


@pytest.mark.parametrize("how", ["expired", "empty", "older data"])
async def test_a_lost_lease_is_noticed(how: str, autojump_clock: MockClock) -> None:
    server, lost = MemoryServer(), []
    one = membership(server, ONE)
    one.on_lost = lambda: lost.append(trio.current_time())
    await one.renew()  # the first one is no loss
    older = dict(server.leases)
    await one.renew()
    assert not lost
    assert one.settled_in <= 0
    if how == "expired":
        await trio.sleep(LEASE_SECONDS)
    elif how == "empty":
        server.clear()
    else:
        server.restore(older, {})
    await one.renew()
    assert len(lost) == 1
    assert one.settled_in == SETTLE_SECONDS
    await trio.sleep(1)
    one.note_unregistered()  # the first notice counts
    assert one.settled_in == SETTLE_SECONDS - 1
    await one.renew()
    assert len(lost) == 1


async def test_the_lease_is_renewed_until_cancelled(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MemoryServer()
    one = membership(server, ONE)
    nursery.start_soon(one.run)
    await trio.sleep(10 * LEASE_SECONDS)
    assert server.is_live(ONE)

    async def fail(*_: object, **__: object) -> bool:
        raise BrokerUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryDirectory, "renew", fail)
        await trio.sleep(LEASE_SECONDS)
        assert not server.is_live(ONE)
    await trio.sleep(RENEW_SECONDS + 0.01)
    assert server.is_live(ONE)
    one.start_draining()  # at once
    await trio.sleep(0.001)
    assert server.leases[ONE].is_draining
