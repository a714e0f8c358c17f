"""`netra-trio check --url` against real servers, and against faults on the way to one."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme
from support.commands import Typed
from support.faulty import (
    Change,
    answering,
    faulty_proxy,
    replacing,
    silent,
    stranger,
    unchanged,
    without,
)
from support.ports import kept_port
from support.server import (
    PATIENCE,
    STARTING,
    Process,
    Server,
    clean_environ,
    serving,
    sign,
    write_agents,
)
from websockets.sync.server import ServerConnection

from netra_trio.cli.check_server import STEPS

SHIFTED = """
import sys, time
real = time.time
time.time = lambda: real() + {seconds}
from netra_trio.__main__ import main
main()
"""
SWITCHING = b"101 Switching Protocols\r\n"
ORDINARY = b"200 OK\r\ncontent-length: 0\r\n"
AGENTS = """
from pathlib import Path

import trio

async def wait(run):
    await run.emit("waiting")
    while not Path("go").exists():
        await trio.sleep(0.01)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, WEBSOCKET_MAX_CONNECTIONS_PER_USER="50") as running:
        yield running


def outcomes(out: str) -> dict[str, str]:
    """Return the outcome of each step, in their order."""
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    return {line[1]: line[0] for line in lines if line and line[0] in {"ok", "wrong", "skipped"}}


def wrong(out: str, step: str) -> str:
    """Return the text of a step that is wrong, with the advice below it."""
    lines = out.splitlines()
    (found,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["wrong", step]]
    assert lines[found + 1].startswith(" " * 18), "every error has an advice"
    return f"{lines[found]} {lines[found + 1].strip()}"


def check(typed: Typed, address: str, *arguments: str, path: str = "/ws") -> tuple[int, str]:
    code, out, err = typed("check", "--url", f"ws://{address}{path}", *arguments)
    assert ("Everything works" in out) == (code == 0)
    assert ("Something is wrong" in err) == (code == 1)
    assert list(outcomes(out)) == list(STEPS)
    assert "\x1b" not in out
    assert "eyJ" not in out + err
    return code, out


def test_a_healthy_server(typed: Typed, server: Server) -> None:
    code, out = check(typed, server.address)
    assert code == 0, out
    assert set(outcomes(out).values()) == {"ok"}
    assert "Connected as 'dev'" in out
    assert "The session was resumed: exact." in out


def test_the_path_with_a_slash(typed: Typed, server: Server) -> None:
    assert check(typed, server.address, path="/ws/")[0] == 0


def test_an_allowed_origin(typed: Typed, server: Server) -> None:
    code, out = check(typed, server.address, "--origin", "http://localhost:3000")
    assert code == 0, out
    assert "a page of http://localhost:3000" in out


def test_a_wrong_origin(typed: Typed, server: Server) -> None:
    code, out = check(typed, server.address, "--origin", "https://evil.example")
    assert code == 1
    shown = wrong(out, "ticket")
    assert "ORIGIN_NOT_ALLOWED" in shown
    assert "WEBSOCKET_ALLOWED_ORIGINS" in shown
    assert outcomes(out)["opening"] == "skipped"


def test_a_token_that_is_given(typed: Typed, server: Server) -> None:
    code, out = check(typed, server.address, "--token", sign("zoe"))
    assert code == 0
    assert "It was given" in out
    assert "Connected as 'zoe'" in out


@pytest.mark.parametrize(
    ("token", "step", "text"),
    [
        (sign(seconds=-3600), "token", "by this machine's clock"),
        (sign(seconds=-3600), "ticket", "TOKEN_EXPIRED"),
        (sign(secret="x" * 48), "ticket", "INVALID_TOKEN"),
        (sign(exp=None), "token", "It has no exp"),
        ("not-a-token", "token", "It is not a JSON Web Token"),
    ],
    ids=["expired", "expired-there", "foreign", "endless", "none"],
)
def test_invalid_tokens(typed: Typed, server: Server, token: str, step: str, text: str) -> None:
    code, out = check(typed, server.address, "--token", token)
    assert code == 1
    shown = wrong(out, step)
    assert text in shown
    assert outcomes(out)["opening"] == "skipped"


