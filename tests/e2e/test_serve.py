"""`netra-trio serve` as a process: start, agents, exit on a signal, and log."""

import base64
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import trio
from support.ports import kept_port
from support.server import (
    PATIENCE,
    PATIENT,
    SUBPROTOCOL,
    Client,
    Frame,
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

from netra_trio.config.settings import Settings
from netra_trio.server import exit as exits

SERVE = ("-m", "netra_trio", "serve", "--port", "0")
SIGNALS = [signal.SIGTERM, signal.SIGINT]
EXIT_SECONDS = 10.0  # from the signal to the exit
BUSY_SECONDS = 6.0  # more on a busy machine: less than a second drain would take

AGENTS = '''
import time
from pathlib import Path

import trio


async def shout(run):
    await run.emit(run.content.upper())


async def wait(run):
    await run.emit("waiting")
    await trio.sleep_forever()


async def until_told(run):
    await run.emit("begun ")
    while not Path("go").exists():
        await trio.sleep(0.01)
    await run.emit("ended")


async def stuck(run):
    await run.emit("stuck")
    await trio.to_thread.run_sync(time.sleep, 3600)


async def flood(run):
    """Report that the client takes no more."""
    while True:
        with trio.move_on_after(0.5) as patience:
            await run.emit("x" * 50_000)
        if patience.cancelled_caught:
            print("the client takes no more", flush=True)
            await run.emit("x" * 50_000)


def not_async(run):
    """Not an agent: it takes no argument."""


a_number = 5
'''
MODULE = "outside_agents"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS, MODULE)
    return tmp_path


def with_agents(*names: str) -> list[str]:
    return [part for name in names for part in ("--agent", f"{MODULE}:{name}")]


def exit_code(server: Server) -> int:
    """Wait for the exit, and return its code."""
    code = server.process.wait()
    assert "Traceback" not in server.process.err.text
    return code


async def ended(server: Server) -> int:
    return await trio.to_thread.run_sync(exit_code, server)


# --- the start


async def test_development_needs_no_settings(tmp_path: Path) -> None:
    with serving(tmp_path, JWT_SECRET_KEY="") as server:
        lines = server.process.out.wait_for(lambda lines: lines if len(lines) >= 4 else None)
        assert re.fullmatch(r"netra_trio [0-9.]+, development, agents: demo, echo", lines[0])
        assert lines[1] == (
            f"Ready on http://{server.address} (WebSocket: {server.url}), "
            f"token of user 'dev': {server.token}"
        )
        assert lines[2] == f"Talk to it:  netra-trio chat --url {server.url}"
        assert lines[3] == "Ctrl-C stops it."
        assert server.port > 0
        assert (tmp_path / ".netra" / "secret").stat().st_mode & 0o077 == 0
        async with server.connect(token=server.token) as client:
            assert client.hello["payload"]["user_id"] == "dev"
            await client.say("hello", agent="echo")
            assert (await client.until("agent_completed"))[-1]["payload"]["result"] == "hello"
    assert server.process.popen.returncode == 0
    assert all(line.startswith("{") for line in server.process.err.lines)

    # The secret is kept: a token of the first start is valid in the second.
    with serving(tmp_path, JWT_SECRET_KEY="") as again:
        assert again.upgrade(f"?token={server.token}").status == 101


def test_production_prints_no_token(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        ENVIRONMENT="production",
        DATABASE_URL="sqlite:///netra.db",
        WEBSOCKET_ALLOWED_ORIGINS="https://app.example.com",
        WEBSOCKET_MAX_MESSAGE_RAT="60",
    ) as server:
        assert server.token is None
        assert server.process.out.lines[1].endswith(f"(WebSocket: {server.url})")
        assert "eyJ" not in server.process.out.text
        warnings = [line for line in server.process.err.lines if line.startswith("warning: ")]
        assert any("WEBSOCKET_MAX_MESSAGE_RAT:" in line for line in warnings)
        assert any("SQLite" in line for line in warnings)
    assert not (tmp_path / ".netra").exists()


