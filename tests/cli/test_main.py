"""The command line as a whole: what it loads, and its help."""

import errno
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from support.server import STARTING

from netra_trio.cli import main as main_module
from netra_trio.cli import streams
from netra_trio.cli.errors import CommandError
from netra_trio.cli.main import app, main

COMMANDS = ["chat", "check", "runs", "serve", "token", "usage", "user"]
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


def raising(error: BaseException) -> Callable[[Sequence[str] | None], None]:
    def command(_: Sequence[str] | None) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (CommandError("Give a user."), 1, "Give a user.\n"),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("", [KeyboardInterrupt(), KeyboardInterrupt()]), 130, ""),
        (
            streams.OutputError(errno.ENOSPC, "No space left on device"),
            1,
            "cannot write to standard output: No space left on device\n",
        ),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(main_module, "app", raising(error))
    monkeypatch.setattr(streams, "discard", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code
    assert capsys.readouterr().err.endswith(text)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a fault"),
        ExceptionGroup("two", [CommandError("one"), CommandError("two")]),
        BaseExceptionGroup("mixed", [KeyboardInterrupt(), RuntimeError("a fault")]),
    ],
)
def test_an_unexpected_error_keeps_its_traceback(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_module, "app", raising(error))
    with pytest.raises(type(error)) as raised:
        main([])
    assert raised.value is error


def test_an_output_without_a_reader_ends_the_program_as_its_signal_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers: list[tuple[int, object]] = []
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(main_module, "app", raising(streams.OutputError(errno.EPIPE, "closed")))
    monkeypatch.setattr(streams, "discard", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *given: handlers.append(given))
    monkeypatch.setattr(os, "kill", lambda *given: sent.append(given))
    with pytest.raises(SystemExit):
        main([])
    assert handlers == [(signal.SIGPIPE, signal.SIG_DFL)]
    assert sent == [(os.getpid(), signal.SIGPIPE)]
