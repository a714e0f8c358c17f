"""The same application under the stock command: `hypercorn --worker-class trio`."""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.server import (
    SUBPROTOCOL,
    Server,
    open_line,
    run,
    sign,
    stock_command,
    stock_serving,
    upgrade_request,
)

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with stock_serving(tmp_path_factory.mktemp("server"), "--access-logfile", "-") as running:
        yield running


async def test_the_same_conversation(server: Server) -> None:
    token = sign("alice")
    async with server.connect(token=token, subprotocols=[SUBPROTOCOL]) as client:
        assert client.socket.subprotocol == SUBPROTOCOL
        assert client.hello["payload"]["resume"]["verdict"] == "new"
        await client.say("what is 12*(3+4)?", "c-1")
        frames = await client.until("agent_completed")
        kinds = [frame["type"] for frame in frames]
        assert kinds[:2] == ["message_confirmed", "agent_started"]
        assert {"agent_thinking", "tool_executing", "tool_completed", "partial_result"} < set(kinds)
        assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
        assert frames[-1]["payload"]["status"] == "completed"
        assert "84" in frames[-1]["payload"]["result"]
        await client.send("ack", {"seq": len(frames)})
        await client.send_raw("{")
        await client.error("JSON_PARSE_ERROR")
        await client.socket.ping(b"beat")
        await client.answers()


def test_the_same_http_and_rejections(server: Server) -> None:
    config = server.http("GET", "/ws/config").json()["websocket_config"]
    assert config["endpoints"]["websocket"] == "/ws"
    assert server.http("GET", "/ws/health").json()["status"] == "healthy"
    assert server.upgrade(f"?ticket={server.ticket()}").status == 101
    server.upgrade().refuses(401, "AUTH_REQUIRED")
    server.upgrade(f"?token={sign()}", ("Origin", "https://evil.example")).refuses(
        403, "ORIGIN_NOT_ALLOWED"
    )


async def test_one_malformed_request_affects_no_other_connection(server: Server) -> None:
    async with server.connect() as client:
        request = upgrade_request(
            server.address, f"/ws?token={sign()}", [("Sec-WebSocket-Protocol", "\xff")]
        )
        with open_line(server.address) as line:
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(12) == b"HTTP/1.1 400"
            while line.recv(65536):
                pass
        await client.answers()


def test_no_credential_is_in_a_log_or_an_access_log(server: Server) -> None:
    tokens = [sign(f"logged-{number}") for number in range(3)]
    assert server.upgrade(f"?token={tokens[0]}").status == 101
    assert server.upgrade("", ("Authorization", f"Bearer {tokens[1]}")).status == 101
    assert server.http("GET", f"/ws/config?token={tokens[2]}").status_code == 200
    # The access log is written in order: when it has this path, which no other test asks for, it
    # has the requests above.
    assert server.http("GET", "/ws/config-is-logged").status_code == 404
    server.process.out.wait_for(lambda lines: any("config-is-logged" in line for line in lines))
    assert any("/ws/config " in line for line in server.process.out.lines)
    text = server.process.out.text + server.process.err.text
    assert "eyJ" not in text
    assert not [token for token in tokens if token.rpartition(".")[2] in text]


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    with stock_serving(tmp_path, WEBSOCKET_DRAIN_TIMEOUT="1500") as server:
        async with server.connect("alice") as idle, server.connect("bob") as busy:
            await busy.say("count slowly")
            await busy.until("partial_result")
            server.process.send_signal(number)
            frames, code = await idle.rest()
            assert ([frame["type"] for frame in frames], code) == (["server_draining"], 1012)
            frames, code = await busy.rest()
            assert frames[-1]["type"] == "agent_completed"
            assert frames[-1]["payload"]["status"] == "interrupted"
            assert code == 1012
        assert await trio.to_thread.run_sync(server.process.wait, 10) == 0
        assert "Traceback" not in server.process.err.text


@pytest.mark.parametrize("workers", ["0", "1"])
def test_wrong_settings_are_one_message(tmp_path: Path, workers: str) -> None:
    code, out, err = run(
        stock_command("--workers", workers),
        directory=tmp_path,
        environ={
            "ENVIRONMENT": "production",
            "JWT_SECRET_KEY": "only-a-few-bytes",
            "WEBSOCKET_MAX_MESSAGE_SIZE": "10KB",
        },
    )
    # Hypercorn 0.18 forgets the exit code of its only worker when it has joined it: it ends at
    # once, as it should, but with 0. Without a worker process the code is the application's own.
    assert code == (1 if workers == "0" else 0)
    told = {match[0] for line in err.splitlines() if (match := re.match(r"[A-Z_]+(?=: )", line))}
    assert {
        "JWT_SECRET_KEY",
        "WEBSOCKET_MAX_MESSAGE_SIZE",
        "DATABASE_URL",
        "WEBSOCKET_ALLOWED_ORIGINS",
    } <= told
    assert "only-a-few-bytes" not in out + err
    assert "Traceback" not in err