def test_the_port_option(tmp_path: Path) -> None:
    command = ["-m", "netra_trio", "serve", "--host", "127.0.0.1", "--port"]
    with kept_port() as port, serving(tmp_path, port=str(port)) as server:
        assert server.port == port
        code, out, err = run([*command, str(port)], directory=tmp_path)
        assert (code, out) == (1, "")
        assert err.startswith(f"cannot listen on 127.0.0.1 port {port}: ")
        assert len(err.splitlines()) == 1
        assert server.http("GET", "/ws/health").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - this is a test of it
def test_the_open_option_opens_the_page(tmp_path: Path, host: str) -> None:
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened.part && mv opened.part opened\n')
    browser.chmod(0o755)
    with serving(tmp_path, "--host", host, "--open", BROWSER=f"{browser} %s") as server:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "opened").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        opened = (tmp_path / "opened").read_text().strip()
        assert opened == f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_rejected(tmp_path: Path, host: str) -> None:
    code, out, err = run([*SERVE, "--host", host], directory=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"cannot listen on {host} port 0: ")
    assert len(err.splitlines()) == 1


def test_wrong_settings_are_listed_together(tmp_path: Path) -> None:
    environ = {
        "ENVIRONMENT": "production",
        "JWT_SECRET_KEY": "too-short-a-secret",
        "WEBSOCKET_ALLOWED_ORIGINS": "https://*",
        "WEBSOCKET_MAX_MESSAGE_SIZE": "10KB",
        "WEBSOCKET_REQUIRE_AUTH": "false",
        "REDIS_URL": "http://user:pass-word@localhost",
    }
    code, out, err = run(SERVE, directory=tmp_path, environ=environ)
    assert (code, out) == (1, "")
    for name in (*environ, "DATABASE_URL"):
        if name != "ENVIRONMENT":
            assert [line for line in err.splitlines() if line.startswith(f"{name}: ")], err
    assert "too-short-a-secret" not in err
    assert "pass-word" not in err
    assert "Traceback" not in err


# --- agents


