"""The commands token, check and chat, the help, and their errors."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from support.commands import Typed
from support.server import (
    PATIENCE,
    SECRET,
    Process,
    Server,
    clean_environ,
    run,
    serving,
    sign,
    write_agents,
)
from support.terminal import CTRL_C, CTRL_D, terminal

NETRA = ("-m", "netra_trio")
ESCAPE = "\x1b"
INTERRUPTED = "(interrupted: the server ended before the answer did; ask again)"
DEPLOYED = {
    "ENVIRONMENT": "staging",
    "DATABASE_URL": "sqlite:///netra.db",
    "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
    "AUTH_AUTO_PROVISION": "true",
    "JWT_ISSUER": "https://issuer.example",
    "JWT_AUDIENCE": "netra",
    "JWT_ALGORITHMS": "HS384,HS256",
}
AGENTS = """
from pathlib import Path

import trio


async def say(run):
    await run.think("Thinking about it", step=1, total=1)
    async with run.tool("upper", text=run.content) as tool:
        tool.result = run.content.upper()
    await run.emit(tool.result)


async def two_lines(run):
    await run.emit("the first line\\n")
    while not Path(run.content).exists():
        await trio.sleep(0.01)
    await run.emit("the second line\\n")


async def wait(run):
    await run.emit("waiting forever\\n")
    await trio.sleep_forever()


async def fail(run):
    raise ValueError("never shown")


async def whoami(run):
    await run.emit(run.user.id if hasattr(run.user, "id") else str(run.user))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    names = ("say", "two_lines", "wait", "fail", "whoami")
    agents = [f"--agent=outside_agents:{name}" for name in names]
    with serving(folder, *agents, WEBSOCKET_MAX_CONNECTIONS_PER_USER="50") as running:
        yield running


def netra(folder: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    return run([*NETRA, *arguments], directory=folder, environ=environ)


def chat_command(server: Server, *arguments: str) -> list[str]:
    return ["chat", "--url", server.url, *arguments]


# --- token


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [(None, 3600), ("45s", 45), ("30m", 1800), ("2h", 7200), ("7d", 604_800)],
)
def test_a_token(typed: Typed, expires: str | None, seconds: int) -> None:
    arguments = ["token", "--user", "alice"]
    arguments += [] if expires is None else ["--expires", expires]
    before = int(time.time())
    code, out, err = typed(*arguments)
    assert (code, err) == (0, "")
    claims = jwt.decode(out.strip(), SECRET, algorithms=["HS256"])
    assert claims.keys() == {"sub", "exp"}
    assert claims["sub"] == "alice"
    assert before <= claims["exp"] - seconds <= time.time() + 1


def test_a_token_with_permissions_for_a_deployment(typed: Typed) -> None:
    granted = ["--permission", "netra:admin", "--permission", "read"]
    key = {**DEPLOYED, "JWT_SECRET_KEY": SECRET}
    code, out, _ = typed("token", "--user", "alice", *granted, **key)
    assert code == 0
    claims = jwt.decode(
        out.strip(),
        SECRET,
        algorithms=["HS384"],
        audience="netra",
        issuer="https://issuer.example",
    )
    assert claims["permissions"] == ["netra:admin", "read"]


def test_a_token_of_the_development_secret_is_accepted(tmp_path: Path) -> None:
    code, out, _ = netra(tmp_path, "token", "--user", "alice", JWT_SECRET_KEY="")
    assert code == 0
    with serving(tmp_path, JWT_SECRET_KEY="") as server:
        assert server.upgrade(f"?token={out.strip()}").status == 101


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--user", "alice", "--expires", "soon"], "--expires: expected something like 30m"),
        (["--user", "alice", "--expires", "-5m"], "--expires"),
        (["--user", "alice", "--expires", "1.5h"], "--expires: expected something like 30m"),
        (["--user", ""], "--user: expected a printable text of 1 to 255 characters"),
        (["--user", "a\nb"], "--user: expected a printable text of 1 to 255 characters"),
        ([], "--user"),
    ],
    ids=["soon", "negative", "fraction", "empty", "unprintable", "none"],
)
def test_invalid_token_options(typed: Typed, arguments: list[str], text: str) -> None:
    code, out, err = typed("token", *arguments)
    assert code in {1, 2}
    assert text in out + err
    assert "eyJ" not in out