def test_an_unknown_user(typed: Typed, tmp_path: Path) -> None:
    with serving(tmp_path, AUTH_AUTO_PROVISION="false") as server:
        code, out = check(typed, server.address)
        assert code == 1
        assert "netra-trio user add" in wrong(out, "ticket")


def test_a_token_signed_here(typed: Typed, tmp_path: Path) -> None:
    deployed = {
        "ENVIRONMENT": "staging",
        "DATABASE_URL": "sqlite://",
        "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
        "AUTH_AUTO_PROVISION": "true",
    }
    with serving(tmp_path, **deployed) as server:
        code, out = check(typed, server.address)
        assert code == 0, out
        assert "Signed for 'dev' with the secret that is set here" in out
        code, out, _ = typed("check", "--url", server.url, JWT_SECRET_KEY="")
        assert code == 1
        assert "Give one with --token." in wrong(out, "token")


def test_a_server_that_requires_no_token(typed: Typed, tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_REQUIRE_AUTH="false", WEBSOCKET_RESUME_WINDOW="0") as server:
        code, out = check(typed, server.address)
    assert code == 0
    assert "Connected as 'anonymous-" in out
    assert [name for name, how in outcomes(out).items() if how == "skipped"] == [
        "token",
        "ticket",
        "resume",
    ]


def test_an_anonymous_user_resumes(typed: Typed, tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_REQUIRE_AUTH="false") as server:
        code, out = check(typed, server.address)
    assert code == 0
    assert outcomes(out)["resume"] == "ok"


# --- The address.


def test_no_server_listens(typed: Typed) -> None:
    with kept_port() as port:
        code, out = check(typed, f"127.0.0.1:{port}")
    assert code == 1
    assert "no server listens on" in wrong(out, "address")


def test_an_unknown_host(typed: Typed) -> None:
    code, out = check(typed, "no-such-host.invalid:8000")
    assert code == 1
    assert "The name no-such-host.invalid is not known." in wrong(out, "address")


def test_tls_to_a_server_without_tls(typed: Typed, server: Server) -> None:
    code, out, _ = typed("check", "--url", f"wss://{server.address}/ws")
    assert code == 1
    assert "write ws:// instead of wss://" in wrong(out, "address")


@contextmanager
def serving_tls(folder: Path, host: str) -> Iterator[tuple[str, Path]]:
    """Run a server with a certificate for a host; give its address, and the authority's file."""
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    command = ["-m", "netra_trio", "serve", "--port", "0", "--certfile", "server.pem"]
    with Process(command, directory=folder, environ={}) as process:

        def find(lines: list[str]) -> str | None:
            return next((line.split()[2] for line in lines if line.startswith("Ready on")), None)

        address = process.out.wait_for(find, STARTING).removeprefix("https://")
        yield address, folder / "authority.pem"
        assert process.end() == 0


def test_a_server_with_tls(typed: Typed, tmp_path: Path) -> None:
    with serving_tls(tmp_path, "127.0.0.1") as (address, authority):
        url = f"wss://{address}/ws"
        code, out, _ = typed("check", "--url", url, SSL_CERT_FILE=str(authority))
        assert code == 0, out
        assert "certificate until" in out
        code, out, _ = typed("check", "--url", url)
        assert code == 1
        assert "SSL_CERT_FILE" in wrong(out, "address")
        code, out, _ = typed("check", "--url", f"ws://{address}/ws")
        assert code == 1
        assert "scheme (ws or wss)" in wrong(out, "discovery")


def test_a_certificate_of_another_host(typed: Typed, tmp_path: Path) -> None:
    with serving_tls(tmp_path, "other.example") as (address, authority):
        url = f"wss://{address}/ws"
        code, out, _ = typed("check", "--url", url, SSL_CERT_FILE=str(authority))
        assert code == 1
        assert "not valid: " in wrong(out, "address")


# --- Other servers.