async def test_agents_are_imported_from_the_working_directory(folder: Path) -> None:
    arguments = [*with_agents("shout"), "--agent", f"second={MODULE}:until_told"]
    (folder / "go").touch()
    with serving(folder, *arguments) as server:
        assert server.process.out.lines[0].endswith("agents: shout, second")
        async with server.connect() as client:
            await client.say("first is default")
            first = await client.until("agent_completed")
            assert first[-1]["payload"]["result"] == "FIRST IS DEFAULT"
            assert [f["payload"]["agent_name"] for f in first if f["type"] == "agent_started"] == [
                "shout"
            ]
            await client.say("by name", agent="second")
            assert (await client.until("agent_completed"))[-1]["payload"]["result"] == "begun ended"
            await client.say("no demo", agent="demo")
            await client.error("AGENT_NOT_FOUND")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--agent", "outside_agents"], "expected [NAME=]module:function"),
        (["--agent", ":shout"], "expected [NAME=]module:function"),
        (["--agent", "outside_agents:"], "expected [NAME=]module:function"),
        (["--agent", "no_such_module:shout"], "no_such_module"),
        (["--agent", "outside_agents:no_such"], "outside_agents has no no_such"),
        (["--agent", "outside_agents:not_async"], "expected an async function"),
        (["--agent", "outside_agents:a_number"], "expected an async function"),
        ([*with_agents("shout", "shout")], "'shout' is given twice"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_an_invalid_agent_option(folder: Path, arguments: list[str], text: str) -> None:
    code, out, err = run([*SERVE, *arguments], directory=folder)
    assert (code, out) == (1, "")
    assert text in err
    assert len(err.splitlines()) == 1


# --- the end


async def drained(client: Client) -> list[Frame]:
    """Return a client's frames from `server_draining` on; the close has to be 1012."""
    frames, code = await client.rest()
    assert code == 1012
    kinds = [frame["type"] for frame in frames]
    assert kinds.count("server_draining") == 1
    draining = next(frame for frame in frames if frame["type"] == "server_draining")
    assert draining["payload"]["reason"]
    assert draining["payload"]["reconnect_after_ms"] > 0
    assert "seq" not in draining
    return frames


@pytest.mark.parametrize("number", SIGNALS)
async def test_idle_clients_are_drained_at_once(tmp_path: Path, number: signal.Signals) -> None:
    # A drain that waited for its timeout, or for a head, would not end within this test.
    patient = {"WEBSOCKET_DRAIN_TIMEOUT": "600000"}
    with (
        serving(tmp_path, before=PATIENT, **patient) as server,
        open_line(server.address) as idle,
    ):
        # A kept-alive HTTP connection and half a request do not delay the exit.
        request = f"GET /ws/health HTTP/1.1\r\nHost: {server.address}\r\n\r\n"
        idle.sendall(request.encode())
        assert read_answer(idle).status == 200
        idle.sendall(request[:20].encode())
        async with (
            server.connect("alice") as plain,
            server.connect("bob", subprotocols=[SUBPROTOCOL]) as acknowledging,
        ):
            await plain.answers()
            server.process.send_signal(number)
            for client in (plain, acknowledging):
                assert [frame["type"] for frame in await drained(client)] == ["server_draining"]
            assert await ended(server) == 0
        assert server.process.logs("signal")[0]["signal"] == number.name
        reasons = [line["reason"] for line in server.process.logs("connection_ended")]
        assert reasons == ["drained", "drained"]


async def test_a_run_that_ends_in_time_is_completed(folder: Path) -> None:
    patient = {"WEBSOCKET_DRAIN_TIMEOUT": "600000"}
    with serving(folder, *with_agents("until_told"), **patient) as server:
        async with server.connect() as client:
            await client.say("go on", "c-1")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            await client.say("too late", "c-2")
            late = await client.expect("error")
            assert late["payload"]["code"] == "SERVER_DRAINING"
            assert late["correlation_id"] == "c-2"
            assert late["payload"]["retry_after_ms"] > 0
            (folder / "go").touch()
            frames, code = await client.rest()
            assert frames[-1]["payload"]["status"] == "completed"
            assert frames[-1]["payload"]["result"] == "begun ended"
            assert code == 1012
        assert await ended(server) == 0


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_run_beyond_its_grace_is_interrupted(folder: Path, number: signal.Signals) -> None:
    with serving(folder, *with_agents("wait"), WEBSOCKET_DRAIN_TIMEOUT="1500") as server:
        async with server.connect() as client:
            await client.say("runs", thread_id="t")
            await client.until("partial_result")
            await client.say("waits", "c-2", thread_id="t")
            await client.until("message_confirmed")
            server.process.send_signal(number)
            frames = await drained(client)
            ends = [f["payload"] for f in frames if f["type"] == "agent_completed"]
            assert [end["status"] for end in ends] == ["interrupted", "interrupted"]
            assert frames[-1]["type"] == "agent_completed"
            # A waiting run ends at once.
            first = next(frame for frame in frames if frame["type"] == "agent_completed")
            assert (first["correlation_id"], first["payload"]["duration_ms"]) == ("c-2", 0)
        assert await ended(server) == 0


@contextmanager
def deaf_peer(server: Server, agent: str) -> Iterator[None]:
    """Send a message and never read."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(PATIENCE)
        line.connect(("127.0.0.1", server.port))
        message = orjson.dumps(
            {"type": "user_message", "payload": {"content": "go", "agent": agent}}
        )
        assert len(message) < 126
        frame = bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message
        line.sendall(upgrade_request(server.address, "/ws", [bearer("deaf")]) + frame)
        yield


def test_a_peer_that_never_reads_does_not_delay_the_exit(folder: Path) -> None:
    arguments = with_agents("flood")
    # Only the drain may end it: the send timeout is very long.
    patient = {"WEBSOCKET_SEND_TIMEOUT": "600000", "WEBSOCKET_DRAIN_TIMEOUT": "1500"}
    with serving(folder, *arguments, **patient) as server, deaf_peer(server, "flood"):
        server.process.out.wait_for(lambda lines: "the client takes no more" in lines)
        server.process.send_signal(signal.SIGTERM)
        assert exit_code(server) == 0
        (end,) = server.process.logs("connection_ended")
        assert end["reason"] in {"drained", "aborted"}


async def test_an_agent_stuck_in_a_thread_does_not_delay_the_exit(folder: Path) -> None:
    with serving(folder, *with_agents("stuck"), WEBSOCKET_DRAIN_TIMEOUT="1000") as server:
        async with server.connect() as client:
            await client.say("block")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            assert await ended(server) == 0
            await client.rest()


def test_the_default_drain_and_the_forced_exit_fit_in_ten_seconds() -> None:
    drain = Settings().drain_timeout_ms / 1000
    assert drain + exits.FORCED_AFTER + exits.OUTPUT_SECONDS <= EXIT_SECONDS


async def test_it_exits_within_ten_seconds_in_the_worst_case(folder: Path) -> None:
    with (
        serving(
            folder, *with_agents("wait", "stuck", "flood"), WEBSOCKET_SEND_TIMEOUT="600000"
        ) as server,
        deaf_peer(server, "flood"),
        open_line(server.address) as half,
    ):
        half.sendall(b"GET /ws HTTP/1.1\r\nHost: x")
        await trio.to_thread.run_sync(
            server.process.out.wait_for, lambda lines: "the client takes no more" in lines
        )
        async with server.connect("alice") as waiting, server.connect("bob") as stuck:
            await waiting.say("wait", agent="wait")
            await waiting.until("partial_result")
            await stuck.say("block", agent="stuck")
            await stuck.until("partial_result")
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            ends = [f for f in await drained(waiting) if f["type"] == "agent_completed"]
            assert [end["payload"]["status"] for end in ends] == ["interrupted"]
            assert await ended(server) == 0
            assert time.monotonic() - started <= EXIT_SECONDS + BUSY_SECONDS
            await stuck.rest()


@pytest.mark.parametrize("second", SIGNALS)
async def test_a_second_signal_exits_at_once(folder: Path, second: signal.Signals) -> None:
    with serving(folder, *with_agents("wait", "stuck")) as server:
        async with server.connect() as client:
            await client.say("wait", agent="wait")
            await client.until("partial_result")
            await client.say("block", agent="stuck", thread_id="other")
            await client.until("partial_result")
            server.process.send_signal(signal.SIGTERM)
            await client.until("server_draining")
            server.process.send_signal(second)
            assert await ended(server) == 1
            assert (await client.rest())[1] in {None, 1006}


def processes_in(directory: Path) -> set[int]:
    """Return the ids of the processes whose working directory is this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.add(int(entry.name))
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc")
async def test_it_is_one_process_and_leaves_none(folder: Path) -> None:
    with serving(folder, *with_agents("stuck")) as server:
        async with server.connect() as client:
            await client.say("block")
            await client.until("partial_result")
            assert processes_in(folder) == {server.process.pid}
            server.process.send_signal(signal.SIGKILL)
            assert await trio.to_thread.run_sync(server.process.wait) == -signal.SIGKILL
            await client.rest()
        assert processes_in(folder) == set()
        with pytest.raises(OSError, match="refused"):
            open_line(server.address)


# --- the log


async def test_no_credential_is_in_any_line(tmp_path: Path) -> None:  # noqa: PLR0915
    with serving(tmp_path, WEBSOCKET_MAX_CONNECTIONS_PER_USER="1000") as server:
        secrets: list[str] = []

        def token(seconds: float = 3600, **claims: str) -> str:
            made = sign(f"user-{len(secrets)}", seconds=seconds, **claims)
            secrets.append(made)
            return made

        def as_protocol(value: str) -> tuple[str, str]:
            coded = base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")
            secrets.append(coded)
            return ("Sec-WebSocket-Protocol", f"{SUBPROTOCOL}, jwt.{coded}")

        def ticket() -> str:
            answer = server.http("POST", "/ws/ticket", [("Authorization", f"Bearer {token()}")])
            secrets.append(answer.json()["ticket"])
            return secrets[-1]

        # Success.
        assert server.upgrade("", ("Authorization", f"Bearer {token()}")).status == 101
        assert server.upgrade("", as_protocol(token())).status == 101
        used = ticket()
        assert server.upgrade(f"?ticket={used}").status == 101
        assert server.upgrade(f"?token={token()}").status == 101
        async with server.connect("renewing") as client:
            await client.send("auth", {"token": sign("renewing", seconds=7200)})
            await client.expect("auth_ok")
            await client.send("auth", {"token": token()})
            await client.error("INVALID_TOKEN")
            await client.send_raw('{"type":"auth","payload":{"token":"' + token() + '"')
            await client.error("JSON_PARSE_ERROR")

        # Rejected requests: the credential or an earlier check fails.
        foreign = ("Origin", "https://evil.example")
        expired, forged = token(seconds=-99), token(secret="y" * 40)
        for bad in (expired, forged):
            refusals = [
                server.upgrade("", ("Authorization", f"Bearer {bad}")),
                server.upgrade("", as_protocol(bad)),
                server.upgrade(f"?token={bad}"),
                server.upgrade(f"?ticket={bad}"),
                server.upgrade(f"?ticket={used}"),
                server.upgrade(f"?token={bad}", ("Authorization", f"Bearer {token()}")),
            ]
            assert {answer.status for answer in refusals} == {401}
        assert server.upgrade(f"?token={token()}", foreign).status == 403
        assert server.upgrade(f"?token={token()}&last_seq=5").status == 400
        assert server.upgrade(f"?token={token()}", path="/nothing").status == 404
        assert server.upgrade(f"?ticket={ticket()}&session_id={token()}&last_seq=x").status == 400

        # Malformed requests.
        assert server.http("GET", f"/ws?token={token()}").status_code == 426
        assert server.http("GET", f"/ws/config?token={token()}").status_code == 200
        assert server.http("POST", f"/{token()}").status_code == 404
        broken = upgrade_request(server.address, f"/ws?token={token()}", [], key="short")
        assert ask(server.address, broken).status == 400
        strange = upgrade_request(
            server.address, f"/ws?token={token()}", [("Sec-WebSocket-Extensions", "\xff")]
        )
        assert ask(server.address, strange).status == 400
        h2c = f"GET /ws?token={token()} HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n"
        h2c += f"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: !{token()}\r\n\r\n"
        with open_line(server.address) as line:
            line.sendall(h2c.encode())
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
        with open_line(server.address) as line:
            line.sendall(f"GET /ws?token={token()}\xff\r\n\r\n".encode("latin-1"))
            while line.recv(65536):
                pass

    assert server.process.popen.returncode == 0
    text = server.process.err.text + server.process.out.text.replace(server.token or "", "")
    assert len(server.process.logs("opening_refused")) >= 16
    assert len(secrets) > 25
    for secret in secrets:
        parts = secret.split(".")
        assert secret not in text
        assert parts[-1] not in text
        assert len(parts) < 2 or parts[1] not in text
    assert "eyJ" not in text


async def test_every_connection_is_logged(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with server.connect("alice") as client:
            await client.say("hello", agent="echo")
            await client.until("agent_completed")
        (opened,) = server.process.wait_log("connection_opened")
        (over,) = server.process.wait_log("connection_ended")
        payload = client.hello["payload"]
        for line in (opened, over):
            assert line["connection_id"] == payload["connection_id"]
            assert line["session_id"] == payload["session_id"]
            assert line["user_id"] == "alice"
        assert (over["reason"], over["peer_code"]) == ("peer_closed", 1000)
        assert over["frames_in"] == 1
