"""The command `serve`: runs the server."""

import contextlib
import os
import socket
import ssl
import sys
import time
import webbrowser
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from netra_trio.auth.tokens import TokenVerifier
from netra_trio.cli.agent_import import import_agents
from netra_trio.cli.arguments import OptionalText, Texts
from netra_trio.cli.errors import CommandError
from netra_trio.cli.login import DEV_USER
from netra_trio.cli.streams import report
from netra_trio.config.loading import Loaded, load
from netra_trio.errors import SettingsError, leaves
from netra_trio.server.application import DEMO_AGENTS, Application, create_app
from netra_trio.server.exit import flush_or_exit
from netra_trio.server.run import serve as run_server
from netra_trio.server.sockets import CannotListen, listen, secure
from netra_trio.telemetry import logs
from netra_trio.telemetry.otlp import exporting

READY_TOKEN_SECONDS = 24 * 3600  # of the token that is printed: a day's work

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - only looked up


def serve(
    *,
    host: Annotated[Texts, Parameter(negative=())] = ("127.0.0.1",),
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8000,
    agent: Annotated[Texts, Parameter(name="--agent", negative=())] = (),
    model: OptionalText = None,
    base_url: OptionalText = None,
    mcp: Annotated[Texts, Parameter(name="--mcp", negative=())] = (),
    system: OptionalText = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    open_page: Annotated[bool, Parameter(name="--open", negative=())] = False,
) -> None:
    """Run the server; settings come from the environment, and development needs none.

    Parameters
    ----------
    host
        The address to listen on; `::` is every address of IPv6 and of IPv4. May be given more than
        once.
    port
        The port; 0 takes a free one and prints it.
    agent
        An agent as [NAME=]module:function, imported from the working directory too. May be given
        more than once; the first one answers messages that name no agent.
    model
        The name of a language model, which is the default agent, `chat`. The key of its server is
        in OPENAI_API_KEY, or in the file that OPENAI_API_KEY_FILE names.
    base_url
        The address of the model's server, such as http://localhost:11434/v1; OpenAI's by default.
    mcp
        An MCP server whose tools the model calls: a command, or the URL of an endpoint. May be
        given more than once.
    system
        The system prompt of the model.
    certfile
        The certificate for TLS, with its chain (PEM).
    keyfile
        Its private key (PEM); not needed if the certificate's file contains it.
    open_page
        Open the chat page in this machine's browser.
    """
    logs.configure()
    if keyfile is not None and certfile is None:
        raise CommandError("--keyfile: give its certificate too, as --certfile")
    tls = None if certfile is None else secure(certfile, keyfile)
    loaded = load(os.environ, directory=Path.cwd())
    agents = import_agents(agent) if agent else {}
    if model is not None or base_url is not None or mcp or system is not None:
        # Imported here: without a model, the start does not load an HTTP client.
        from netra_trio.cli.model_agent import with_model  # noqa: PLC0415

        agents = with_model(agents, model, base_url=base_url, mcp=mcp, system=system)
    agents = agents or dict(DEMO_AGENTS)
    for warning in loaded.warnings:
        report(f"warning: {warning}")
    application = create_app(agents=agents, settings=loaded.settings)
    try:
        socks = listen(host, port)
    except CannotListen as error:
        advice = "; choose another port with --port, or a free one with --port 0"
        raise CommandError(f"{error}{advice if error.is_taken else ''}") from None
    run = partial(_serve, application, loaded, list(agents), socks, tls, opens=open_page)
    with exporting(os.environ):
        trio.run(run)
    flush_or_exit()


async def _serve(
    application: Application,
    loaded: Loaded,
    agents: list[str],
    socks: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    *,
    opens: bool,
) -> None:
    wrong: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:

            async def serve_until_stopped(task_status: trio.TaskStatus[list[str]]) -> None:
                await run_server(application, socks, tls=tls, task_status=task_status)
                nursery.cancel_scope.cancel()  # the output and the browser may still be waited for

            addresses: list[str] = await nursery.start(serve_until_stopped)
            s = "" if tls is None else "s"
            greeting = f"{_greeting(loaded, agents, addresses, s)}\n"
            # In a thread: a reader that does not read, or has left, does not stop the server.
            write = partial(_write, greeting)
            nursery.start_soon(partial(trio.to_thread.run_sync, write, abandon_on_cancel=True))
            if opens:
                # Some browsers return only when they are closed.
                open_page = partial(webbrowser.open, f"http{s}://{_reachable(addresses[0])}/")
                await trio.to_thread.run_sync(open_page, abandon_on_cancel=True)
    except* SettingsError as group:
        wrong = next(leaves(group))
    if wrong is not None:
        raise wrong


def _write(text: str) -> None:
    # Not by `print`: at the end of the interpreter, a thread must not hold the lock of stdout.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), text.encode(sys.stdout.encoding, errors="replace"))


def _reachable(address: str) -> str:
    """Return an address for a browser: the address of all interfaces is not one."""
    host, _, port = address.rpartition(":")
    return f"{_ANY_ADDRESS.get(host, host)}:{port}"


def _greeting(loaded: Loaded, agents: list[str], addresses: list[str], s: str) -> str:
    address, *others = addresses
    environment = loaded.settings.environment
    verifier = TokenVerifier.of(loaded.settings)
    lines = [
        f"netra_trio {version('netra-trio')}, {environment}, agents: {', '.join(agents)}",
        f"Ready on http{s}://{address} (WebSocket: ws{s}://{address}/ws)",
    ]
    if environment == "development":
        hint = f"Talk to it:  netra-trio chat --url ws{s}://{address}/ws"
        if verifier.can_sign:
            token = verifier.sign(DEV_USER, expires_at=time.time() + READY_TOKEN_SECONDS)
            lines[1] += f", token of user {DEV_USER!r}: {token}"
            lines.append(hint)
        else:
            lines.append(f"{hint} --token TOKEN (from the login whose keys are at JWT_JWKS_URL)")
    lines += [f"Also on http{s}://{other}" for other in others]
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)
