"""The command line `netra-trio`: the commands, and how errors become exit codes.

A command's module is imported when the command runs, so `--help` does not load a server.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import NoReturn

import cyclopts

from netra_trio.cli import streams
from netra_trio.cli.errors import CommandError
from netra_trio.errors import SettingsError, leaves

INTERRUPTED = 130  # the exit code after Ctrl-C: 128 + SIGINT, as shells count

app = cyclopts.App(
    name="netra-trio",
    help="A WebSocket server on Trio that puts AI agents in front of users.",
    version=version("netra-trio"),
)
app.command(
    "netra_trio.cli.serve:serve",
    name="serve",
    help="Run the server; settings come from the environment, and development needs none.",
)
app.command(
    "netra_trio.cli.token:token",
    name="token",
    help="Print a token (JWT) signed with the configured secret.",
)
app.command(
    "netra_trio.cli.chat:chat",
    name="chat",
    help="Talk to an agent in the terminal; Ctrl-C stops an answer, a second one quits.",
)
app.command(
    "netra_trio.cli.check:check",
    name="check",
    help="Show every setting, or test a running server; exit with 1 if something is wrong.",
)
app.command(
    "netra_trio.cli.usage:usage",
    name="usage",
    help="Sum what agents have used of models, as they have reported it.",
)
app.command(
    "netra_trio.cli.runs:runs",
    name="runs",
    help="List the runs that have not ended, on all nodes, or stop one of them.",
)
app.command(
    "netra_trio.cli.user:users",
    name="user",
    help="Add, disable, enable, list, export and delete users.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit.

    An error that its user can fix is one line on standard error, with exit code 1.
    """
    exit_after(partial(_run, arguments))


def exit_after(run: Callable[[], int]) -> NoReturn:
    """Call a function that returns the exit code, and exit; errors are reported as by `main`."""
    streams.prepare()
    try:
        code = run()
        streams.finish()
    except BaseException as error:
        code = _report(error)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _report(error: BaseException) -> int:
    """Report an expected error, and return the exit code; raise any other one."""
    if (logs := sys.modules.get("netra_trio.telemetry.logs")) is not None:
        logs.flush()  # a thread writes them: they come before the error
    found = list(leaves(error))
    first = found[0]
    if all(isinstance(each, streams.OutputError) for each in found):
        return _report_output(first)
    if all(isinstance(each, KeyboardInterrupt) for each in found):
        return INTERRUPTED
    if isinstance(first, CommandError | SettingsError) and len(found) == 1:
        streams.report(first)
        return 1
    raise error


def _report_output(error: BaseException) -> int:
    streams.discard()
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        # The reader of the output has left, as `head` does: end as the signal ends other programs.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    streams.report(f"cannot write to standard output: {reason}")
    return 1
