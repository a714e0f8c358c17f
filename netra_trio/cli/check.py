"""The command `check`: tests the settings, or a running server."""

import os
from functools import partial
from pathlib import Path

import trio
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from netra_trio.cli.arguments import OptionalText
from netra_trio.cli.check_server import Outcome, StepResult, check_server
from netra_trio.cli.check_services import check_services
from netra_trio.cli.errors import CommandError
from netra_trio.cli.login import DEV_USER, signer
from netra_trio.config.loading import describe, load

TOKEN_SECONDS = 300  # of the token that is signed here: the test takes a minute at most

_COLOURS = {Outcome.OK: "green", Outcome.WRONG: "bold red", Outcome.SKIPPED: "dim"}


def check(
    *,
    url: OptionalText = None,
    user: OptionalText = None,
    token: OptionalText = None,
    origin: OptionalText = None,
) -> None:
    """Show every setting, or test a running server; exit with 1 if something is wrong.

    Without --url: every setting, its source, and whether database, key server and broker answer.
    With it: discovery, clock, health, ticket, connection, ping and resume, each with what is wrong
    and what to do.

    Parameters
    ----------
    url
        The WebSocket of a running server, such as wss://example.com/ws.
    user
        The user, if the server gives tokens to developers or its secret is set here.
    token
        A token to use instead of a user.
    origin
        The origin of a page to connect from, such as https://app.example.com; none without it.
    """
    if url is None:
        if (user, token, origin) != (None, None, None):
            raise CommandError("--user, --token and --origin are for a server: give its --url too")
        _check_settings()
        return
    if user is not None and token is not None:
        raise CommandError("give --user or --token, not both")
    console = Console(highlight=False, soft_wrap=True)  # one line for each step, however long
    test = partial(
        check_server,
        url,
        tell=partial(_show_step, console),
        user=user or DEV_USER,
        token=token,
        sign=signer(os.environ, Path.cwd(), seconds=TOKEN_SECONDS),
        origin=origin,
    )
    if not trio.run(test):
        raise CommandError("Something is wrong on the way to the server.")
    console.print("Everything works as a client sees it.")


def _show_step(console: Console, step: StepResult) -> None:
    outcome = (f"{step.outcome.value:8}", _COLOURS[step.outcome])
    console.print(Text.assemble(outcome, (f"{step.name:10}", "bold"), step.text))
    if step.advice:
        console.print(Text(f"{'':18}{step.advice}"))


def _check_settings() -> None:
    loaded = load(os.environ, directory=Path.cwd())
    console = Console(highlight=False)
    for name, value, source, meaning in describe(loaded):
        console.print(Text.assemble((name, "bold"), f" = {value} ", (f"({source})", "dim")))
        console.print(Padding(Text(meaning, "dim"), (0, 0, 0, 4)))
    for warning in loaded.warnings:
        console.print(f"warning: {warning}", markup=False)
    answers = trio.run(check_services, loaded.settings)
    for service, (_, text) in answers.items():
        console.print(f"{service}: {text}", markup=False, soft_wrap=True)  # one line
    if not all(is_well for is_well, _ in answers.values()):
        raise CommandError(
            "The settings are valid, but a service that they name does not answer as needed."
        )
    console.print("Everything can be used as it is set.")
