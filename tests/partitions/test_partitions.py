"""Nodes in network namespaces, of which one is cut off from the broker under load, and healed.

Run by `nox -s faults`: it needs the permission to administer the network.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from support.namespaces import Namespace
from support.nodes import Load, Nodes, Place
from support.ports import kept_port
from support.valkey import server as valkey_server

from netra_trio.broker.base import LEASE_SECONDS


@pytest.fixture
def namespaces() -> Iterator[list[Namespace]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Namespace(number)) for number in (1, 2)]


@pytest.mark.parametrize("clients_leave", [True, False])
async def test_a_node_that_is_cut_off_from_the_broker(
    clients_leave: bool, tmp_path: Path, namespaces: list[Namespace]
) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(kept_port(range(15000, 32000)))
        broker = stack.enter_context(
            valkey_server(settings={"bind": "*", "protected-mode": "no"}, port=port)
        )
        assert broker.process is not None
        places = [
            Place(
                each.command,
                ("--host", each.address("client")),
                {"REDIS_URL": f"redis://{each.outside('broker')}:{port}"},
            )
            for each in namespaces
        ]
        url = f"sqlite:///{tmp_path / 'netra.db'}"
        nodes = stack.enter_context(Nodes(tmp_path, 2, places, DATABASE_URL=url))
        load = Load(nodes)

        async def faults(load: Load) -> None:
            await trio.sleep(2)
            namespaces[0].cut("broker")
            if clients_leave:  # they resume at the other node, while the first one goes on
                await load.balancer.cut(0)
            await trio.sleep(LEASE_SECONDS + 3)
            namespaces[0].heal("broker")
            await trio.sleep(4)

        await load.run(faults)
        # A node that is cut off goes on without a copy: a client that leaves it is told of a gap.
        statuses = load.check(await nodes.ended_runs(), allows_gap=clients_leave)
        assert load.verdicts.keys() <= {"new", "exact", "gap"}
        assert statuses.keys() <= {"completed", "interrupted"}
        if not clients_leave:
            assert load.verdicts.keys() == {"new"}
            assert statuses.keys() == {"completed"}
