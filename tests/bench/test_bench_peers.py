"""The features that `bench/README.md` promises for this project's server and for its peers."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bench.connection import Counters, Target, open_connection
from bench.dialects import DIALECTS
from bench.peers.work import TOKENS
from bench.scenarios import run_once
from bench.servers import SERVERS, Server, running

PATIENCE = 100.0  # seconds: an upper bound
RATE = 60  # messages per minute, the guide's limit
NAMES = [name for name in ("netra", "fastapi") if not SERVERS[name].missing]
PEERS = [name for name in NAMES if name != "netra"]
EVENTS = ("message_confirmed", "agent_started", "partial_result", "agent_completed")


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, heartbeat=30.0, unlimited=False) as server:
        yield server


def opened(server: Server, *, secret: str | None = None) -> ClientConnection:
    claims = {"sub": "alice", "exp": int(time.time()) + 600}
    token = jwt.encode(claims, secret or server.secret, algorithm="HS256")
    return connect(f"ws://127.0.0.1:{server.port}/ws?token={token}", proxy=None)


def received(client: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a type; messages of other types are skipped."""
    while True:
        message: dict[str, Any] = orjson.loads(client.recv(PATIENCE))
        if message["type"] == kind:
            return message


def send(client: ClientConnection, kind: str, **payload: Any) -> None:
    client.send(orjson.dumps({"type": kind, "payload": payload}).decode())


def test_a_token_with_a_wrong_signature_is_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened(server, secret="x" * 48)
    assert refused.value.response.status_code in (401, 403)


def test_a_message_becomes_a_run_that_is_stored(server: Server) -> None:
    with opened(server) as client:
        received(client, "connection_established")
        send(client, "user_message", content="hello", agent="echo")
        events = [received(client, kind) for kind in EVENTS]
        assert events[2]["payload"]["content"] == "hello"
        assert events[3]["payload"]["status"] == "completed"
        send(client, "user_message", content="hello", agent="stream")
        tokens = [received(client, "partial_result")["payload"]["content"] for _ in TOKENS]
        assert "".join(tokens) == "".join(TOKENS)
        received(client, "agent_completed")
        (database,) = server.output.parent.rglob("*.db")
        wait_until(lambda: statuses(database) == ["completed", "completed"])


def statuses(database: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [status for (status,) in connection.execute("SELECT status FROM runs")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_message_with_an_unknown_field_is_rejected(server: Server) -> None:
    with opened(server) as client:
        received(client, "connection_established")
        send(client, "user_message", content="hello", agent="echo", colour="red")
        assert received(client, "error")["payload"]["code"] == "VALIDATION_ERROR"


if PEERS:  # the group `bench` installs them; the suite runs without it too

    @pytest.mark.parametrize("name", PEERS)
    def test_the_peer_rejects_messages_beyond_the_rate_limit(name: str) -> None:
        with (
            running(name, heartbeat=30.0, unlimited=False) as server,
            opened(server) as client,
        ):
            received(client, "connection_established")
            for _ in range(RATE):
                send(client, "user_message", content="hello", agent="echo")
                received(client, "agent_completed")
            send(client, "user_message", content="hello", agent="echo")
            assert received(client, "error")["payload"]["code"] == "RATE_LIMIT_EXCEEDED"


def test_the_floor_answers_pings_and_closes() -> None:
    with (
        running("floor", heartbeat=30.0, unlimited=True) as server,
        opened(server) as client,
    ):
        received(client, "connection_established")
        assert client.ping().wait(PATIENCE)
        send(client, "pong")
        send(client, "user_message", content="hello" * 20_000, agent="echo")
        events = [received(client, kind) for kind in EVENTS]
        assert events[3]["payload"]["result"] == "hello" * 20_000
        client.close()
        assert client.close_code == 1000


def test_the_floor_releases_a_client_that_is_lost_in_a_run() -> None:
    async def lose_one(server: Server) -> None:
        target = Target("127.0.0.1", server.port, DIALECTS["plain"])
        other = await open_connection(target, "", Counters())
        before = open_files(server)
        lost = await open_connection(target, "", Counters())
        first_token = asyncio.Event()
        lost.on_delta = lambda *_: first_token.set()
        payload = {"content": "00 100000", "agent": "paced"}
        lost.send(lost.dialect.message("user_message", payload))
        async with asyncio.timeout(PATIENCE):
            await first_token.wait()
        lost.drop()
        await asyncio.to_thread(wait_until, lambda: open_files(server) == before)
        await run_once(other, "echo")
        await other.close()

    with running("floor", heartbeat=30.0, unlimited=True) as server:
        asyncio.run(lose_one(server))


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
