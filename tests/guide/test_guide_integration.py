"""Acceptance tests of discovery, a whole conversation and error recovery, over real sockets.

The exchange of messages with a browser is tested in `tests/e2e`.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

import pytest
import trio
from support.server import SUBPROTOCOL, Server, bearer, open_client, serving, write_agents

AGENTS = """
import trio
from netra_trio import RetryableAgentError

tries = {}


async def flaky(run):
    tries[run.id] = tries.get(run.id, 0) + 1
    if tries[run.id] < 2:
        raise RetryableAgentError
    return "at last"


async def fail(run):
    raise ValueError("never shown")


async def wait(run):
    await run.emit("waiting")
    await trio.sleep_forever()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


async def test_service_discovery_integration(server: Server) -> None:
    # As a page does, which knows only its own address.
    origin = ("Origin", "http://localhost:3000")
    base = f"http://{server.address}"
    config = server.http("GET", "/ws/config", [origin]).json()["websocket_config"]
    assert config["version"] == "1.0"
    assert "ticket" in config["auth"]["methods"]
    endpoints = config["endpoints"]
    assert server.http("GET", endpoints["health"]).json()["status"] == "healthy"
    assert server.http("GET", endpoints["service_discovery"]).status_code == 200
    answer = server.http("POST", endpoints["ticket"], [origin, bearer()])
    ticket = answer.json()["ticket"]
    url = urljoin(base, endpoints["websocket"]).replace("http", "ws", 1)
    async with open_client(
        f"{url}?ticket={ticket}", subprotocols=[SUBPROTOCOL], headers=[origin]
    ) as client:
        payload = (await client.expect("connection_established"))["payload"]
        assert payload["limits"] == config["connection_limits"]
        assert payload["features"] == config["features"]
        assert payload["heartbeat_interval"] == config["connection_limits"]["heartbeat_interval"]
        # The reported limits are enforced.
        too_long = "x" * config["connection_limits"]["max_message_size"]
        await client.say(too_long)
        await client.error("MESSAGE_TOO_LARGE")


async def test_complete_chat_message_flow(server: Server) -> None:
    async with server.connect(subprotocols=[SUBPROTOCOL]) as client:
        await client.say("what is 12*(3+4)?", "chat-1", thread_id="chat")
        frames = await client.until("agent_completed")
        kinds = [frame["type"] for frame in frames]
        assert kinds[:2] == ["message_confirmed", "agent_started"]
        assert {"agent_thinking", "tool_executing", "tool_completed", "partial_result"} < set(kinds)
        assert kinds.count("agent_completed") == 1
        assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
        assert {frame["correlation_id"] for frame in frames} == {"chat-1"}
        assert all(a["timestamp"] <= b["timestamp"] for a, b in pairwise(frames))

        by_kind = {frame["type"]: frame["payload"] for frame in frames}
        executing, completed = by_kind["tool_executing"], by_kind["tool_completed"]
        assert executing["tool_name"] == completed["tool_name"] == "calculator"
        assert executing["tool_call_id"] == completed["tool_call_id"]
        assert completed["success"] is True
        assert str(completed["result"]) == "84"
        assert kinds.index("tool_executing") < kinds.index("tool_completed")
        text = "".join(f["payload"]["content"] for f in frames if f["type"] == "partial_result")
        end = by_kind["agent_completed"]
        assert (end["status"], end["result"]) == ("completed", text)
        assert "84" in text
        await client.send("ack", {"seq": frames[-1]["seq"]})

        # The same key again starts no run, and gets a copy of the end.
        await client.say("what is 12*(3+4)?", "chat-1", thread_id="chat")
        duplicate, copy = [await client.next() for _ in range(2)]
        assert duplicate["payload"]["status"] == "duplicate"
        assert duplicate["payload"]["run_id"] == end["run_id"]
        assert duplicate["payload"]["run_status"] == "completed"
        assert (copy["type"], copy["payload"]["run_id"]) == ("agent_completed", end["run_id"])

        await client.send("get_thread_history", {"thread_id": "chat"})
        history = (await client.expect("thread_history"))["payload"]["messages"]
        assert [message["role"] for message in history] == ["user", "agent"]
        assert history[0]["run"]["status"] == "completed"
        assert history[1]["content"] == text


async def test_error_recovery_scenarios(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    agents = [f"--agent=outside_agents:{name}" for name in ("flaky", "fail", "wait")]
    with serving(tmp_path, *agents) as server:
        async with server.connect() as client:
            # A retryable error is retried.
            await client.say("try", agent="flaky")
            frames = await client.until("agent_completed")
            attempts = [f["payload"]["attempt"] for f in frames if f["type"] == "agent_started"]
            assert attempts == [1, 2]
            assert frames[-1]["payload"]["result"] == "at last"

            # A failed run has an error without the text of the exception.
            await client.say("try", agent="fail")
            end = (await client.until("agent_completed"))[-1]["payload"]
            assert (end["status"], end["error"]["code"]) == ("failed", "AGENT_ERROR")
            assert end["error"]["error_id"]
            assert "never shown" not in str(end)

            # A run that takes too long is timed out.
            await client.say("try", agent="wait", deadline_ms=100)
            end = (await client.until("agent_completed"))[-1]["payload"]
            assert (end["status"], end["error"]["code"]) == ("timed_out", "AGENT_TIMEOUT")

            # A run can be stopped once.
            await client.say("try", agent="wait")
            delta = (await client.until("partial_result"))[-1]
            await client.send("stop_agent", {"run_id": delta["payload"]["run_id"]}, "stop")
            end = (await client.until("agent_completed"))[-1]["payload"]
            assert end["status"] == "cancelled"
            await client.send("stop_agent", {"run_id": end["run_id"]}, "stop")
            await client.error("RUN_NOT_FOUND")

            # A client that disconnects during a run does not affect other clients.
            async with server.connect("bob") as other:
                await other.say("try", agent="wait")
                await other.until("partial_result")
                await trio.aclose_forcefully(other.socket._stream)
            (ended,) = await trio.to_thread.run_sync(server.process.wait_log, "connection_ended")
            assert ended["reason"] == "peer_lost"
            await client.answers()
        async with server.connect("bob") as back:
            await back.answers()
