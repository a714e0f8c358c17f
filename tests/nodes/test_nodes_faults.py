"""Real nodes under load: killed, paused, drained, and with a broker that dies or loses all."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from support.nodes import Load, Nodes
from support.valkey import Server as Valkey
from support.valkey import server as valkey_server

from netra_trio.broker.base import LEASE_SECONDS


async def kill(load: Load) -> None:
    """Kill one node, start another one, and kill the next."""
    await trio.sleep(2)
    load.nodes.kill(0)
    await trio.sleep(2)
    await load.nodes.start(0)
    await trio.sleep(2)
    load.nodes.kill(1)
    await trio.sleep(3)


async def pause(load: Load) -> None:
    """Stop a node for longer than its lease; its clients are cut, and resume elsewhere."""
    await trio.sleep(2)
    load.nodes.pause(0)
    await load.balancer.cut(0)
    await trio.sleep(LEASE_SECONDS + 2)
    load.nodes.go_on(0)
    await trio.sleep(3)


@pytest.mark.parametrize(
    ("faults", "count", "database"),
    [(kill, 2, "sqlite"), (kill, 3, "postgres"), (pause, 2, "postgres")],
)
async def test_every_session_resumes_exactly(
    faults: Callable[[Load], Awaitable[None]],
    count: int,
    database: str,
    *,
    tmp_path: Path,
    valkey_url: str,
    database_url: str,
) -> None:
    url = f"sqlite:///{tmp_path / 'netra.db'}" if database == "sqlite" else database_url
    with Nodes(tmp_path, count, REDIS_URL=valkey_url, DATABASE_URL=url) as nodes:
        load = Load(nodes)
        await load.run(faults)
        statuses = load.check(await nodes.ended_runs())
        assert load.verdicts.keys() == {"new", "exact"}
        assert statuses["completed"]
        assert statuses.keys() <= {"completed", "interrupted"}


@pytest.mark.parametrize("loses", ["process", "data"])
async def test_a_broker_that_restarts_empty_disturbs_no_client(loses: str, tmp_path: Path) -> None:
    with valkey_server() as broker:
        url = f"sqlite:///{tmp_path / 'netra.db'}"
        with Nodes(tmp_path, 2, REDIS_URL=broker.url, DATABASE_URL=url) as nodes:
            load = Load(nodes)

            async def faults(load: Load) -> None:
                await trio.sleep(2)
                await trio.to_thread.run_sync(lose, broker, loses)
                await trio.sleep(LEASE_SECONDS + 1)
                assert load.verdicts.keys() == {"new"}
                nodes.kill(0)  # the other node has copies of everything again
                await trio.sleep(4)

            await load.run(faults)
            statuses = load.check(await nodes.ended_runs())
            assert load.verdicts.keys() == {"new", "exact"}
            assert statuses.keys() == {"completed", "interrupted"}


def lose(broker: Valkey, what: str) -> None:
    if what == "data":
        broker.command("FLUSHALL")
    else:
        broker.kill()
        broker.start()
