"""The commands: serve, token, chat, user, check."""

import importlib
import inspect
import os
import re
import socket
import ssl
import sys
import time
import webbrowser
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from netra_trio.agents.run import Agent
from netra_trio.auth.identity import USER_ID_CHARACTERS, is_user_id
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.cli.chat import ChatError, chat
from netra_trio.cli.checkup import BadAddress, Outcome, Step, check_up
from netra_trio.cli.login import signer
from netra_trio.cli.operate import (
    OperatorError,
    add_user,
    ask_database,
    ask_key_server,
    list_users,
    set_user_enabled,
)
from netra_trio.config.loading import Loaded, describe, load
from netra_trio.config.settings import Settings
from netra_trio.errors import SettingsError, leaves
from netra_trio.server.application import DEMO_AGENTS, Application, create_app
from netra_trio.server.run import serve
from netra_trio.server.sockets import CannotListen, listen, secure
from netra_trio.telemetry.logs import configure
from netra_trio.telemetry.otlp import exporting

CHECK_TOKEN_SECONDS = 300  # of the token that `check` signs: the walk takes a minute at most
READY_TOKEN_SECONDS = 24 * 3600  # of the token that `serve` prints: a day's work
DEV_USER = "dev"

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - only looked up
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

app = cyclopts.App(
    name="netra-trio",
    help="A WebSocket server on Trio that puts AI agents in front of users.",
    version=version("netra-trio"),
)


class UsageError(Exception):
    """What was typed cannot be done; the text says what to type instead."""


@app.command(name="serve")
def serve_command(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=0, lte=65_535))] = 8000,
    agent: Annotated[tuple[str, ...], Parameter(name="--agent", negative=())] = (),
    certfile: str | None = None,
    keyfile: str | None = None,
    open_page: Annotated[bool, Parameter(name="--open", negative=())] = False,
) -> None:
    """Run the server: settings come from the environment, in development none is needed.

    Parameters
    ----------
    host
        The address to listen on.
    port
        The port; 0 takes a free one and prints it.
    agent
        An agent as [NAME=]module:function, imported from the working directory too. May be given
        more than once; the first one answers where a message names none.
    certfile
        The certificate to speak TLS with, with those it depends on (PEM).
    keyfile
        Its private key (PEM); not needed where the certificate's file has it.
    open_page
        Open the chat page in this machine's browser.
    """
    configure()
    if keyfile is not None and certfile is None:
        raise UsageError("--keyfile: give its certificate too, as --certfile")
    tls = None if certfile is None else secure(certfile, keyfile)
    loaded = _load()
    agents = _import_agents(agent) if agent else dict(DEMO_AGENTS)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201 - a command's own output
    application = create_app(agents=agents, settings=loaded.settings)
    run = partial(_serve, application, loaded, list(agents), listen(host, port), tls)
    with exporting(os.environ):
        trio.run(partial(run, opens=open_page))


async def _serve(
    application: Application,
    loaded: Loaded,
    agents: list[str],
    sock: socket.socket,
    tls: ssl.SSLContext | None,
    *,
    opens: bool,
) -> None:
    wrong: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(serve, tls=tls), application, sock)
            s = "" if tls is None else "s"
            _greet(loaded, agents, address, s)
            if opens:
                # Some browsers return only when they are closed: nobody waits for them at the end.
                open_page = partial(webbrowser.open, f"http{s}://{_reachable(address)}/")
                await trio.to_thread.run_sync(open_page, abandon_on_cancel=True)
    except* SettingsError as group:
        wrong = next(leaves(group))
    if wrong is not None:
        raise wrong


def _reachable(address: str) -> str:
    """Return an address that a browser can go to: one that means every interface is none."""
    host, _, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}:{port}"


def _greet(loaded: Loaded, agents: list[str], address: str, s: str) -> None:
    environment = loaded.settings.environment
    verifier = TokenVerifier.of(loaded.settings)
    lines = [
        f"netra_trio {version('netra-trio')}, {environment}, agents: {', '.join(agents)}",
        f"Ready on http{s}://{address} (WebSocket: ws{s}://{address}/ws)",
    ]
    if environment == "development":
        hint = f"Talk to it:  netra-trio chat --url ws{s}://{address}/ws"
        if verifier.can_sign:
            token = _sign(verifier, DEV_USER, READY_TOKEN_SECONDS)
            lines[1] += f", token of user {DEV_USER!r}: {token}"
            lines.append(hint)
        else:
            lines.append(f"{hint} --token TOKEN (from the login whose keys are at JWT_JWKS_URL)")
    lines.append("Ctrl-C stops it.")
    print("\n".join(lines), flush=True)  # noqa: T201 - a command's own output


