"""Acceptance tests of resumes, errors, rate limits and concurrent connections, over real sockets.

Queuing of messages during a disconnection is a feature of the client, tested in `tests/client`.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from support.server import SUBPROTOCOL, Client, Frame, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
import trio
from netra_trio.agents.demo.echo import echo


async def fail(run):
    await run.emit("so far ")
    raise RuntimeError("a secret of the server")


async def wait(run):
    await run.emit("waiting")
    await trio.sleep_forever()
"""
NAMES = ("echo", "fail", "wait")


def with_agents(folder: Path) -> list[str]:
    write_agents(folder, AGENTS)
    return [part for name in NAMES for part in ("--agent", f"outside_agents:{name}")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(
        folder,
        *with_agents(folder),
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="20",
        WEBSOCKET_MAX_MESSAGE_RATE="1000",
    ) as running:
        yield running


async def end_of(client: Client) -> Frame:
    payload: Frame = (await client.until("agent_completed"))[-1]["payload"]
    return payload


async def test_a_lost_connection_can_be_resumed(server: Server) -> None:
    config = server.http("GET", "/ws/config").json()["websocket_config"]
    assert config["features"]["resume"] is True
    assert config["connection_limits"]["resume_window"] == 120_000
    async with server.connect() as client:
        await client.say("hello")
        frames = await client.until("agent_completed")
        session = client.hello["payload"]["session_id"]
    last = frames[-1]["seq"]
    async with server.connect(query=f"?session_id={session}&last_seq={last - 1}") as client:
        payload = client.hello["payload"]
        assert payload["session_id"] == session
        resume = payload["resume"]
        assert (resume["verdict"], resume["replayed"], resume["last_seq"]) == ("exact", 1, last - 1)
        assert (await client.next())["seq"] == last
    async with server.connect(query="?session_id=sess_of_nobody&last_seq=2") as client:
        assert client.hello["payload"]["resume"] == {
            "verdict": "reset",
            "reason": "unknown",
            "replayed": 0,
            "last_seq": 0,
            "runs": [],
        }


async def test_connection_survives_errors(server: Server) -> None:
    async with server.connect(subprotocols=[SUBPROTOCOL]) as client:
        await client.send_raw("{")
        await client.error("JSON_PARSE_ERROR")
        await client.say("x", agent="nobody")
        await client.error("AGENT_NOT_FOUND")
        await client.send("stop_agent", {"run_id": "run_gone"})
        await client.error("RUN_NOT_FOUND")
        await client.send("get_thread_history", {"thread_id": "not-mine"})
        await client.error("THREAD_NOT_FOUND")
        await client.send("ack", {"seq": 99})
        await client.error("VALIDATION_ERROR")
        await client.say("x", "f-1", agent="fail")
        end = await end_of(client)
        assert end["status"] == "failed"
        assert end["error"]["code"] == "AGENT_ERROR"
        assert "a secret of the server" not in str(end)
        (line,) = [
            line
            for line in await trio.to_thread.run_sync(server.process.wait_log, "run_failed")
            if line.get("error_id") == end["error"]["error_id"]
        ]
        assert "a secret of the server" in str(line)
        await client.say("all is well")
        assert (await end_of(client))["result"] == "all is well"
        await client.answers()


async def test_rate_limiting_enforcement(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        *with_agents(tmp_path),
        WEBSOCKET_MAX_MESSAGE_RATE="3",
        WEBSOCKET_BURST_QUEUE="2",
    ) as server:
        async with server.connect("alice") as one, server.connect("alice") as two:
            # The connections of a user share the limit.
            for client in (one, two, one):
                await client.say("within the rate")
                frames = await client.until("agent_completed")
                assert frames[0]["payload"]["status"] == "accepted"
            for client, position in ((one, 1), (two, 1)):
                await client.say("its turn comes")
                queued = (await client.expect("message_confirmed"))["payload"]
                assert (queued["status"], queued["position"]) == ("queued", position)
            await one.say("too many", "r-1")
            refused = await one.expect("error")
            assert refused["correlation_id"] == "r-1"
            payload = refused["payload"]
            assert payload["code"] == "RATE_LIMIT_EXCEEDED"
            assert payload["recoverable"]
            assert 0 < payload["retry_after_ms"] <= 60_000
            assert str(3) in payload["error"]
            # Control frames and other users are not affected.
            await one.answers()
            async with server.connect("bob") as other:
                await other.say("mine")
                assert (await end_of(other))["result"] == "mine"


async def test_concurrent_connection_handling(server: Server) -> None:
    count, messages = 10, 5

    async def talk(client: Client, name: str) -> None:
        for number in range(messages):
            text = f"{name} {number}"
            await client.say(text, f"{name}-{number}")
            frames = await client.until("agent_completed")
            # No event of another connection is received.
            assert {frame["correlation_id"] for frame in frames} == {f"{name}-{number}"}
            assert frames[-1]["payload"]["result"] == text
            assert frames[-1]["seq"] == 4 * (number + 1)

    async with AsyncExitStack() as stack:
        clients = {}
        for number in range(count):
            user = f"user-{number % 3}"
            clients[f"{user}/{number}"] = await stack.enter_async_context(server.connect(user))
        waiting = await stack.enter_async_context(server.connect("user-0"))
        await waiting.say("for ever", agent="wait")
        await waiting.until("partial_result")
        async with trio.open_nursery() as nursery:
            for name, client in clients.items():
                nursery.start_soon(talk, client, name)
        ids = {client.hello["payload"]["connection_id"] for client in clients.values()}
        assert len(ids) == count
        await waiting.answers()
