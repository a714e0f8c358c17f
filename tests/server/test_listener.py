"""The listener: bad peers, TLS, every protocol on one port, and no leaks."""

import errno
import os
import random
import signal
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx2
import orjson
import pytest
import structlog
import trio
import trio.testing
import trio_websocket
import trustme
from attrs import evolve
from support.server import (
    KEY,
    PATIENCE,
    PATIENT,
    SECRET,
    STARTING,
    SUBPROTOCOL,
    Answer,
    Process,
    Server,
    ask,
    bearer,
    open_line,
    read_answer,
    run,
    serving,
    sign,
    upgrade_request,
    write_agents,
)
from support.wire import CLOSE, TEXT, client_frame
from websockets.sync.client import connect

from netra_trio.agents.demo.echo import echo
from netra_trio.config.settings import Settings
from netra_trio.errors import SettingsError
from netra_trio.server import socket_handler
from netra_trio.server.application import Application, create_app
from netra_trio.server.listeners import Listeners
from netra_trio.server.request_head import RequestHead, read_head
from netra_trio.server.sockets import listen
from netra_trio.server.sockets import secure as context_of
from netra_trio.stores.memory import MemoryStore
from netra_trio.transports.byte_stream import ByteStream

MEMORY = 64 * 1024 * 1024  # bytes that a few dozen bad peers may cost: each session keeps a log
AGENTS = """
async def flood(run):
    while True:
        await run.emit("x" * 10_000)


async def until_told(run):
    import pathlib

    import trio

    await run.emit("waiting")
    while not pathlib.Path("go").exists():
        await trio.sleep(0.05)
    return "done"


async def wait(run):
    import trio

    await run.emit("waiting")
    await trio.sleep_forever()
"""


def opening(token: str, *, path: str = "/ws", subprotocol: str = "") -> bytes:
    headers = [("Authorization", f"Bearer {token}")]
    if subprotocol:
        headers.append(("Sec-WebSocket-Protocol", subprotocol))
    return upgrade_request("localhost", path, headers)


def message(kind: str, payload: object = None, correlation_id: str = "c") -> bytes:
    frame = {"type": kind, "payload": payload or {}, "correlation_id": correlation_id}
    return client_frame(TEXT, orjson.dumps(frame))


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def resident(process: Process) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- bad peers