# --- check


def test_check_shows_every_setting_and_no_secret(typed: Typed) -> None:
    code, out, err = typed(
        "check",
        DATABASE_URL="postgresql://user:pass-word@127.0.0.1:1/netra",
        WEBSOCKET_MAX_MESSAGE_RATE="77",
        WEBSOCKET_MAX_MESAGE_SIZE="5",
        COLUMNS="200",
    )
    assert code == 1
    assert "a service that they name does not answer" in err
    for name in ("ENVIRONMENT", "WEBSOCKET_ALLOWED_ORIGINS", "AGENT_TIMEOUT", "JWT_SECRET_KEY"):
        assert name in out
    (rate,) = [line for line in out.splitlines() if "WEBSOCKET_MAX_MESSAGE_RATE" in line]
    assert "77 messages per minute" in rate
    assert "environment" in rate
    assert "did you mean WEBSOCKET_MAX_MESSAGE_SIZE" in out
    assert SECRET not in out
    assert "pass-word" not in out
    assert ESCAPE not in out


def test_check_lists_every_fault(typed: Typed) -> None:
    code, out, err = typed(
        "check",
        ENVIRONMENT="production",
        JWT_SECRET_KEY="only-a-few-bytes",
        WEBSOCKET_BURST_QUEUE="many",
        WEBSOCKET_ALLOWED_ORIGINS="http://app.example.com",
    )
    assert (code, out) == (1, "")
    for name in (
        "JWT_SECRET_KEY",
        "WEBSOCKET_BURST_QUEUE",
        "WEBSOCKET_ALLOWED_ORIGINS",
        "DATABASE_URL",
    ):
        assert [line for line in err.splitlines() if line.startswith(f"{name}: ")]
    assert "only-a-few-bytes" not in err
    assert "Traceback" not in err


# --- chat, one message


def test_one_message(server: Server, tmp_path: Path) -> None:
    code, out, err = run(
        [*NETRA, *chat_command(server, "--user", "alice", "hello")], directory=tmp_path
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "… Thinking about it",
        '[upper] {"text":"hello"}',
        "[upper] → HELLO",
        "HELLO",
    ]
    assert ESCAPE not in out


