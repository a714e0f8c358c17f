"""Acceptance tests of messages, pings and errors, over real sockets."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from support.server import PATIENCE, SUBPROTOCOL, Server, serving

MAX_SIZE = 10_240
BAD_IN_A_ROW = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("server"),
        WEBSOCKET_MAX_MESSAGE_RATE="1000",
        WEBSOCKET_MAX_CONNECTIONS_PER_USER="100",
    ) as running:
        yield running


BAD_FRAMES: list[tuple[str | bytes, str]] = [
    ("", "EMPTY_MESSAGE"),
    ("{", "JSON_PARSE_ERROR"),
    ("hello", "JSON_PARSE_ERROR"),
    ('{"type": "ping", "payload": {"n": NaN}}', "JSON_PARSE_ERROR"),
    ("[" * 5000, "JSON_PARSE_ERROR"),
    ("[]", "INVALID_MESSAGE_TYPE"),
    ('"ping"', "INVALID_MESSAGE_TYPE"),
    ("null", "INVALID_MESSAGE_TYPE"),
    (b'{"type": "ping"}', "INVALID_MESSAGE_TYPE"),
    ("{}", "MISSING_TYPE_FIELD"),
    ('{"payload": {}}', "MISSING_TYPE_FIELD"),
    ('{"type": 5}', "INVALID_TYPE_FIELD"),
    ('{"type": ""}', "INVALID_TYPE_FIELD"),
    ('{"type": null}', "INVALID_TYPE_FIELD"),
    ('{"type": "no_such_type"}', "UNKNOWN_MESSAGE_TYPE"),
    ('{"type": "agent_completed", "payload": {}}', "UNKNOWN_MESSAGE_TYPE"),
    ('{"type": "user_message"}', "VALIDATION_ERROR"),
    ('{"type": "user_message", "payload": {"content": 5}}', "VALIDATION_ERROR"),
    ('{"type": "user_message", "payload": {"content": " "}}', "VALIDATION_ERROR"),
    ('{"type": "user_message", "payload": {"content": "x", "text": "x"}}', "VALIDATION_ERROR"),
    ('{"type": "ping", "extra": 1}', "VALIDATION_ERROR"),
    ('{"type": "ack", "payload": {"seq": true}}', "VALIDATION_ERROR"),
    ('{"type": "ping", "payload": {"x": "' + "x" * MAX_SIZE + '"}}', "MESSAGE_TOO_LARGE"),
]


def shown(value: Any) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize(("frame", "code"), BAD_FRAMES, ids=shown)
async def test_json_first_message_validation(server: Server, frame: str | bytes, code: str) -> None:
    async with server.connect() as client:
        await client.send_raw(frame)
        error = await client.error(code)
        assert error["recoverable"]
        await client.answers()


async def test_a_validation_error_has_the_path_and_the_value(server: Server) -> None:
    async with server.connect() as client:
        await client.send("user_message", {"content": 5})
        error = await client.error("VALIDATION_ERROR")
        assert error["error"].startswith("$.payload.content: expected a string, got 5")


async def test_message_send_receive_functionality(server: Server) -> None:
    async with server.connect(subprotocols=[SUBPROTOCOL]) as client:
        await client.say("hello, 世界 🌍", "c-1", agent="echo")
        frames = await client.until("agent_completed")
        assert [frame["type"] for frame in frames] == [
            "message_confirmed",
            "agent_started",
            "partial_result",
            "agent_completed",
        ]
        assert [frame["seq"] for frame in frames] == [1, 2, 3, 4]
        assert {frame["correlation_id"] for frame in frames} == {"c-1"}
        assert len({frame["payload"]["run_id"] for frame in frames}) == 1
        assert all(type(frame["timestamp"]) is float for frame in frames)
        confirmed, started, delta, completed = (frame["payload"] for frame in frames)
        assert confirmed["status"] == "accepted"
        assert started == {
            "run_id": confirmed["run_id"],
            "agent_name": "echo",
            "thread_id": confirmed["thread_id"],
            "attempt": 1,
        }
        assert delta["content"] == completed["result"] == "hello, 世界 🌍"
        assert completed["status"] == "completed"
        assert completed["duration_ms"] >= 0
        await client.send("ack", {"seq": 4})

        await client.send("agent_request", {"agent": "echo", "input": "again"}, "c-2")
        frames = await client.until("agent_completed")
        assert frames[-1]["payload"]["result"] == "again"
        assert frames[-1]["seq"] == 8

        thread = confirmed["thread_id"]
        await client.send("get_thread_history", {"thread_id": thread}, "h-1")
        history = await client.expect("thread_history")
        assert history["correlation_id"] == "h-1"
        assert [
            (message["role"], message["content"]) for message in history["payload"]["messages"]
        ] == [
            ("user", "hello, 世界 🌍"),
            ("agent", "hello, 世界 🌍"),
            ("user", "again"),
            ("agent", "again"),
        ]
        assert history["payload"]["has_more"] is False


async def test_ping_pong_system_messages(server: Server) -> None:
    async with server.connect() as client:
        for payload in ({}, {"n": 1, "nested": {"a": [1, "x", None]}}, {"x": "y" * 1000}):
            await client.send("ping", payload, "p-1")
            pong = await client.expect("pong")
            assert (pong["payload"], pong["correlation_id"]) == (payload, "p-1")
            assert "seq" not in pong
        await client.send_raw('{"type": "ping"}')
        assert (await client.expect("pong")).get("payload", {}) == {}
        await client.send("pong", {})
        await client.socket.ping(b"beat")  # a WebSocket ping, which returns when it is answered
        await client.answers()


async def test_error_message_format_validation(server: Server) -> None:
    async with server.connect() as client:
        await client.send("user_message", {"content": "x", "agent": "nobody"}, "e-1")
        frame = await client.expect("error")
        assert frame.keys() == {"type", "payload", "timestamp", "correlation_id"}
        assert frame["correlation_id"] == "e-1"
        payload = frame["payload"]
        assert payload.keys() == {"code", "error", "timestamp", "recoverable", "help"}
        assert payload["code"] == "AGENT_NOT_FOUND"
        assert "echo" in payload["error"]
        assert payload["recoverable"] is True
        assert abs(payload["timestamp"] - client.hello["timestamp"]) < PATIENCE
        assert payload["help"]


async def test_malformed_message_handling(server: Server) -> None:
    bad = [frame for frame, _ in BAD_FRAMES[:BAD_IN_A_ROW]]
    async with server.connect() as client:
        # A good frame resets the count of bad frames.
        for frame in bad[:-1]:
            await client.send_raw(frame)
        for _ in bad[:-1]:
            await client.expect("error")
        await client.answers()
        for frame in bad:
            await client.send_raw(frame)
        frames, code = await client.rest()
        codes = [frame["payload"]["code"] for frame in frames]
        assert len(codes) == BAD_IN_A_ROW + 1
        assert codes[-1] == "ERROR_LIMIT_EXCEEDED"
        assert frames[-1]["payload"]["recoverable"] is False
        assert code == 4400

    # A frame beyond sixteen times the limit ends the connection.
    async with server.connect() as client:
        await client.send_raw("x" * (MAX_SIZE * 16))
        await client.error("MESSAGE_TOO_LARGE")
        await client.answers()
        await client.send_raw(orjson.dumps({"type": "x" * (MAX_SIZE * 16)}).decode())
        frames, code = await client.rest()
        assert [frame["payload"]["code"] for frame in frames] == ["MESSAGE_TOO_LARGE"]
        assert code == 1009