@app.command
def token(
    *,
    user: str,
    expires: str = "1h",
    permission: Annotated[tuple[str, ...], Parameter(name="--permission", negative=())] = (),
) -> None:
    """Print a token (JWT) signed with the configured secret.

    Parameters
    ----------
    user
        The user's id: the token's subject.
    expires
        How long it is good for: a number and s, m, h or d.
    permission
        A permission to grant, such as netra:admin; may be given more than once.
    """
    duration = _DURATION.fullmatch(expires)
    if duration is None:
        raise UsageError(f"--expires: expected something like 30m, 1h or 7d, got {expires!r}")
    if not is_user_id(user):
        expected = f"a printable text of 1 to {USER_ID_CHARACTERS} characters"
        raise UsageError(f"--user: expected {expected}, got {user!r}")
    seconds = int(duration[1]) * _SECONDS[duration[2]]
    verifier = TokenVerifier.of(_load().settings)
    print(_sign(verifier, user, seconds, permission))  # noqa: T201 - a command's own output


@app.command(name="chat")
def chat_command(
    message: str | None = None,
    /,
    *,
    url: str = "ws://127.0.0.1:8000/ws",
    user: str | None = None,
    token: str | None = None,
    agent: str | None = None,
) -> None:
    """Talk to an agent in the terminal; Ctrl-C stops its answer, a second one leaves.

    Parameters
    ----------
    message
        One message: print the answer and leave. Without it, a conversation.
    url
        The server's WebSocket.
    user
        Who to be, where the server gives tokens to developers or its secret is set here.
    token
        A token to come in with, instead of a user.
    agent
        The agent to talk to; the server's default without it.
    """
    if user is not None and token is not None:
        raise UsageError("give --user or --token, not both")
    code = trio.run(
        partial(chat, url, message=message, user=user or DEV_USER, token=token, agent=agent)
    )
    sys.exit(code)


@app.command
def check(
    *,
    url: str | None = None,
    user: str | None = None,
    token: str | None = None,
    origin: str | None = None,
) -> None:
    """Show every setting, or walk to a running server; exit with 1 if something is wrong.

    Without --url: every setting, where it came from, and whether database and key server answer.
    With it: discovery, clock, health, a ticket, a connection, a ping and a resume, each with what
    is wrong and what to do.

    Parameters
    ----------
    url
        The WebSocket of a running server, such as wss://example.com/ws.
    user
        Who to be, where the server gives tokens to developers or its secret is set here.
    token
        A token to come in with, instead of a user.
    origin
        The page to come from, such as https://app.example.com; none without it.
    """
    if url is None:
        if (user, token, origin) != (None, None, None):
            raise UsageError("--user, --token and --origin are for a server: give its --url too")
        _check_settings()
        return
    if user is not None and token is not None:
        raise UsageError("give --user or --token, not both")
    console = Console(highlight=False, soft_wrap=True)  # a line for each step, however long
    walk = partial(
        check_up,
        url,
        tell=partial(_tell_step, console),
        user=user or DEV_USER,
        token=token,
        sign=signer(os.environ, Path.cwd(), seconds=CHECK_TOKEN_SECONDS),
        origin=origin,
    )
    if not trio.run(walk):
        raise UsageError("Something is wrong on the way to the server.")
    console.print("Everything works as a client sees it.")


_COLOURS = {Outcome.WELL: "green", Outcome.WRONG: "bold red", Outcome.SKIPPED: "dim"}


def _tell_step(console: Console, step: Step) -> None:
    outcome = (f"{step.outcome.value:8}", _COLOURS[step.outcome])
    console.print(Text.assemble(outcome, (f"{step.name:10}", "bold"), step.told))
    if step.advice:
        console.print(Text(f"{'':18}{step.advice}"))