def test_the_answer_streams(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = [*NETRA, *chat_command(server, "--agent", "two_lines", str(go))]
    with Process(command, directory=tmp_path, environ={}) as chat:
        chat.out.wait_for(lambda lines: "the first line" in lines)
        assert chat.running
        assert "the second line" not in chat.out.lines
        go.touch()
        assert chat.wait() == 0
        assert chat.out.lines[:2] == ["the first line", "the second line"]


def test_the_user_of_a_chat(server: Server, typed: Typed) -> None:
    for arguments, user in (
        ([], "dev"),
        (["--user", "carol"], "carol"),
        (["--token", sign("dave")], "dave"),
    ):
        command = chat_command(server, *arguments, "--agent", "whoami", "x")
        code, out, _ = typed(*command)
        assert (code, out.strip()) == (0, user)


def test_a_chat_with_a_deployment_uses_its_secret(typed: Typed, tmp_path: Path) -> None:
    with serving(tmp_path, **DEPLOYED) as server:
        command = chat_command(server, "--user", "alice", "--agent", "echo", "hello")
        code, out, err = typed(*command, **DEPLOYED)
        assert (code, out.strip(), err) == (0, "hello", "")
        secret = tmp_path / "secret"
        secret.write_text(f"{SECRET}\n")
        from_file = {**DEPLOYED, "JWT_SECRET_KEY": "", "JWT_SECRET_KEY_FILE": str(secret)}
        code, out, err = typed(*command, **from_file)
        assert (code, out.strip(), err) == (0, "hello", "")
        code, out, err = typed(*command, JWT_SECRET_KEY="", JWT_SECRET_KEY_FILE="/nowhere")
        assert (code, out) == (1, "")
        assert "JWT_SECRET_KEY_FILE" in err
        code, out, err = typed(*command, JWT_SECRET_KEY="")
        assert (code, out) == (1, "")
        assert "--token" in err
        assert "JWT_SECRET_KEY" in err


def test_a_run_that_fails_is_exit_code_one(server: Server, typed: Typed) -> None:
    code, out, _ = typed(*chat_command(server, "--agent", "fail", "x"))
    assert code == 1
    assert "error_id" in out
    assert "never shown" not in out
    code, out, _ = typed(*chat_command(server, "--agent", "nobody", "x"))
    assert code == 1
    assert "two_lines" in out
    code, out, _ = typed(*chat_command(server, " "))
    assert code == 1
    assert "$.payload.content" in out


@pytest.mark.parametrize("arguments", [["--user", "alice"], ["--token", "x"]])
def test_no_server(typed: Typed, arguments: list[str]) -> None:
    url = "ws://127.0.0.1:9/ws"
    code, out, err = typed("chat", "--url", url, *arguments, "hello")
    assert (code, out) == (1, "")
    assert err.startswith(f"cannot connect to {url}: ")
    assert "Is the server running? Start it with: netra-trio serve" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "://nonsense"])
def test_proxy_variables_are_ignored(server: Server, typed: Typed, proxy: str) -> None:
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy")
    environ = dict.fromkeys(names, proxy)
    for arguments in ([], ["--token", sign()]):
        code, out, err = typed(*chat_command(server, *arguments, "hello"), **environ)
        assert (code, err) == (0, "")
        assert "HELLO" in out
    assert typed("check", "--url", server.url, **environ)[0] == 0


@pytest.mark.parametrize("arguments", [["--user", "alice"], ["--token", "x"]])
@pytest.mark.parametrize("url", ["nothing", "http://127.0.0.1:9/ws", "ws://127.0.0.1:port/ws"])
def test_invalid_urls(typed: Typed, url: str, arguments: list[str]) -> None:
    code, out, err = typed("chat", "--url", url, *arguments, "hello")
    assert (code, out) == (1, "")
    assert url in err
    assert "Traceback" not in err


def test_a_refusal_says_why(server: Server, typed: Typed, tmp_path: Path) -> None:
    code, out, err = run(
        [*NETRA, *chat_command(server, "--token", "wrong", "x")], directory=tmp_path
    )
    assert (code, out) == (1, "")
    assert err.startswith(f"refused by {server.url}: The token is not three parts in base64url")
    assert "Traceback" not in err
    both = chat_command(server, "--token", "x", "--user", "alice", "x")
    code, _, err = typed(*both)
    assert (code, err) == (1, "give --user or --token, not both\n")


