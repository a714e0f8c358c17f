"""Run the application: Hypercorn on Trio, with a drain on the first signal.

trio.run(serve, app, listen("127.0.0.1", 8000))
"""

import logging
import os
import signal
import socket
import sys
import threading
from functools import partial

import hypercorn.trio
import structlog
import trio
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

from netra_trio.app import Application
from netra_trio.observe.logs import host_logger

BACKLOG = 1024  # connections that may wait to be accepted: a restart brings everybody at once
STARTUP = 3600.0  # seconds for the first start of a new version: it may rewrite a large database
KEEP_ALIVE = 10.0  # seconds for the next request to begin
CLOSING = 1.0  # seconds for HTTP requests that are under way when the drain is done
LAST_RESORT = 1.5  # seconds after the drain's time: threads that do not end keep nobody waiting

_log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


async def serve(
    app: Application,
    sock: socket.socket,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal exits at once.

    Takes over the listening socket. The task status starts with the address as `host:port`, once
    connections are accepted. On return everything is closed; where a thread of an agent does not
    end in time the process exits with code 0 from within.

    Raises:
        SettingsError: If it cannot start with its settings.
    """
    config = _config(sock, app)
    drained = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_heed_signals, app, config, drained)
            async with trio.open_nursery() as server:
                run = partial(hypercorn.trio.serve, app, config, shutdown_trigger=drained.wait)  # type: ignore[arg-type]  # its scopes are TypedDicts, ASGI's own are dicts
                binds: list[str] = await server.start(run)
                nursery.start_soon(_exit_if_failed, app)
                if app.fault is None:
                    task_status.started(binds[0].partition("://")[2])
            nursery.cancel_scope.cancel()
    except* LifespanFailureError:
        pass  # the application has said why
    if app.fault is not None:
        raise app.fault


async def _heed_signals(
    app: Application,
    config: Config,
    drained: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Drain at the first signal, exit at the second."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        draining = False
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if draining:
                    _exit(1, "second signal: ended at once")
                _log.info("signal", signal=signal.Signals(number).name)
                draining = True
                nursery.start_soon(_drain, app, config, drained)


async def _exit_if_failed(app: Application) -> None:
    """Exit when the application's lifespan has: nobody could come in any more."""
    await app.failed.wait()
    _exit(1, "the server failed")


async def _drain(app: Application, config: Config, drained: trio.Event) -> None:
    _exit_later(app.settings.drain_timeout_ms / 1000 + LAST_RESORT)
    await app.drain()
    config.graceful_timeout = CLOSING
    drained.set()


def _exit_later(seconds: float) -> None:
    """Exit in any case: a thread that an agent left behind would keep the loop for ever."""
    timer = threading.Timer(seconds, _exit, (0, "tasks did not end in time: ended without them"))
    timer.daemon = True
    timer.start()


def _exit(code: int, why: str) -> None:
    _log.warning("exit", code=code, why=why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `port` 0 takes a free one.

    Raises:
        CannotListen: If the address is taken, or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen on {host} port {port}: {reason}") from None


def _config(sock: socket.socket, app: Application) -> Config:
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.backlog = BACKLOG
    # The caller tells where the server is; Hypercorn's own line for it would be a second one.
    config.errorlog = host_logger().getChild("hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE
    config.startup_timeout = STARTUP
    config.graceful_timeout = app.settings.drain_timeout_ms / 1000
    return config
