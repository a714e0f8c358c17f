"""The command `serve`: runs the server."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from netra_trio.cli.arguments import OptionalText, Texts
from netra_trio.cli.errors import CommandError
from netra_trio.cli.serving import CommandServer, ServeOptions
from netra_trio.cli.streams import report
from netra_trio.config.loading import load
from netra_trio.server.sockets import CannotListen, listen
from netra_trio.telemetry import logs


def serve(
    *,
    host: Annotated[Texts, Parameter(negative=())] = ("127.0.0.1",),
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8000,
    agent: Annotated[Texts, Parameter(name="--agent", negative=(), show_default=False)] = (),
    model: OptionalText = None,
    base_url: OptionalText = None,
    mcp: Annotated[Texts, Parameter(name="--mcp", negative=(), show_default=False)] = (),
    system: OptionalText = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    open_page: Annotated[bool, Parameter(name="--open", negative=(), show_default=False)] = False,
    reload: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
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
        An agent as [NAME=]module:object, imported from the working directory too: an async function
        of a Run, or an agent of Pydantic AI, LangGraph, the OpenAI Agents SDK or Google ADK. May be
        given more than once; the first one answers messages that name no agent.
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
    reload
        For development: restart the server when a file in the working directory changes.
    """
    logs.configure()
    if keyfile is not None and certfile is None:
        raise CommandError("--keyfile: give its certificate too, as --certfile")
    options = ServeOptions(
        agent, certfile, keyfile, open_page, model=model, base_url=base_url, mcp=mcp, system=system
    )
    options.tls()  # its faults are reported before anything is opened
    loaded = load(os.environ, directory=Path.cwd())
    # With `reload`, an agent that cannot work is corrected while the command runs.
    server = None if reload else CommandServer.make(options, loaded)
    for warning in loaded.warnings:
        report(f"warning: {warning}")
    socks = _listen(host, port)
    if server is None:
        from netra_trio.cli.reload import supervise  # noqa: PLC0415 - for development only

        sys.exit(supervise(options, socks))
    server.run(socks)


def _listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    try:
        return listen(hosts, port)
    except CannotListen as error:
        advice = "; choose another port with --port, or a free one with --port 0"
        raise CommandError(f"{error}{advice if error.is_taken else ''}") from None
