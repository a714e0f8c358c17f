"""The chat in the terminal while its server is killed, restarted, full, or absent."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import HOST, kept_port
from support.relay import relaying
from support.server import STARTING, Process, serving, sign, write_agents
from support.terminal import CTRL_C, CTRL_D, terminal

NETRA = ("-m", "netra_trio")
# The same command, with short pauses and few attempts.
QUICK_CHAT = """
import netra_trio.cli.chat
import netra_trio.client.retry
from netra_trio.cli.main import main

netra_trio.client.retry.BACK_OFF_SECONDS = (0.02, 0.05)
netra_trio.cli.chat.ATTEMPTS = 3
main()
"""
QUICK = ("-c", QUICK_CHAT)
# It reads its token when its modules are loaded, which may take longer than a short token is valid.
LOADED = "loaded"
READS_TOKEN = QUICK_CHAT.replace(
    "main()\n",
    f"""import sys
print("{LOADED}", flush=True)
sys.argv += ["--token", sys.stdin.readline().strip()]
main()
""",
)
VALID_SECONDS = 6
LOST = "Not connected: the connection was lost. Trying until it is back; Ctrl-C quits."
RESET = "Connected again; the server has lost this session and begun a new one."
INTERRUPTED = "(interrupted: the server ended before the answer did; ask again)"
AGENTS = """
import trio


async def count(run):
    for number in range(600):
        await run.emit(f"{number}\\n")
        await trio.sleep(0.005)


async def wait(run):
    await run.emit("at work\\n")
    await run.emit("waiting for ever")
    await trio.sleep_forever()


async def recall(run):
    for message in await run.history(10):
        await run.emit(f"{message.role} said: {message.content}\\n")
    await run.emit("that was all\\n")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS)
    return tmp_path


def agent(name: str) -> str:
    return f"--agent=outside_agents:{name}"


def test_the_server_is_killed_while_it_answers(folder: Path) -> None:
    with (
        kept_port() as port,
        serving(folder, agent("wait"), port=str(port)) as server,
        terminal([*QUICK, "chat", "--url", server.url], directory=folder) as chat,
    ):
        chat.wait_for("> ")
        chat.press("hello\r")
        chat.wait_for("waiting for ever")
        server.process.end(signal.SIGKILL)
        chat.wait_for(LOST)
        chat.wait_for("Still not connected: Connection refused.")
        with serving(folder, agent("recall"), agent("wait"), port=str(port)) as second:
            chat.wait_for(RESET)
            chat.wait_for(INTERRUPTED)
            chat.wait_for("> ")
            # It continues in the same thread, though the session is another one.
            chat.press("and now\r")
            chat.wait_for("user said: hello")
            chat.wait_for("that was all")
            chat.wait_for("> ")
            second.process.end(signal.SIGKILL)
            chat.wait_for(LOST)
            chat.wait_for("> ")
            chat.press("sent later\r")
            chat.wait_for("… it is sent when the connection is back")
            with serving(folder, agent("wait"), port=str(port)):
                chat.wait_for(RESET)
                chat.wait_for("waiting for ever")
                chat.press(CTRL_C)
                chat.wait_for("(cancelled)")
                chat.wait_for("> ")
                chat.press(CTRL_D)
                assert chat.wait() == 0
        assert "Traceback" not in chat.shown
        assert "waiting for ever\r\n" in chat.shown  # the note is not inside of the answer


def test_the_connection_is_cut_while_the_answer_streams(folder: Path) -> None:
    with serving(folder, agent("count")) as server, relaying(server.address) as relay:
        command = [*QUICK, "chat", "--url", f"ws://{relay.address}/ws", "count"]
        with Process(command, directory=folder, environ={}) as chat:
            for seen in (50, 200, 350):
                chat.out.wait_for(lambda lines, seen=seen: len(lines) > seen)  # type: ignore[misc]
                relay.drop()
            assert chat.wait() == 0, chat.err.text
        notes = [line for line in chat.out.lines if not line.isdigit()]
        lost = "Not connected: the connection was lost. Trying 3 times at most."
        assert notes == [lost, "Connected again; nothing was missed."] * 3
        assert [line for line in chat.out.lines if line.isdigit()] == [str(n) for n in range(600)]


