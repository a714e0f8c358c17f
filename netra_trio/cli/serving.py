"""The server of the command `serve`: the application with its agents, and the printed addresses.

server = CommandServer.make(ServeOptions(agents=("my_agents:shout",)), loaded)
server.run(listen("127.0.0.1", 8000))
"""

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
from typing import Self

import trio
from attrs import evolve, frozen

from netra_trio.agents.run import Agent
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.cli.agent_import import import_agents, import_permissions
from netra_trio.cli.login import DEV_USER
from netra_trio.cli.workers.channel import Channel
from netra_trio.cli.workers.group import Group
from netra_trio.config.loading import Loaded
from netra_trio.config.settings import Settings
from netra_trio.errors import SettingsError, leaves
from netra_trio.server.application import DEMO_AGENTS, Application, create_app
from netra_trio.server.exit import flush_or_exit
from netra_trio.server.run import serve as run_server
from netra_trio.server.sockets import secure
from netra_trio.telemetry.otlp import exporting

READY_TOKEN_SECONDS = 24 * 3600  # until the printed token expires
RELOAD_DRAIN_MS = 1_000  # for runs that are in progress when a file has changed

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - only looked up


@frozen
class ServeOptions:
    """The options of `serve` that the server itself needs.

    Attributes:
        agents: The agents as [NAME=]module:function; the demo agents if there are none.
        certfile: The certificate for TLS.
        keyfile: Its private key.
        opens_page: Whether the chat page is opened in this machine's browser.
        model: A model to serve as an agent.
        base_url: The address of its server.
        mcp: The MCP servers whose tools it may call.
        system: Its instructions.
        rooms: The function for permissions in rooms, as module:function.
    """

    agents: tuple[str, ...] = ()
    certfile: str | None = None
    keyfile: str | None = None
    opens_page: bool = False
    model: str | None = None
    base_url: str | None = None
    mcp: tuple[str, ...] = ()
    system: str | None = None
    rooms: str | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context; None for plain TCP.

        Raises:
            SettingsError: The files cannot be used.
        """
        return None if self.certfile is None else secure(self.certfile, self.keyfile)


@frozen
class Supervised:
    """How another process supervises this server.

    Attributes:
        control: A socket that is connected to the other process.
        workers: The number of workers.
        is_reloaded: Whether it is restarted when a file has changed.
        owns_broker: Whether the broker ends with the workers.
    """

    control: socket.socket
    workers: int
    is_reloaded: bool
    owns_broker: bool


@frozen
class CommandServer:
    """The server of `serve`, with its agents imported.

    Attributes:
        options: The options of the command.
        loaded: The settings.
        application: The application.
        agents: The names of the agents.
        supervised: How another process supervises it; None if none does.
    """

    options: ServeOptions
    loaded: Loaded
    application: Application
    agents: tuple[str, ...]
    supervised: Supervised | None

    @classmethod
    def make(
        cls, options: ServeOptions, loaded: Loaded, *, supervised: Supervised | None = None
    ) -> Self:
        """Import the agents and make the application.

        Raises:
            CommandError: An agent cannot be imported, or is none; or the function for rooms.
        """
        agents = _agents_of(options)
        may = None if options.rooms is None else import_permissions(options.rooms)
        application = create_app(agents=agents, settings=loaded.settings, rooms=may)
        return cls(options, loaded, application, tuple(agents), supervised)

    def run(self, socks: Sequence[socket.socket]) -> None:
        """Serve until a signal; takes over the listening sockets.

        Raises:
            SettingsError: It cannot start with its settings.
        """
        tls = self.options.tls()
        with exporting(os.environ):
            trio.run(self._serve, socks, tls)
        flush_or_exit()

    async def _serve(self, socks: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        wrong: BaseException | None = None
        supervised = self.supervised
        run = partial(
            run_server,
            self.application,
            socks,
            tls=tls,
            is_supervised=supervised is not None,
            is_restarted=supervised is not None and supervised.is_reloaded,
        )
        group = None
        if supervised is not None:
            report = self.application.report
            channel, owns_broker = Channel(supervised.control), supervised.owns_broker
            group = Group(channel, report, owns_broker=owns_broker)
            self.application.group = group
        try:
            async with trio.open_nursery() as nursery:

                async def serve_until_stopped(task_status: trio.TaskStatus[list[str]]) -> None:
                    await run(task_status=task_status)
                    # The tasks that print and that open the browser may still be running.
                    nursery.cancel_scope.cancel()

                addresses: list[str] = await nursery.start(serve_until_stopped)
                s = "" if tls is None else "s"
                greeting = f"{self._greeting(addresses, s)}\n"
                if group is None:
                    nursery.start_soon(print_greeting, greeting)
                else:  # it is printed once, when all workers are ready
                    nursery.start_soon(group.run)
                    node_id = self.application.node_id
                    group.post({"type": "ready", "node_id": node_id, "greeting": greeting})
                if self.options.opens_page:
                    # Some browsers return only when they are closed.
                    open_page = partial(webbrowser.open, f"http{s}://{_reachable(addresses[0])}/")
                    await trio.to_thread.run_sync(open_page, abandon_on_cancel=True)
        except* SettingsError as group:
            wrong = next(leaves(group))
        if wrong is not None:
            raise wrong

    def _greeting(self, addresses: Sequence[str], s: str) -> str:
        address, *others = addresses
        environment = self.loaded.settings.environment
        verifier = TokenVerifier.of(self.loaded.settings)
        name = f"netra_trio {version('netra-trio')}, {environment}"
        if self.supervised is not None and self.supervised.workers > 1:
            name += f", {self.supervised.workers} workers"
        lines = [
            f"{name}, agents: {', '.join(self.agents)}",
            f"Ready on http{s}://{address} (WebSocket: ws{s}://{address}/ws)",
        ]
        if environment == "development":
            hint = f"Talk to it:  netra-trio chat --url ws{s}://{address}/ws"
            if verifier.can_sign:
                token = verifier.sign(DEV_USER, expires_at=time.time() + READY_TOKEN_SECONDS)
                lines[1] += f", token of user {DEV_USER!r}: {token}"
                lines.append(hint)
            else:
                named = (
                    "that OIDC_ISSUER names"
                    if verifier.provider is not None
                    else "whose keys are at JWT_JWKS_URL"
                )
                login = f"--token TOKEN (from the login {named})"
                lines.append(f"{hint} {login}")
        lines += [f"Also on http{s}://{other}" for other in others]
        lines.append("Ctrl-C stops it.")
        return "\n".join(lines)


def reloaded_settings(settings: Settings) -> Settings:
    """Return the settings of a server that is restarted when a file has changed."""
    return evolve(settings, drain_timeout_ms=min(settings.drain_timeout_ms, RELOAD_DRAIN_MS))


async def print_greeting(text: str) -> None:
    """Print the lines of a server that is ready; cancelling leaves the output to its reader.

    A reader that does not read, or has left, does not stop the server.
    """
    await trio.to_thread.run_sync(partial(_write, text), abandon_on_cancel=True)


def _agents_of(options: ServeOptions) -> dict[str, Agent]:
    """Return the agents that the options name; the demo agents if they name none."""
    agents = import_agents(options.agents) if options.agents else {}
    model, base_url, mcp, system = options.model, options.base_url, options.mcp, options.system
    if model is not None or base_url is not None or mcp or system is not None:
        # Imported here: without a model, the start does not load an HTTP client.
        from netra_trio.cli.model_agent import with_model  # noqa: PLC0415

        agents = with_model(agents, model, base_url=base_url, mcp=mcp, system=system)
    return agents or dict(DEMO_AGENTS)


def _write(text: str) -> None:
    # Not by `print`: at the end of the interpreter, a thread must not hold the lock of stdout.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), text.encode(sys.stdout.encoding, errors="replace"))


def _reachable(address: str) -> str:
    """Return an address for a browser: the address of all interfaces is not one."""
    host, _, port = address.rpartition(":")
    return f"{_ANY_ADDRESS.get(host, host)}:{port}"
