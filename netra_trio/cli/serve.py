"""The command `serve`: runs the server."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from netra_trio.cli.arguments import Flag, OptionalText, Texts
from netra_trio.cli.errors import CommandError
from netra_trio.cli.serving import CommandServer, ServeOptions, reloaded_settings
from netra_trio.cli.streams import report
from netra_trio.config.loading import load
from netra_trio.config.settings import Settings
from netra_trio.server.sockets import CannotListen, listen_for_workers
from netra_trio.stores.sql.database import is_in_memory
from netra_trio.telemetry import logs

MOST_WORKERS = 64


def serve(
    *,
    host: Annotated[Texts, Parameter(negative=())] = ("127.0.0.1",),
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8000,
    agent: Annotated[Texts, Parameter(name="--agent", negative=(), show_default=False)] = (),
    model: OptionalText = None,
    base_url: OptionalText = None,
    mcp: Annotated[Texts, Parameter(name="--mcp", negative=(), show_default=False)] = (),
    system: OptionalText = None,
    rooms: OptionalText = None,
    door: Annotated[Texts, Parameter(name="--door", negative=(), show_default=False)] = (),
    certfile: str | None = None,
    keyfile: str | None = None,
    open_page: Annotated[bool, Parameter(name="--open", negative=(), show_default=False)] = False,
    reload: Flag = False,
    workers: int = 1,
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
    rooms
        The async function for permissions in rooms, as module:function. It gets a user, a room and
        an action (join, publish, see or answer). Without it only the server's own rooms exist.
    door
        Another protocol through which clients reach the agents: openai, vercel, ag-ui or events.
        May be given more than once; it replaces DOORS.
    certfile
        The certificate for TLS, with its chain (PEM).
    keyfile
        Its private key (PEM); not needed if the certificate's file contains it.
    open_page
        Open the chat page in this machine's browser.
    reload
        For development: restart the server when a file in the working directory changes.
    workers
        The number of processes that share the port, 1 to 64: about one for each core. Several need
        a Valkey or Redis at REDIS_URL. Without it the command runs a private one: a valkey-server
        or redis-server that is installed, or the one of `pip install 'netra-trio[workers]'`.
    """
    logs.configure()
    if keyfile is not None and certfile is None:
        raise CommandError("--keyfile: give its certificate too, as --certfile")
    if not 1 <= workers <= MOST_WORKERS:
        raise CommandError(f"--workers: expected 1 to {MOST_WORKERS} processes, got {workers}")
    options = ServeOptions(
        agent,
        certfile,
        keyfile,
        open_page,
        model=model,
        base_url=base_url,
        mcp=mcp,
        system=system,
        rooms=rooms,
    )
    if door:
        os.environ["DOORS"] = ",".join(door)  # where the workers read it too
    options.tls()  # its faults are reported before anything is opened
    loaded = load(os.environ, directory=Path.cwd())
    is_supervised = reload or workers > 1
    # Agents of another process are imported there, and corrected while the command runs.
    server = None if is_supervised else CommandServer.make(options, loaded)
    private_broker = _private_broker(loaded.settings) if workers > 1 else None
    for warning in loaded.warnings:
        report(f"warning: {warning}")
    try:
        socks = listen_for_workers(host, port, workers)
    except CannotListen as error:
        advice = "; choose another port with --port, or a free one with --port 0"
        raise CommandError(f"{error}{advice if error.is_taken else ''}") from None
    if server is not None:
        server.run(socks[0])
        return
    # Imported here: one process does not load what restarts others.
    from netra_trio.cli.workers.supervisor import Plan, supervise  # noqa: PLC0415

    settings = reloaded_settings(loaded.settings) if reload else loaded.settings
    seconds = settings.drain_timeout_ms / 1000
    plan = Plan(
        options,
        seconds,
        is_reloaded=reload,
        redis_url=settings.redis_url,
        private_broker=private_broker,
    )
    sys.exit(supervise(plan, socks))


def _private_broker(settings: Settings) -> str | None:
    """Return the private server that several workers need; None if another broker is set.

    Raises:
        CommandError: There is none; or the database is in the memory of one process.
    """
    if settings.database_url is None or is_in_memory(settings.database_url):
        raise CommandError(
            "--workers: each worker would have another database in its memory; set DATABASE_URL "
            "to a file, such as sqlite:///netra.db, or to PostgreSQL"
        )
    if settings.redis_url is not None:
        return None
    from netra_trio.cli.workers.private_broker import find_server  # noqa: PLC0415 - as above

    return find_server()