def reply(status: str, body: str = "", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return ("\r\n".join(head) + f"\r\n\r\n{body}").encode()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (reply("200 OK", "<html>"), "The answer is a page or a file"),
        (reply("200 OK", "{}"), "The answer is other JSON"),
        (reply("404 Not Found", "<html>"), "There is no such endpoint. (404)"),
        (
            reply("301 Moved", "", "location: https://b.example/ws/"),
            "redirects to https://b.example",
        ),
        (reply("302 Found"), "redirects. (302)"),
        (reply("401 Unauthorized"), "A proxy in front of the server refuses"),
        (reply("429 Too Many"), "allows no more requests"),
        (reply("502 Bad Gateway", "<html>"), "gets no answer from it. (502)"),
        (reply("418 Teapot"), "The answer is 418"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "There is no answer"),
        (reply("200 OK", "x" * 100_000), "The answer is a page or a file"),
    ],
    ids=str,
)
def test_another_server_answers(typed: Typed, answer: bytes, text: str) -> None:
    with answering(answer) as address:
        code, out = check(typed, address)
    assert code == 1
    assert text in wrong(out, "discovery")


def test_a_wrong_path(typed: Typed, server: Server) -> None:
    code, out = check(typed, server.address, path="/socket")
    assert code == 1
    assert "it ends in /ws" in wrong(out, "discovery")


