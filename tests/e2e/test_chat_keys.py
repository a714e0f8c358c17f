"""The keys of a chat in a terminal: line editing, recalled lines, Ctrl-C with a typed line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, serving, write_agents
from support.terminal import CTRL_C, CTRL_D, terminal

NETRA = ("-m", "netra_trio")
UP, LEFT, HOME = "\x1b[A", "\x1b[D", "\x01"
AGENTS = """
async def echo(run):
    await run.emit(f"<{run.content}>")


async def other(run):
    await run.emit(f"other of {run.thread_id}")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    agents = [f"--agent=outside_agents:{name}" for name in ("echo", "other")]
    with serving(folder, *agents) as running:
        yield running


def test_lines_are_edited_and_recalled(server: Server, tmp_path: Path) -> None:
    command = [*NETRA, "chat", "--url", server.url]
    with terminal(command, directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press(f"hallo{LEFT * 3}\x7fe\r")
        chat.wait_for("<hello>")
        chat.wait_for("> ")
        chat.press(f"{UP}{HOME}again \r")
        chat.wait_for("<again hello>")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
    file = tmp_path / ".local" / "state" / "netra-trio" / "chat_history"
    assert file.read_text() == "hello\nagain hello\n"
    assert file.stat().st_mode & 0o777 == 0o600
    with terminal(command, directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press(f"{UP}{UP}\r")
        chat.wait_for("<hello>")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0


def test_ctrl_c_keeps_a_line_that_is_typed(server: Server, tmp_path: Path) -> None:
    with terminal([*NETRA, "chat", "--url", server.url], directory=tmp_path) as chat:
        chat.wait_for("> ")
        chat.press("half a li")
        chat.wait_for("half a li")
        chat.press(CTRL_C)
        chat.wait_for("Ctrl-C again quits; Ctrl-U clears the line.")
        chat.wait_for("> half a li")
        chat.press("ne\r")
        chat.wait_for("<half a line>")
        chat.wait_for("> ")
        chat.press("once more")
        chat.wait_for("once more")
        chat.press(CTRL_C)
        chat.wait_for("Ctrl-C again quits")
        chat.press(CTRL_C)
        chat.wait()
        assert "Traceback" not in chat.shown
        assert "<once more" not in chat.shown


def test_the_agent_and_the_thread_of_a_conversation(server: Server, tmp_path: Path) -> None:
    chosen = ["--agent", "other", "--thread", "my-thread"]
    with terminal([*NETRA, "chat", "--url", server.url, *chosen], directory=tmp_path) as chat:
        for _ in range(2):
            chat.wait_for("> ")
            chat.press("hello\r")
            chat.wait_for("other of my-thread")
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.wait() == 0