def _check_settings() -> None:
    loaded = _load()
    console = Console(highlight=False)
    for name, value, source, meaning in describe(loaded):
        console.print(Text.assemble((name, "bold"), f" = {value} ", (f"({source})", "dim")))
        console.print(Padding(Text(meaning, "dim"), (0, 0, 0, 4)))
    for warning in loaded.warnings:
        console.print(f"warning: {warning}", markup=False)
    answers = trio.run(_ask_all, loaded.settings)
    for what, (_, told) in answers.items():
        console.print(f"{what}: {told}", markup=False)
    if not all(is_well for is_well, _ in answers.values()):
        raise UsageError("The settings are right, but not everything that they name answers.")
    console.print("Everything can be used as it is set.")


async def _ask_all(settings: Settings) -> dict[str, tuple[bool, str]]:
    answers = {
        "database": await ask_database(settings),
        "key server": await ask_key_server(settings),
    }
    return {what: answer for what, answer in answers.items() if answer is not None}


users = cyclopts.App(name="user", help="Add, disable, enable and list users.")
app.command(users)


@users.command(name="add")
def user_add(*user: str) -> None:
    """Add users, so that they may come in with a good token.

    Parameters
    ----------
    user
        The user's id: the subject of the user's tokens. One or more.
    """
    settings = _settings_of_users()
    for name in _some(user):
        is_new = trio.run(add_user, settings, name)
        print(f"{name}: {'added' if is_new else 'was there already'}")  # noqa: T201 - a command's own output


@users.command(name="disable")
def user_disable(*user: str) -> None:
    """Disable users: they are refused, and connections of theirs end within a minute (4403).

    Parameters
    ----------
    user
        The user's id. One or more.
    """
    _set_enabled(user, enabled=False)


@users.command(name="enable")
def user_enable(*user: str) -> None:
    """Enable users who were disabled.

    Parameters
    ----------
    user
        The user's id. One or more.
    """
    _set_enabled(user, enabled=True)


@users.command(name="list")
def user_list() -> None:
    """List every user by id, and whether the user is enabled."""
    for name, is_enabled in trio.run(list_users, _settings_of_users()):
        print(f"{name}\t{_STATE[is_enabled]}")  # noqa: T201 - a command's own output


_STATE = {True: "enabled", False: "disabled"}


def _set_enabled(names: tuple[str, ...], *, enabled: bool) -> None:
    settings = _settings_of_users()
    for name in _some(names):
        trio.run(partial(set_user_enabled, enabled=enabled), settings, name)
        print(f"{name}: {_STATE[enabled]}")  # noqa: T201 - a command's own output


def _settings_of_users() -> Settings:
    configure()  # to the error output: that a database was made, if it was
    return _load().settings


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise UsageError("expected a user id, got nothing")
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what a user can mend is said in a line, with exit code 1."""
    try:
        app(arguments)
    except (
        BadAddress,
        CannotListen,
        ChatError,
        OperatorError,
        SettingsError,
        UsageError,
    ) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's own output
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _load() -> Loaded:
    return load(os.environ, directory=Path.cwd())


def _sign(verifier: TokenVerifier, user: str, seconds: int, permissions: Sequence[str] = ()) -> str:
    return verifier.sign(user, expires_at=time.time() + seconds, permissions=permissions)


def _import_agents(specs: Sequence[str]) -> dict[str, Agent]:
    sys.path.insert(0, str(Path.cwd()))
    agents: dict[str, Agent] = {}
    for spec in specs:
        name, agent = _import_agent(spec)
        if name in agents:
            raise UsageError(f"--agent: the name {name!r} is given twice; use NAME=module:function")
        agents[name] = agent
    return agents


def _import_agent(spec: str) -> tuple[str, Agent]:
    name, _, place = spec.rpartition("=")
    module_name, colon, function_name = place.partition(":")
    if not (module_name and colon and function_name):
        raise UsageError(f"--agent: expected [NAME=]module:function, got {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"--agent {spec}: {error}") from None
    agent: Any = getattr(module, function_name, None)
    if agent is None:
        raise UsageError(f"--agent {spec}: {module_name} has no {function_name}")
    if not inspect.iscoroutinefunction(agent):
        raise UsageError(f"--agent {spec}: expected an async function of a Run")
    return name or function_name, agent
