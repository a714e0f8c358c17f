"""The command line `netra-trio`: the commands, and how errors become exit codes.

A command's module is imported when the command runs, so `--help` does not load a server.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import cyclopts

from netra_trio.cli.errors import CommandError
from netra_trio.errors import SettingsError

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
app.command("netra_trio.cli.user:users", name="user", help="Add, disable, enable and list users.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that its user can fix is one line, with exit code 1."""
    try:
        app(arguments)
    except (CommandError, SettingsError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's own output
        sys.exit(1)
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