def test_the_server_stops_during_a_chat(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    with serving(
        tmp_path, "--agent", "outside_agents:wait", WEBSOCKET_DRAIN_TIMEOUT="500"
    ) as server:
        with Process([*NETRA, *chat_command(server, "x")], directory=tmp_path, environ={}) as chat:
            chat.out.wait_for(lambda lines: "waiting forever" in lines)
            server.process.send_signal(signal.SIGTERM)
            assert chat.wait() == 1
            assert "The server is about to restart." in chat.out.lines
            assert INTERRUPTED in chat.out.lines
        assert server.process.wait() == 0


# --- chat, a conversation


def test_a_conversation_by_pipe(server: Server, tmp_path: Path) -> None:
    command = [*NETRA, *chat_command(server, "--agent", "whoami", "--user", "erin")]
    with Process(command, directory=tmp_path, environ={}, typed=True) as chat:
        chat.type("hello")
        chat.out.wait_for(lambda lines: "erin" in lines)
        chat.type("")
        chat.type("and again")
        chat.out.wait_for(lambda lines: lines.count("erin") == 2)
        chat.hang_up()
        assert chat.wait() == 0
        assert ESCAPE not in chat.out.text
        assert "> " not in chat.out.text


def test_ctrl_c_stops_the_run_and_then_quits(server: Server, tmp_path: Path) -> None:
    command = [*NETRA, *chat_command(server, "--agent", "wait")]
    with terminal(command, directory=tmp_path) as chat:
        chat.wait_for("Ctrl-C stops an answer")
        chat.wait_for("> ")
        chat.press("hello\r")
        chat.wait_for("waiting forever")
        chat.press(CTRL_C)
        chat.wait_for("(cancelled)")
        chat.wait_for("> ")
        # The run was stopped, not the chat.
        chat.press("again\r")
        chat.wait_for("waiting forever")
        chat.press(CTRL_C)
        chat.wait_for("(cancelled)")
        chat.wait_for("> ")
        chat.press(CTRL_C)
        chat.wait()
        assert "Traceback" not in chat.shown
        assert ESCAPE in chat.shown


def test_ctrl_d_quits(server: Server, tmp_path: Path) -> None:
    with terminal([*NETRA, *chat_command(server)], directory=tmp_path, NO_COLOR="1") as chat:
        chat.wait_for("> ")
        chat.press("hello\r")
        chat.wait_for("[upper] → HELLO")
        chat.wait_for("HELLO")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
        assert ESCAPE not in chat.shown


STUBBORN = """
import trio


async def stubborn(run):
    await run.emit("at work")
    try:
        await trio.sleep_forever()
    finally:
        print("asked to stop", flush=True)
        with trio.CancelScope(shield=True):
            await trio.sleep(120)
"""


def test_a_second_ctrl_c_quits_while_the_run_does_not_stop(tmp_path: Path) -> None:
    write_agents(tmp_path, STUBBORN)
    agent = "outside_agents:stubborn"
    with (
        serving(tmp_path, "--agent", agent, WEBSOCKET_DRAIN_TIMEOUT="0") as server,
        terminal([*NETRA, *chat_command(server, "x")], directory=tmp_path) as chat,
    ):
        chat.wait_for("at work")
        chat.press(CTRL_C)
        server.process.out.wait_for(lambda lines: "asked to stop" in lines)
        chat.press(CTRL_C)
        assert chat.wait() == 1
        assert "Traceback" not in chat.shown


# --- help


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([], ["serve", "token", "chat", "check"]),
        (["serve"], ["--host", "--port", "--agent", "module:object"]),
        (["token"], ["--user", "--expires", "--permission"]),
        (["chat"], ["--url", "--user", "--token", "--agent", "MESSAGE"]),
        (["check"], ["exit with 1"]),
    ],
    ids=lambda value: value[0] if value else "all",
)
def test_help(typed: Typed, command: list[str], expected: list[str]) -> None:
    code, out, err = typed(*command, "--help", COLUMNS="120")
    assert (code, err) == (0, "")
    for text in expected:
        assert text in out
    assert ESCAPE not in out


def test_version_and_unknown_options(typed: Typed) -> None:
    code, out, _ = typed("--version")
    assert code == 0
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\S*", out.strip())
    for arguments in (["no-such-command"], ["serve", "--no-such-option"], ["serve", "--port=x"]):
        code, out, err = typed(*arguments)
        assert code != 0
        assert "Traceback" not in out + err


def test_the_command_is_installed(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("netra-trio")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run(  # noqa: S603 - a test's own command line
        [str(command), "token", "--user", "alice"],
        cwd=tmp_path,
        env=clean_environ(tmp_path, {}),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    )
    assert jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])["sub"] == "alice"