def test_no_answer(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.cli.probe.TIMEOUT_SECONDS", 2.0)
    with silent() as address:
        code, out = check(typed, address)
    assert code == 1
    assert "nothing within 2 s" in wrong(out, "discovery")


# --- Proxies.


@pytest.mark.parametrize(
    ("request_change", "answer_change", "step", "text"),
    [
        (without("upgrade", "connection"), unchanged, "opening", "headers Upgrade and Connection"),
        (replacing(b"HTTP/1.1", b"HTTP/1.0"), unchanged, "opening", "HTTP/1.1 to the server"),
        (without("authorization"), unchanged, "ticket", "pass on the Authorization header"),
        (replacing(b"?ticket=", b"?tick="), unchanged, "opening", "Authorization header and the"),
        (without("sec-websocket-protocol"), unchanged, "opening", "Sec-WebSocket-Protocol"),
        (unchanged, without("sec-websocket-protocol"), "opening", "Sec-WebSocket-Protocol"),
        (without("sec-websocket-key"), unchanged, "opening", "without the proxy"),
        (replacing(b"/ws/ticket", b"/ws/thicket"), unchanged, "ticket", "it ends in /ws"),
        (unchanged, replacing(SWITCHING, ORDINARY), "opening", "answer is 200"),
        (replacing(b"session_id=", b"session_id=not-"), unchanged, "resume", "reset (unknown)"),
        (replacing(b"GET /ws?", b"GET /wss?"), unchanged, "opening", "it ends in /ws"),
    ],
    ids=[
        "upgrade",
        "http-1.0",
        "authorization",
        "query",
        "subprotocol-there",
        "subprotocol-back",
        "key",
        "ticket-path",
        "status",
        "session",
        "path",
    ],
)
def test_a_proxy_that_changes_requests(
    typed: Typed,
    server: Server,
    *,
    request_change: Change,
    answer_change: Change,
    step: str,
    text: str,
) -> None:
    with faulty_proxy(server.address, request_change, answer_change) as address:
        code, out = check(typed, address, "--token", sign())
    assert code == 1
    assert text in wrong(out, step), out
    before = list(STEPS)[: list(STEPS).index(step)]
    assert {outcomes(out)[name] for name in before} == {"ok"}, out


def test_a_proxy_that_drops_frames(
    typed: Typed, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netra_trio.cli.check_server.PING_SECONDS", 0.3)
    monkeypatch.setattr("netra_trio.cli.probe.CLOSING_SECONDS", 0.1)
    with faulty_proxy(server.address, deaf=True) as address:
        code, out = check(typed, address, "--token", sign())
    assert code == 1
    assert "no answer within 0.3 s" in wrong(out, "ping")


def hello(line: ServerConnection) -> None:
    line.send("hello")
    line.recv()


def leave(line: ServerConnection) -> None:
    line.close(4999)


@pytest.mark.parametrize(
    ("talk", "text"),
    [(hello, "not the connection_established of this protocol"), (leave, "was closed with 4999")],
)
def test_upgrades_reach_another_server(
    typed: Typed, server: Server, talk: Callable[[ServerConnection], None], text: str
) -> None:
    with (
        stranger(talk) as other,
        faulty_proxy(server.address, upgrades_to=other) as address,
    ):
        code, out = check(typed, address, "--token", sign())
    assert code == 1
    assert text in wrong(out, "opening")


# --- The state of the server.


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_is_off(typed: Typed, tmp_path: Path, seconds: int) -> None:
    command = ["-c", SHIFTED.format(seconds=seconds), "serve", "--port", "0"]
    with Process(command, directory=tmp_path, environ={}) as process:
        address = process.out.wait_for(
            lambda lines: next((x.split()[2] for x in lines if x.startswith("Ready on")), None),
            STARTING,
        ).removeprefix("http://")
        code, out = check(typed, address)
        assert code == 1
        shown = wrong(out, "clock")
        assert ("ahead of" if seconds > 0 else "behind") in shown
        told = re.search(r"clock is (\d+) s ", shown)
        assert told is not None
        assert abs(int(told[1]) - 3600) < 60  # the answer may take a while on a busy machine
        code, out = check(typed, address, "--token", sign(seconds=60))
        assert code == 1
        if seconds > 0:
            assert "Set the clock first" in wrong(out, "ticket")
        assert process.end() == 0


def test_a_server_that_drains(typed: Typed, tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    with serving(
        tmp_path, "--agent", "outside_agents:wait", WEBSOCKET_DRAIN_TIMEOUT="600000"
    ) as server:

        async def check_while_draining() -> tuple[int, str]:
            async with server.connect("alice") as client:
                await client.say("hello")
                await client.until("partial_result")
                server.process.send_signal(signal.SIGTERM)
                await client.until("server_draining")
                found = await trio.to_thread.run_sync(check, typed, server.address)
                (tmp_path / "go").touch()
                return found

        code, out = trio.run(check_while_draining)
        assert code == 1
        assert "about to restart" in wrong(out, "health")
        assert server.process.wait() == 0


def test_a_server_that_is_full(typed: Typed, tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_MAX_CONNECTIONS="1") as server:

        async def check_while_full() -> tuple[int, str]:
            async with server.connect("alice"):
                return await trio.to_thread.run_sync(check, typed, server.address)

        code, out = trio.run(check_while_full)
    assert code == 1
    assert "WEBSOCKET_MAX_CONNECTIONS" in wrong(out, "ticket")


# --- Arguments.


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000/ws", "127.0.0.1:8000", "ws://", "ws://u:pass-word@h/ws", "ws://h:x/"],
)
def test_invalid_urls(typed: Typed, url: str) -> None:
    code, out, err = typed("check", "--url", url)
    assert (code, out) == (1, "")
    assert "--url: expected one like" in err
    assert "pass-word" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--user", "bob"),
        ("--token", "eyJ"),
        ("--origin", "http://localhost"),
        ("--url", "ws://h/ws", "--user", "bob", "--token", "t"),
    ],
)
def test_options_that_exclude_each_other(typed: Typed, arguments: tuple[str, ...]) -> None:
    code, out, err = typed("check", *arguments)
    assert (code, out) == (1, "")
    assert "give " in err


def test_colours_on_a_terminal(server: Server, tmp_path: Path) -> None:
    near, far = pty.openpty()
    try:
        command = [sys.executable, "-m", "netra_trio", "check", "--url", server.url]
        environ = clean_environ(tmp_path, {"TERM": "xterm-256color"})
        with subprocess.Popen(  # noqa: S603 - a test's own command line
            command, cwd=tmp_path, env=environ, stdout=far, stderr=far
        ) as process:
            os.close(far)
            shown, deadline = b"", time.monotonic() + PATIENCE
            while b"Everything works" not in shown and time.monotonic() < deadline:
                shown += os.read(near, 4096)
            assert process.wait(PATIENCE) == 0
    finally:
        os.close(near)
    assert b"\x1b[32mok" in shown