async def test_bad_peers_cost_little_memory_and_delay_no_other(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    settings = {"WEBSOCKET_SEND_TIMEOUT": "1000", "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100"}
    agents = ("--agent", "outside_agents:flood", "--agent", "outside_agents:wait")
    with serving(tmp_path, *agents, **settings) as server:
        async with server.connect("bystander") as bystander:
            await bystander.answers()
            before = resident(server.process)
            talk = message("user_message", {"content": "go", "agent": "flood"})
            deaf = [open_line(server.address) for _ in range(10)]
            slow = [open_line(server.address) for _ in range(5)]
            for n, sock in enumerate([*deaf, *slow]):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(opening(sign(f"deaf-{n}")) + talk)
            half = [open_line(server.address) for _ in range(10)]
            for n, sock in enumerate(half):
                sock.sendall(opening(sign(f"half-{n}")) + talk[: n + 1])
            for n in range(10):
                gone = open_line(server.address)
                gone.sendall(opening(sign(f"gone-{n}")) + talk)
                reset(gone)
            ends = server.process.logs
            while len(ends("connection_ended", reason="send_timeout")) < len(deaf):
                for sock in slow:
                    with suppress(ConnectionError):
                        sock.recv(1)
                await bystander.answers()  # its connection fails when this takes too long
                await trio.sleep(0.2)
            assert resident(server.process) - before < MEMORY
            for sock in (*deaf, *slow, *half):
                sock.close()
            await bystander.answers()
        assert not server.process.logs("connection_broke")
        assert not server.process.logs("connection_failed")


async def test_the_server_exits_in_time_with_bad_peers(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    agents = ("--agent", "outside_agents:flood", "--agent", "outside_agents:wait")
    # A server that waited for a head, or for a peer that does not read, would not exit in time.
    settings = {"WEBSOCKET_DRAIN_TIMEOUT": "1500", "WEBSOCKET_SEND_TIMEOUT": "600000"}
    with serving(tmp_path, *agents, before=PATIENT, **settings) as server:
        socks = [open_line(server.address) for _ in range(30)]
        flood = message("user_message", {"content": "go", "agent": "flood"})
        wait = message("user_message", {"content": "go", "agent": "wait"})
        for n, sock in enumerate(socks):
            head = opening(sign(f"user-{n}"))
            sock.sendall([head + flood, head + wait, head + wait[:9], head[:50], b""][n % 5])
        server.process.wait_log("connection_opened", 18)
        assert server.process.end() == 0
        assert "Traceback" not in server.process.err.text
        for sock in socks:
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            open_line(server.address)


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture(scope="module")
def secure(
    files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, str]]:
    certfile, keyfile = files
    arguments = ["--port", "0", "--certfile", certfile, "--keyfile", keyfile]
    command = ["-m", "netra_trio", "serve", *arguments]
    with Process(command, directory=tmp_path_factory.mktemp("server"), environ={}) as process:
        ready = process.out.wait_for(
            lambda lines: next((line for line in lines if line.startswith("Ready on")), None),
            STARTING,
        )
        assert "wss://" in ready
        yield process, ready.split("https://")[1].split(" ")[0]
        assert process.end() == 0
        assert "Traceback" not in process.err.text


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_websocket_over_tls(secure: tuple[Process, str], trusting: ssl.SSLContext) -> None:
    _, address = secure
    headers = dict([bearer()])
    with connect(
        f"wss://{address}/ws", ssl=trusting, additional_headers=headers, proxy=None
    ) as client:
        assert orjson.loads(client.recv(PATIENCE))["type"] == "connection_established"
        client.send('{"type": "ping", "correlation_id": "c"}')
        assert orjson.loads(client.recv(PATIENCE))["type"] == "pong"
        assert client.ping().wait(PATIENCE)
        client.send('{"type": "user_message", "payload": {"content": "2+3"}}')
        kinds: list[str] = []
        while not kinds or kinds[-1] != "agent_completed":
            kinds.append(orjson.loads(client.recv(PATIENCE))["type"])
        client.send("x" * 100_000)
        assert orjson.loads(client.recv(PATIENCE))["payload"]["code"] == "MESSAGE_TOO_LARGE"
        client.close(4321)
        assert client.close_code == 4321


async def test_another_client_over_tls(
    secure: tuple[Process, str], trusting: ssl.SSLContext
) -> None:
    _, address = secure
    extra = [(name.encode(), value.encode()) for name, value in [bearer()]]
    with trio.fail_after(PATIENCE):
        async with trio_websocket.open_websocket_url(
            f"wss://{address}/ws", ssl_context=trusting, extra_headers=extra
        ) as client:
            await client.get_message()
            await client.send_message('{"type": "ping"}')
            assert orjson.loads(await client.get_message())["type"] == "pong"


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_http_over_tls(
    secure: tuple[Process, str], trusting: ssl.SSLContext, http2: bool, version: str
) -> None:
    _, address = secure
    with httpx2.Client(http2=http2, verify=trusting, trust_env=False, timeout=PATIENCE) as client:
        for _ in range(3):
            answer = client.get(f"https://{address}/ws/health")
            assert answer.http_version == version
            assert answer.json()["status"] == "healthy"


def test_a_failed_tls_handshake_affects_no_other_connection(
    secure: tuple[Process, str], trusting: ssl.SSLContext
) -> None:
    process, address = secure
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = trusting.wrap_bio(inbound, outbound, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    raw = outbound.read()
    for data in (raw[:50], raw, opening("x"), b"\x16\x03\x01\xff\xff" + b"\0" * 99, b""):
        with open_line(address) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while sock.recv(65_536):
                    pass
    test_a_websocket_over_tls(secure, trusting)
    assert not process.logs("connection_broke")


def test_wrong_certificate_files_are_one_line(files: tuple[str, str], tmp_path: Path) -> None:
    certfile, keyfile = files
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    for cert, key in (
        (certfile, str(tmp_path / "nowhere.pem")),
        (str(tmp_path / "nowhere.pem"), keyfile),
        (str(garbage), keyfile),
        (certfile, str(garbage)),
        (certfile, str(other)),
        (certfile, None),
    ):
        with pytest.raises(SettingsError) as caught:
            context_of(cert, key)
        text = str(caught.value)
        assert text.startswith(f"--certfile {cert}")
        assert "\n" not in text
    assert serve_once(tmp_path, "--certfile", certfile, "--keyfile", str(other)) == (
        1,
        "",
        text_of(certfile, str(other)),
    )
    expected = "--keyfile: give its certificate too, as --certfile"
    assert serve_once(tmp_path, "--keyfile", keyfile) == (1, "", expected)


def text_of(cert: str, key: str) -> str:
    with pytest.raises(SettingsError) as caught:
        context_of(cert, key)
    return str(caught.value)


def serve_once(directory: Path, *arguments: str) -> tuple[int, str, str]:
    command = ["-m", "netra_trio", "serve", "--port", "0", *arguments]
    return run(command, directory=directory)


# --- one port


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


async def test_every_protocol_on_one_port(dev: Server) -> None:
    assert dev.port > 0
    async with dev.connect("alice", subprotocols=[SUBPROTOCOL]) as client:
        await client.answers()
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
            for _ in range(3):
                answer = http.get(f"http://{dev.address}/ws/health")
                assert (answer.http_version, answer.status_code) == ("HTTP/1.1", 200)
        await client.answers()
        assert await trio.to_thread.run_sync(ask_http2, dev.address, 1000) == [200, 404]
        assert await trio.to_thread.run_sync(ask_http2, dev.address, 7) == [200, 404]
        await client.answers()


def ask_http2(address: str, piece: int) -> list[int]:
    """Send two requests over HTTP/2, in pieces of this size; return the statuses."""
    core = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    core.initiate_connection()
    for stream, path in ((1, "/ws/health"), (3, "/nowhere")):
        fields = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a")]
        core.send_headers(stream, fields, end_stream=True)
    statuses: dict[int, int] = {}
    ended: set[int] = set()
    with open_line(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = core.data_to_send()
        for at in range(0, len(data), piece):
            sock.sendall(data[at : at + piece])
        while len(ended) < 2:
            for event in core.receive_data(sock.recv(65_536)):
                if isinstance(event, h2.events.ResponseReceived):
                    statuses[event.stream_id] = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
            sock.sendall(core.data_to_send())
    return [statuses[1], statuses[3]]


def test_an_upgrade_on_a_kept_alive_connection(dev: Server) -> None:
    get = f"GET /ws/health HTTP/1.1\r\nHost: {dev.address}\r\n\r\n".encode()
    with open_line(dev.address) as sock:
        for _ in range(2):
            sock.sendall(get)
            assert read_answer(sock).status == 200
        sock.sendall(opening(sign()))
        data = sock.recv(65_536)
        assert data.startswith(b"HTTP/1.1 101 ")
        sock.sendall(message("ping", {"n": 1}))
        while b'"pong"' not in data:
            more = sock.recv(65_536)
            assert more
            data += more


# --- the order of checks

MALFORMED = opening("x").replace(KEY.encode(), b"short")


def test_a_wrong_version_is_answered_with_the_right_one(dev: Server) -> None:
    answer = ask(dev.address, upgrade_request(dev.address, version="8"))
    answer.refuses(426, "BAD_REQUEST")
    assert answer.headers["sec-websocket-version"] == "13"


async def test_a_full_server_rejects_before_the_handshake_is_checked(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_MAX_CONNECTIONS="1") as server:
        ask(server.address, MALFORMED).refuses(400, "BAD_REQUEST")
        async with server.connect():
            refused(ask(server.address, MALFORMED), "SERVER_FULL")


async def test_a_draining_server_rejects_before_the_handshake_is_checked(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    agent = ("--agent", "outside_agents:until_told")
    with serving(tmp_path, *agent, WEBSOCKET_DRAIN_TIMEOUT="600000") as server:
        async with server.connect() as client:
            await client.say("hold on")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            refused(ask(server.address, MALFORMED), "SERVER_DRAINING")
            (tmp_path / "go").touch()
        assert await trio.to_thread.run_sync(server.process.wait) == 0


def refused(answer: Answer, code: str) -> None:
    answer.refuses(503, code)
    assert int(answer.headers["retry-after"]) > 0


# --- in this process: leaks


@asynccontextmanager
async def listener(
    sock: socket.socket | None = None, **settings: Any
) -> AsyncIterator[tuple[Application, str]]:
    """Run a listener in this process."""
    chosen = evolve(Settings(), jwt_secret_key=SECRET, send_timeout_ms=500, **settings)
    app = create_app(agents={"echo": echo}, settings=chosen, store=MemoryStore())
    [sock] = listen("127.0.0.1", 0) if sock is None else [sock]
    with sock:
        port = sock.getsockname()[1]
        async with app.running(), trio.open_nursery() as nursery:
            await nursery.start(Listeners(app, [sock]).serve)
            yield app, f"127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


SAY = message("user_message", {"content": "hello"})
KINDS = ("silent", "http", "head", "open", "frame", "run", "close")


async def connect_and_leave(
    address: str, chance: random.Random, limiter: trio.CapacityLimiter
) -> str:
    """Open a connection, proceed to a random state, and leave; return the state."""
    kind = chance.choice(KINDS)
    host, _, port = address.rpartition(":")
    async with limiter:
        stream = await trio.open_tcp_stream(host, int(port))
        with suppress(trio.BrokenResourceError):
            await proceed_to(stream, kind, chance)
        if chance.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()
    return kind


async def proceed_to(stream: trio.SocketStream, kind: str, chance: random.Random) -> None:
    if kind == "silent":
        return
    if kind == "http":
        await stream.send_all(b"GET /ws/health HTTP/1.1\r\nHost: a\r\n\r\n")
        return
    token = sign(f"user-{chance.randrange(40)}")
    head = opening(token, subprotocol=chance.choice(["", SUBPROTOCOL]))
    if kind == "head":
        await stream.send_all(head[: chance.randrange(1, len(head))])
        return
    await stream.send_all(head)
    if chance.random() < 0.7:
        await stream.receive_some(65_536)
    if kind == "frame":
        await stream.send_all(SAY[: chance.randrange(1, len(SAY))])
    elif kind == "run":
        await stream.send_all(SAY * chance.randrange(1, 4))
    elif kind == "close":
        await stream.send_all(client_frame(CLOSE, b"\x03\xe8"))
    if kind != "open" and chance.random() < 0.5:
        await stream.receive_some(65_536)


@pytest.mark.unmeasured
async def test_a_thousand_connections_leave_no_task_file_or_session() -> None:
    chance = random.Random(20)  # noqa: S311 - a fixed seed
    limiter = trio.CapacityLimiter(100)
    kinds = Counter[str]()

    async def live(address: str) -> None:
        kinds[await connect_and_leave(address, chance, limiter)] += 1

    with trio.fail_after(120):  # a safety bound: an idle machine takes 4 s
        async with listener(max_connections_per_user=1000, resume_window_ms=0) as (app, address):
            # The first request starts a task that waits for the end of the server.
            assert await trio.to_thread.run_sync(ask_health, address) == 200
            await trio.testing.wait_all_tasks_blocked(0.05)
            tasks = trio.lowlevel.current_statistics().tasks_living
            files = open_files()

            def is_left() -> bool:
                counts = app.statistics()
                living = trio.lowlevel.current_statistics().tasks_living
                there = counts["slots"] + counts["connections"] + counts["sessions"]
                return there > 0 or living > tasks

            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(live, address)
            while is_left():  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(0.05)
            assert open_files() == files
    assert set(kinds) == set(KINDS)


async def test_accept_without_a_free_file_is_logged_and_retried() -> None:
    failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EMFILE, errno.ENFILE]

    class Crowded(socket.socket):
        """A listening socket in a system that has no free file, for a while."""

        def accept(self) -> tuple[socket.socket, Any]:
            if failures:
                number = failures.pop(0)
                raise OSError(number, os.strerror(number))
            return super().accept()

    [sock] = listen("127.0.0.1", 0)
    crowded_sock = Crowded(fileno=sock.detach())
    with structlog.testing.capture_logs() as logs, trio.fail_after(PATIENCE):
        async with listener(crowded_sock) as (_, address):
            for _ in range(2):
                assert await trio.to_thread.run_sync(ask_health, address) == 200
    assert not failures
    crowded = [line["reason"] for line in logs if line["event"] == "crowded"]
    # Each has a line: the log counts repetitions only from the sixth one on.
    lacking = [errno.EMFILE, errno.ENFILE, errno.EMFILE, errno.ENFILE]
    assert crowded == [os.strerror(number) for number in lacking]


def ask_health(address: str) -> int:
    with open_line(address) as sock:
        sock.sendall(b"GET /ws/health HTTP/1.1\r\nHost: a\r\n\r\n")
        return read_answer(sock).status


async def test_no_exception_of_one_connection_reaches_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = [ValueError("hush-hush")]

    async def faulty(stream: ByteStream) -> RequestHead | None:
        if failures:
            raise failures.pop()
        return await read_head(stream)

    monkeypatch.setattr(socket_handler, "read_head", faulty)
    with structlog.testing.capture_logs() as logs, trio.fail_after(PATIENCE):
        async with listener() as (_, address):
            stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
            assert await stream.receive_some() == b""
            await stream.aclose()
            assert await trio.to_thread.run_sync(ask_health, address) == 200
    broke = [line["fault"] for line in logs if line["event"] == "connection_broke"]
    assert broke == ["ValueError"]
    assert "hush-hush" not in str(logs)
