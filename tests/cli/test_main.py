"""The command line as a whole: what it loads, and its help."""

import inspect
import subprocess
import sys

import pytest
from support.server import STARTING

from netra_trio.cli.main import app

COMMANDS = ["chat", "check", "serve", "token", "user"]
HELP_ONLY = """
import sys
from netra_trio.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"netra_trio.server", "netra_trio.client", "sqlalchemy", "httpx2", "structlog"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_the_help_does_not_load_a_server_or_a_client() -> None:
    subprocess.run(  # noqa: S603 - a test's own program
        [sys.executable, "-c", HELP_ONLY],
        check=True,
        timeout=STARTING,
        stdout=subprocess.DEVNULL,
    )


def test_the_commands() -> None:
    assert sorted(name for name in app if not name.startswith("-")) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_and_their_own_help_agree(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app.help_print([])
    listed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    command = app[name]
    function = command.default_command
    summary = command.help if function is None else inspect.getdoc(function)
    assert summary is not None
    assert f"{name} {summary.partition(chr(10))[0]}" in listed
