"""The commands as parts of a shell's pipelines: closed, full and foreign streams and arguments."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from support.ports import HOST, kept_port
from support.server import PATIENCE, Process, Server, clean_environ, serving, write_agents
from support.terminal import CTRL_D, terminal

NETRA = ("-m", "netra_trio")
UP, HOME, BACKSPACE = "\x1b[A", "\x01", "\x7f"
NOT_UTF8 = b"gr\xfc\xdfe"  # in ISO 8859-1
AGENTS = """
import trio


async def count(run):
    for number in range(100_000):
        await run.emit(f"{number}\\n")


async def repeat(run):
    await run.emit(f"<{run.content}> € 😀\\n")


async def recall(run):
    for message in await run.history(10):
        await run.emit(f"{message.role}: {message.content}\\n")
    await run.emit("end\\n")


async def slow(run):
    await run.emit("begun\\n")
    await trio.sleep(0.5)
    await run.emit("done\\n")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    names = ("repeat", "count", "recall", "slow")
    agents = [f"--agent=outside_agents:{name}" for name in names]
    with serving(folder, *agents, WEBSOCKET_MAX_CONNECTIONS_PER_USER="50") as running:
        yield running


def shell(
    script: str, *arguments: str | bytes, folder: Path, data: bytes = b"", **environ: str
) -> tuple[int, bytes, bytes]:
    """Run a script of a shell, with `netra` as a function; return code, output and error output."""
    done = subprocess.run(  # noqa: S603 - a test's own command line
        ["/bin/bash", "-c", f'netra() {{ "$PYTHON" -m netra_trio "$@"; }}; {script}', "bash",
         *arguments],
        cwd=folder,
        env={**clean_environ(folder, environ), "PYTHON": sys.executable},
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Exception ignored" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout, done.stderr


# --- A reader that leaves.


def test_chat_ends_with_its_reader(server: Server, tmp_path: Path) -> None:
    script = 'netra chat --url "$1" --agent count x | head -n 3; echo "${PIPESTATUS[0]}"'
    code, out, err = shell(script, server.url, folder=tmp_path)
    assert (code, out.split(), err) == (0, [b"0", b"1", b"2", b"141"], b"")


@pytest.mark.parametrize("command", ["--help", "check", "user add a b", "token --user alice"])
def test_commands_end_with_their_reader(command: str, tmp_path: Path) -> None:
    script = f'netra {command} | (exec <&-; sleep 0.1); echo "${{PIPESTATUS[0]}}"'
    code, out, err = shell(script, folder=tmp_path, DATABASE_URL="sqlite:///x.db")
    assert (code, out.strip()) == (0, b"141")
    assert b"write" not in err


# --- A device that is full, and streams that are closed.


@pytest.mark.parametrize("command", ["--help", "check", "token --user alice", "user add alice"])
@pytest.mark.parametrize(
    ("target", "reason"),
    [(">/dev/full", b"No space left on device"), (">&-", b"Bad file descriptor")],
)
def test_output_that_cannot_be_written(
    command: str, target: str, reason: bytes, tmp_path: Path
) -> None:
    script = f"netra {command} {target}"
    code, out, err = shell(script, folder=tmp_path, DATABASE_URL="sqlite:///x.db")
    assert (code, out) == (1, b"")
    assert err.splitlines()[-1] == b"cannot write to standard output: " + reason


@pytest.mark.parametrize("target", [">/dev/full", ">&-"])
def test_a_chat_that_cannot_write(server: Server, target: str, tmp_path: Path) -> None:
    script = f'netra chat --url "$1" hello {target}'
    code, out, err = shell(script, server.url, folder=tmp_path)
    assert (code, out) == (1, b"")
    assert err.startswith(b"cannot write to standard output: ")


def test_a_chat_that_cannot_read(server: Server, tmp_path: Path) -> None:
    code, out, err = shell('netra chat --url "$1" <&-', server.url, folder=tmp_path)
    assert (code, err) == (1, b"cannot read standard input: Bad file descriptor\n")
    # One message needs no input.
    code, out, err = shell('netra chat --url "$1" hello <&-', server.url, folder=tmp_path)
    assert (code, out.decode(), err) == (0, "<hello> € 😀\n", b"")


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full"])
def test_errors_that_cannot_be_written(target: str, tmp_path: Path) -> None:
    script = f"netra token --user '' {target}"
    assert shell(script, folder=tmp_path) == (1, b"", b"")


def check_server(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Check that a server answers, and that it drains."""
    try:
        transport = httpx2.HTTPTransport(retries=10)  # with back-off, until it listens
        with httpx2.Client(transport=transport, timeout=PATIENCE) as http:
            health = http.get(f"http://{HOST}:{port}/ws/health")
        assert health.json()["status"] == "healthy"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("streams", [">/dev/full", "<&- >&-", "<&- >&- 2>&-", "> >(exec sleep 0)"])
def test_a_server_needs_no_streams(streams: str, tmp_path: Path) -> None:
    """Its sockets do not take the place of closed streams, and it drains as usual."""
    with kept_port() as port:
        script = f'exec "{sys.executable}" -m netra_trio serve --port {port} {streams}'
        with subprocess.Popen(  # noqa: S603 - a test's own command line
            ["/bin/bash", "-c", script], cwd=tmp_path, env=clean_environ(tmp_path, {})
        ) as process:
            check_server(process, port)


def test_a_server_does_not_wait_for_the_reader_of_its_output(tmp_path: Path) -> None:
    """The pipe is full before the server starts, and no process reads it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with (
        kept_port() as port,
        subprocess.Popen(  # noqa: S603 - a test's own command line
            [sys.executable, *NETRA, "serve", "--port", str(port)],
            cwd=tmp_path,
            env=clean_environ(tmp_path, {}),
            stdout=writer,
        ) as process,
    ):
        check_server(process, port)
    os.close(reader)
    os.close(writer)


# --- Other encodings.


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_an_output_that_is_not_utf8(server: Server, encoding: str, tmp_path: Path) -> None:
    script = 'netra chat --url "$1" "$2"; netra --help; netra check --url "$1"'
    code, out, err = shell(script, server.url, "grüße", folder=tmp_path, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    greeting = "<grüße> € 😀\n".encode(encoding, errors="replace")
    assert out.startswith(greeting)
    assert b"Everything works" in out


def test_an_input_that_is_not_utf8(server: Server, tmp_path: Path) -> None:
    script = 'netra chat --url "$1"'
    typed = NOT_UTF8 + b"\n"
    code, out, _ = shell(
        script, server.url, folder=tmp_path, data=typed, PYTHONIOENCODING="iso8859-1"
    )
    assert code == 0
    assert b"<" + NOT_UTF8 + b">" in out
    code, out, _ = shell(script, server.url, folder=tmp_path, data=typed)  # bytes that are not text
    assert code == 0
    assert "<gr��e>" in out.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        (b"chat", NOT_UTF8),
        (b"chat", b"--agent", NOT_UTF8, b"x"),
        (b"chat", b"--thread", NOT_UTF8, b"x"),
        (b"chat", b"--user", NOT_UTF8, b"x"),
        (b"chat", b"--token", NOT_UTF8, b"x"),
        (b"chat", b"--url", b"ws://" + NOT_UTF8, b"x"),
        (b"check", b"--url", b"ws://" + NOT_UTF8),
        (b"token", b"--user", NOT_UTF8),
        (b"token", b"--user", b"a", b"--permission", NOT_UTF8),
        (b"user", b"add", b"bob", NOT_UTF8),
        (b"serve", b"--host", NOT_UTF8),
        (b"serve", b"--agent", NOT_UTF8),
        (b"serve", b"--port", NOT_UTF8),
        (NOT_UTF8,),
    ],
    ids=lambda arguments: b" ".join(arguments).decode(errors="replace"),
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_arguments_that_are_not_text(
    arguments: tuple[bytes, ...], encoding: str, tmp_path: Path
) -> None:
    script = f'PYTHONIOENCODING={encoding} netra "$@"'
    code, out, err = shell(script, *arguments, folder=tmp_path, DATABASE_URL="sqlite:///x.db")
    assert code in {1, 2}
    assert out == b""
    assert b"gr" in err


def test_a_file_name_that_is_not_text(tmp_path: Path) -> None:
    script = 'netra serve --certfile "$1"'
    code, _, err = shell(script, NOT_UTF8 + b".pem", folder=tmp_path)
    assert code == 1
    assert b"No such file or directory" in err


# --- An address that is in use.


def test_an_address_in_use_names_the_option(server: Server, tmp_path: Path) -> None:
    code, out, err = shell(f"netra serve --port {server.port}", folder=tmp_path)
    assert (code, out) == (1, b"")
    assert err.decode() == (
        f"cannot listen on {HOST} port {server.port}: Address already in use; "
        "choose another port with --port, or a free one with --port 0\n"
    )


# --- A terminal.


def test_lines_are_edited_and_recalled(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    with terminal([*NETRA, "chat", "--url", server.url], directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press(f"ellox{BACKSPACE}{HOME}h\r")
        chat.wait_for("<hello>")
        chat.wait_for("> ")
        chat.press("second\r")
        chat.wait_for("<second>")
        chat.wait_for("> ")
        chat.press(f"{UP}{UP}\r")
        chat.wait_for("<hello>")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
        assert "Traceback" not in chat.shown


def test_a_note_repeats_what_is_typed(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    with (
        serving(tmp_path) as server,
        terminal([*NETRA, "chat", "--url", server.url], directory=tmp_path) as chat,
    ):
        chat.wait_for("> ")
        chat.press("half a li")
        chat.wait_for("half a li")
        server.process.end(signal.SIGKILL)
        chat.wait_for("Not connected: the connection was lost.")
        chat.wait_for("> half a li")
        chat.press("\x03")  # a line that is typed is not lost by one key
        chat.wait_for("Ctrl-C again quits")
        chat.press("\x03")
        chat.wait()
        assert "Traceback" not in chat.shown


def test_the_terminal_is_restored(server: Server, tmp_path: Path) -> None:
    """A line editor that is left by Ctrl-C leaves the echo on."""
    script = (
        "import os, subprocess, sys, termios\n"
        "def echo(): return bool(termios.tcgetattr(0)[3] & termios.ECHO)\n"
        "assert echo()\n"
        "subprocess.run([sys.executable, '-m', 'netra_trio', 'chat', '--url', sys.argv[1]])\n"
        "print('echo is', echo(), flush=True)\n"
    )
    with terminal(
        ["-c", f"import signal; signal.signal(2, lambda *_: None)\n{script}", server.url],
        directory=tmp_path,
    ) as chat:
        chat.wait_for("> ")
        chat.press("abc\x03")
        chat.wait_for("echo is True")
        assert chat.wait() == 0


def test_a_thread_is_continued(server: Server, tmp_path: Path) -> None:
    def chat(*arguments: str) -> list[str]:
        command = [*NETRA, "chat", "--url", server.url, "--thread", "shopping", *arguments]
        with Process(command, directory=tmp_path, environ={}) as process:
            assert process.wait() == 0, process.err.text
            return process.out.lines

    assert chat("--agent", "repeat", "milk") == ["<milk> € 😀"]
    assert chat("--agent", "recall", "what?") == ["user: milk", "agent: <milk> € 😀", "", "end"]
