"""Sessions of two nodes with a broker behind a real nginx: the other node goes on with them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.deployed import valkey_users
from support.nginx import POLL_SECONDS
from support.nginx_nodes import Cluster, client_of, opened_at, running
from support.server import PATIENCE, Server
from support.valkey import server

from netra_trio.client import Client, Run


@pytest.fixture
def cluster(tmp_path: Path, database_url: str) -> Iterator[Cluster]:
    """Return a cluster with a broker, where it has the rights of the example and no more."""
    users = tmp_path / "users.acl"
    users.write_text(valkey_users("a-password"))
    with server(settings={"aclfile": str(users)}) as valkey:
        url = f"unix://netra:a-password@{valkey.socket}"
        with running(tmp_path, database_url, REDIS_URL=url) as cluster:
            yield cluster


def node_of_the_client(cluster: Cluster) -> Server:
    """Return the node that has accepted the only connection."""
    (found,) = (node for node in cluster.nodes if opened_at(node))
    return found


async def start_counting(client: Client, name: str) -> Run:
    """Send a message whose run waits for a file, and return it when it works."""
    run = await client.send(name, agent="count")
    async for event in run:
        if event.type == "partial_result":
            break
    return run


async def test_a_session_goes_on_after_its_node_was_killed(cluster: Cluster) -> None:
    async with client_of(cluster.proxy) as client:
        assert await (await client.send("before")).text() == "before"
        run = await start_counting(client, "killed")
        node_of_the_client(cluster).process.send_signal(signal.SIGKILL)
        ends = [event async for event in run if event.type == "agent_completed"]
        assert [end.payload["status"] for end in ends] == ["interrupted"]
        assert client.stats.last_resume_verdict == "exact"
        assert await (await client.send("after")).text() == "after"
        assert client.stats.reconnections == 1


async def test_no_message_and_no_run_is_lost_by_a_rolling_restart(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One node after the other, as the page about scaling says, while a user goes on."""
    answers: list[tuple[str, str]] = []
    restarted = trio.Event()

    async def talk(client: Client) -> None:
        while not restarted.is_set():
            text = f"message {len(answers)}"
            answers.append((text, await (await client.send(text)).text()))

    async with client_of(cluster.proxy) as client, trio.open_nursery() as nursery:
        run = await start_counting(client, "drained")
        nursery.start_soon(talk, client)
        first = cluster.nodes.index(node_of_the_client(cluster))
        for number in (first, 1 - first):
            cluster.nodes[number].process.send_signal(signal.SIGTERM)
            if number == first:
                with trio.fail_after(PATIENCE):
                    while client.stats.reconnections == 0:  # noqa: ASYNC110 - it has no event
                        await trio.sleep(POLL_SECONDS)
                (tmp_path / "go-drained").touch()
            assert await trio.to_thread.run_sync(cluster.nodes[number].process.wait) == 0
            await trio.to_thread.run_sync(cluster.start, number)
            known = len(answers)
            with trio.fail_after(PATIENCE):
                while len(answers) == known:  # noqa: ASYNC110 - as above
                    await trio.sleep(POLL_SECONDS)
        restarted.set()
        rest = [event.payload async for event in run]
    assert [payload["content"] for payload in rest if "content" in payload] == ["two"]
    assert rest[-1]["status"] == "completed"
    assert [text for text, answer in answers if answer != text] == []
    assert client.stats.last_resume_verdict == "exact"