def test_one_message_gives_up(folder: Path) -> None:
    with serving(folder, agent("wait")) as server:
        command = [*QUICK, "chat", "--url", server.url, "hello"]
        with Process(command, directory=folder, environ={}) as chat:
            chat.out.wait_for(lambda lines: "at work" in lines)
            server.process.end(signal.SIGKILL)
            assert chat.wait() == 1
            assert chat.err.lines == [
                f"cannot connect to {server.url}: Connection refused (attempts: 3)"
            ]


@contextmanager
def hanging_up(port: int) -> Iterator[list[int]]:
    """Accept and close connections; the list gets an item for each."""
    attempts: list[int] = []
    with socket.create_server((HOST, port)) as listener:

        def accept() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                attempts.append(1)
                line.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield attempts
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_conversation_does_not_give_up_until_ctrl_c(folder: Path) -> None:
    with (
        kept_port() as port,
        serving(folder, agent("wait"), port=str(port)) as server,
        terminal([*QUICK, "chat", "--url", server.url], directory=folder) as chat,
    ):
        chat.wait_for("> ")
        chat.press("hello\r")
        chat.wait_for("waiting for ever")
        server.process.end(signal.SIGKILL)
        chat.wait_for(LOST)
        with hanging_up(port) as attempts:
            while len(attempts) < 20:
                assert chat.popen.poll() is None
            # A run is in progress, but there is no server to stop it: one Ctrl-C quits.
            chat.press(CTRL_C)
            assert chat.wait() == 0
        assert "Traceback" not in chat.shown
        assert chat.shown.count("not connected") < 5


async def test_the_chat_waits_for_a_full_server(folder: Path) -> None:
    with serving(folder, agent("wait"), WEBSOCKET_MAX_CONNECTIONS="1") as server:
        async with server.connect():
            command = [*NETRA, "chat", "--url", server.url]
            with Process(command, directory=folder, environ={}, typed=True) as chat:
                full = "Not connected: All 1 places are taken."
                chat.out.wait_for(lambda lines: lines[:1] and lines[0].startswith(full))
                chat.send_signal(signal.SIGINT)
                assert chat.wait() == 0
                assert chat.err.lines == []
            waiting = Process(command, directory=folder, environ={}, typed=True)
            waiting.out.wait_for(lambda lines: lines[:1] and lines[0].startswith(full))
        with waiting:
            waiting.out.wait_for(lambda lines: "Connected." in lines)
            waiting.type("hello")
            waiting.out.wait_for(lambda lines: "at work" in lines)
            waiting.send_signal(signal.SIGINT)
            waiting.hang_up()
            assert waiting.wait() == 0


def test_the_server_restarts_with_another_secret(folder: Path) -> None:
    other = {"JWT_SECRET_KEY": "another-secret-that-signs-after-the-restart-of-48"}
    with (
        kept_port() as port,
        serving(folder, agent("recall"), port=str(port)) as server,
        Process(
            [*QUICK, "chat", "--url", server.url], directory=folder, environ={}, typed=True
        ) as chat,
    ):
        chat.type("one")
        chat.out.wait_for(lambda lines: "that was all" in lines)
        server.process.end(signal.SIGKILL)
        with serving(folder, agent("recall"), port=str(port), **other):
            chat.out.wait_for(lambda lines: RESET in lines)
            chat.type("two")
            chat.out.wait_for(lambda lines: "user said: one" in lines)
            chat.hang_up()
            assert chat.wait() == 0


def test_the_token_expires(folder: Path) -> None:
    with serving(folder, agent("wait")) as server:
        command = ["-c", READS_TOKEN, "chat", "--url", server.url, "hello"]
        with Process(command, directory=folder, environ={}, typed=True) as chat:
            chat.out.wait_for(lambda lines: LOADED in lines, STARTING)
            chat.type(sign(seconds=VALID_SECONDS))
            assert chat.wait() == 1
            assert chat.err.lines == [
                "the token has expired: start again with another one (--token)"
            ]
