"""The server behind a real nginx, with the configuration of `deploy/nginx.conf`."""

import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import orjson
import pytest
import trio
from support.nginx import AGENTS, CONFIGURATION, NAME, NAMES, ORIGIN, UNLIMITED, Nginx, nginx
from support.ports import HOST, kept_port
from support.server import (
    PATIENCE,
    SECRET,
    Frame,
    Process,
    Server,
    bearer,
    serving,
    sign,
    write_agents,
)

from netra_trio.client import Client, Network, OpeningRefused, Socket, SocketClosed, connect
from netra_trio.config.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PRODUCTION = {
    "ENVIRONMENT": "production",
    "WEBSOCKET_ALLOWED_ORIGINS": ORIGIN,
    "DATABASE_URL": "sqlite:///netra.db",
    "AUTH_AUTO_PROVISION": "true",
}
FILES_MAX_BYTES = Settings().files_max_bytes
BEATS = 8  # of which three last as long as nginx waits


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Nginx]]:
    """Return a server that takes defaults and the nginx in front of it, which tests leave alone."""
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    with (
        serving(folder, *NAMES, **PRODUCTION) as server,
        nginx(tmp_path_factory.mktemp("nginx"), server.address, changes=UNLIMITED) as proxy,
    ):
        yield server, proxy


@asynccontextmanager
async def opened(
    proxy: Nginx, user: str = "alice", *, path: str = "/ws", query: str = ""
) -> AsyncIterator[Socket]:
    """Open a WebSocket through nginx."""
    headers = dict([bearer(user), ("Origin", ORIGIN)])
    url = f"wss://{NAME}:{proxy.port}{path}{query}"
    with trio.fail_after(PATIENCE):
        async with Network(tls=proxy.tls).open(
            url, headers=headers, subprotocols=("netra.v1",)
        ) as socket:
            yield socket


@asynccontextmanager
async def client_of(proxy: Nginx, user: str = "alice") -> AsyncIterator[Client]:
    """Open this project's client through nginx."""
    with trio.fail_after(PATIENCE):
        async with connect(proxy.url, token=sign(user), dialer=Network(tls=proxy.tls)) as client:
            yield client


async def until(socket: Socket, kind: str) -> Frame:
    """Return the next frame of this type."""
    while True:
        frame: Frame = orjson.loads(await socket.receive())
        if frame["type"] == kind:
            return frame


def test_the_documentation_shows_this_configuration() -> None:
    blocks = re.findall(r"```nginx\n(.*?)```", (DOCS / "deployment.md").read_text(), re.DOTALL)
    whole = [line.strip() for line in CONFIGURATION.read_text().splitlines()]
    assert blocks
    for block in blocks:
        assert [line for line in block.splitlines() if line.strip() not in whole] == []


def test_discovery(both: tuple[Server, Nginx]) -> None:
    server, proxy = both
    answer = proxy.http("GET", "/ws/config", [("Origin", ORIGIN)])
    assert answer.status_code == 200
    document = answer.json()["websocket_config"]
    direct = server.http("GET", "/ws/config").json()["websocket_config"]
    assert {**document, "server_time": 0} == {**direct, "server_time": 0}
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_the_chat_page(both: tuple[Server, Nginx]) -> None:
    server, proxy = both
    answer, direct = proxy.http("GET", "/"), server.http("GET", "/")
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content)
    assert f"wss://{NAME}:{proxy.port}" in answer.headers["content-security-policy"]
    assert "strict-transport-security" in answer.headers


def test_pages_are_sent_to_tls(both: tuple[Server, Nginx]) -> None:
    _, proxy = both
    with httpx2.Client(timeout=PATIENCE, trust_env=False) as client:
        answer = client.get(f"http://{NAME}:{proxy.plain_port}/ws/config?token=x")
    assert answer.status_code == 301
    assert answer.headers["location"] == f"https://{NAME}/ws/config?token=x"


def test_the_largest_file_and_one_byte_more(both: tuple[Server, Nginx]) -> None:
    _, proxy = both
    user = bearer("alice")
    content = bytes(FILES_MAX_BYTES)
    answer = proxy.http("POST", "/ws/files?name=a.bin", [user], content=content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == FILES_MAX_BYTES
    path = f"/ws/files/{answer.json()['file_id']}"
    assert proxy.http("GET", path, [user]).content == content
    part = proxy.http("GET", path, [user, ("Range", "bytes=0-9")])
    assert (part.status_code, part.content) == (206, bytes(10))
    answer = proxy.http("POST", "/ws/files", [user], content=content + b"x")
    assert (answer.status_code, answer.json()["code"]) == (413, "MESSAGE_TOO_LARGE")


def test_figures_are_not_public(both: tuple[Server, Nginx]) -> None:
    _, proxy = both
    answer = proxy.http("GET", "/metrics")
    assert answer.status_code == 404
    assert "nginx" in answer.text, "it is nginx that refuses"


@pytest.mark.parametrize("path", ["/ws", "/ws/"])
async def test_a_connection(both: tuple[Server, Nginx], path: str) -> None:
    _, proxy = both
    async with opened(proxy, path=path) as socket:
        assert (await until(socket, "connection_established"))["payload"]["user_id"] == "alice"
        await socket.send('{"type": "user_message", "payload": {"content": "hello"}}')
        assert (await until(socket, "agent_completed"))["payload"]["result"] == "hello"


async def test_a_conversation(both: tuple[Server, Nginx]) -> None:
    _, proxy = both
    async with client_of(proxy, "bob") as client:
        for number in range(5):
            assert await (await client.send(f"question {number}")).text() == f"question {number}"


async def test_the_check_of_the_command_line(both: tuple[Server, Nginx], tmp_path: Path) -> None:
    _, proxy = both
    arguments = ["-m", "netra_trio", "check", "--url", proxy.url, "--origin", ORIGIN]
    environ = {"SSL_CERT_FILE": str(proxy.authority)}

    def run() -> tuple[int, str]:
        with Process(arguments, directory=tmp_path, environ=environ) as process:
            return process.wait(), process.out.text

    code, out = await trio.to_thread.run_sync(run)
    assert code == 0, out
    assert out.count("\nok ") == 8


async def test_a_refusal_and_its_reason_come_through(both: tuple[Server, Nginx]) -> None:
    _, proxy = both
    with pytest.raises(OpeningRefused) as caught:
        async with Network(tls=proxy.tls).open(
            proxy.url,
            headers=dict([bearer("alice"), ("Origin", "https://evil.example")]),
            subprotocols=("netra.v1",),
        ):
            pass
    assert caught.value.status == 403
    assert caught.value.body["code"] == "ORIGIN_NOT_ALLOWED"


async def test_who_a_client_says_it_is_counts_for_nothing(both: tuple[Server, Nginx]) -> None:
    """The server trusts no X-Forwarded-For; nginx writes its own, and limits by real addresses."""
    server, proxy = both
    origin = "https://forger.example"  # of no other test: the log has one line of it
    forged = [("X-Forwarded-For", "203.0.113.9"), ("Origin", origin)]
    assert proxy.http("POST", "/ws/ticket", forged).status_code == 403
    (told,) = server.process.wait_log("opening_refused", origin=origin)
    assert told["peer"] == "127.0.0.1"
    assert "203.0.113.9" not in server.process.err.text + proxy.logs()


async def test_a_session_outlives_a_reload(tmp_path: Path) -> None:
    """Under a run nginx is reloaded and its old workers go: the client resumes, missing nothing."""
    write_agents(tmp_path, AGENTS)
    (tmp_path / "nginx").mkdir()
    changes = {**UNLIMITED, "worker_shutdown_timeout 30s;": "worker_shutdown_timeout 100ms;"}
    with (
        serving(tmp_path, *NAMES, **PRODUCTION) as server,
        nginx(tmp_path / "nginx", server.address, changes=changes) as proxy,
    ):
        async with client_of(proxy) as client:
            run = await client.send("reload", agent="count")
            deltas = []
            async for event in run:
                if event.type == "partial_result":
                    deltas.append(event.payload["content"])
                    if len(deltas) == 1:
                        await trio.to_thread.run_sync(proxy.reload)
                        (tmp_path / "go-reload").touch()
            assert "".join(deltas) == "one two"
            assert client.stats.reconnections == 1
            assert client.stats.last_resume_verdict == "exact"


async def test_a_long_idle_connection_lives_by_heartbeats(tmp_path: Path) -> None:
    """Time runs thirty times as fast for both: 3 s of nginx's patience, a heartbeat a second."""
    (tmp_path / "nginx").mkdir()
    changes = {**UNLIMITED, "proxy_read_timeout 90s;": "proxy_read_timeout 3s;"}
    with (
        serving(tmp_path, **PRODUCTION, WEBSOCKET_HEARTBEAT_INTERVAL="1000") as server,
        nginx(tmp_path / "nginx", server.address, changes=changes) as proxy,
    ):
        async with opened(proxy) as socket:
            for _ in range(BEATS):
                await until(socket, "heartbeat")
            await socket.send('{"type": "ping", "payload": {"still": "there"}}')
            assert (await until(socket, "pong"))["payload"] == {"still": "there"}


async def test_a_proxy_of_less_patience_than_a_heartbeat_cuts(tmp_path: Path) -> None:
    """So the figures of the two have to fit, as the configuration says."""
    (tmp_path / "nginx").mkdir()
    changes = {**UNLIMITED, "proxy_read_timeout 90s;": "proxy_read_timeout 500ms;"}
    with (
        serving(tmp_path, **PRODUCTION) as server,
        nginx(tmp_path / "nginx", server.address, changes=changes) as proxy,
    ):
        async with opened(proxy) as socket:
            with pytest.raises(SocketClosed) as caught:
                await until(socket, "heartbeat")
        assert caught.value.code == 1006


def test_the_patience_of_nginx_fits_the_heartbeat() -> None:
    found = re.search(r"proxy_read_timeout (\d+)s;", CONFIGURATION.read_text())
    assert found is not None
    assert int(found[1]) >= 3 * 30, "three heartbeats of the default"


async def test_a_full_server_says_when_to_come_back(tmp_path: Path) -> None:
    (tmp_path / "nginx").mkdir()
    with (
        serving(tmp_path, **PRODUCTION, WEBSOCKET_MAX_CONNECTIONS="1") as server,
        nginx(tmp_path / "nginx", server.address, changes=UNLIMITED) as proxy,
    ):
        async with opened(proxy) as socket:
            await until(socket, "connection_established")
            with pytest.raises(OpeningRefused) as caught:
                async with opened(proxy, "bob"):
                    pass
            direct = server.upgrade("", bearer("bob"))
    assert caught.value.status == direct.status == 503
    assert caught.value.body["code"] == "SERVER_FULL"
    assert direct.headers.get("retry-after") == (
        None if caught.value.retry_after is None else f"{caught.value.retry_after:g}"
    )


async def test_a_drain_comes_through(tmp_path: Path) -> None:
    """Open connections get a notice and 1012, new ones get 503, and no answer is cut."""
    write_agents(tmp_path, AGENTS)
    (tmp_path / "nginx").mkdir()
    with (
        serving(tmp_path, *NAMES, **PRODUCTION, WEBSOCKET_DRAIN_TIMEOUT="6000") as server,
        nginx(tmp_path / "nginx", server.address, changes=UNLIMITED) as proxy,
    ):
        async with opened(proxy) as socket:
            message = '{"type": "user_message", "payload": {"content": "x", "agent": "wait"}}'
            await socket.send(message)
            await until(socket, "partial_result")
            server.process.send_signal(signal.SIGTERM)
            await until(socket, "server_draining")
            health = await trio.to_thread.run_sync(proxy.http, "GET", "/ws/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            with pytest.raises(OpeningRefused) as caught:
                async with opened(proxy, "bob"):
                    pass
            assert caught.value.body["code"] == "SERVER_DRAINING"
            assert caught.value.retry_after is not None
            end = await until(socket, "agent_completed")
            assert end["payload"]["status"] == "interrupted"
            with pytest.raises(SocketClosed) as closed:
                await until(socket, "nothing")
            assert closed.value.code == 1012
        assert await trio.to_thread.run_sync(server.process.wait) == 0
        answer = await trio.to_thread.run_sync(proxy.http, "GET", "/ws/health?token=eyJ.secret")
        assert answer.status_code == 502
        assert "eyJ.secret" not in proxy.logs()


async def test_a_server_that_is_started_anew_is_found_again(tmp_path: Path) -> None:
    """Nginx keeps no grudge against a server that was away: `max_fails=0`."""
    write_agents(tmp_path, AGENTS)
    (tmp_path / "nginx").mkdir()
    with (
        kept_port() as port,
        nginx(tmp_path / "nginx", f"{HOST}:{port}", changes=UNLIMITED) as proxy,
    ):
        with serving(tmp_path, *NAMES, port=str(port), **PRODUCTION):
            answer = await trio.to_thread.run_sync(proxy.http, "GET", "/ws/health")
            assert answer.status_code == 200
        for _ in range(3):
            answer = await trio.to_thread.run_sync(proxy.http, "GET", "/ws/health")
            assert answer.status_code == 502
        with serving(tmp_path, *NAMES, port=str(port), **PRODUCTION):
            answer = await trio.to_thread.run_sync(proxy.http, "GET", "/ws/health")
            assert answer.status_code == 200


def test_an_address_that_asks_too_much(tmp_path: Path) -> None:
    (tmp_path / "nginx").mkdir()
    changes = {"burst=100 nodelay": "burst=2 nodelay", "rate=10r/s": "rate=1r/m"}
    with (
        serving(tmp_path, **PRODUCTION) as server,
        nginx(tmp_path / "nginx", server.address, changes=changes) as proxy,
    ):
        statuses = [proxy.http("GET", "/ws/health").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


async def test_no_credential_is_in_a_log(both: tuple[Server, Nginx]) -> None:
    server, proxy = both
    token = sign("carol")
    url = f"{proxy.url}?token={token}"
    with trio.fail_after(PATIENCE):
        async with Network(tls=proxy.tls).open(
            url, headers={"Origin": ORIGIN}, subprotocols=("netra.v1",)
        ) as socket:
            await until(socket, "connection_established")
    path = "/ws/config-of-carol"  # of no other test
    for asked in ("/ws/config", path):
        await trio.to_thread.run_sync(proxy.http, "GET", f"{asked}?token={token}")
    logs = await trio.to_thread.run_sync(proxy.wait_log, f'"GET {path}" 404')
    assert '"GET /ws/config" 200' in logs
    assert token not in logs + server.process.err.text
    assert SECRET not in logs
