"""Run the application: a listening socket, the lane, and a drain on the first signal.

trio.run(serve, app, listen("127.0.0.1", 8000))
"""

import gc
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog
import trio

from netra_trio.errors import SettingsError
from netra_trio.server.application import Application
from netra_trio.server.listener import Listener
from netra_trio.telemetry.logs import flush, write_in_batches

BACKLOG = 1024  # connections that may wait to be accepted: a restart brings everybody at once
CLOSING = 1.0  # seconds for HTTP requests that are under way when the drain is done
COLLECT_AFTER = 20_000  # objects that were made and not freed: to look at them takes some 8 ms
LAST_WORDS = 0.3  # seconds to say why, at an end that waits for nothing
LAST_RESORT = 1.5  # seconds after the drain's time: threads that do not end keep nobody waiting

_log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


async def serve(
    app: Application,
    sock: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal exits at once.

    Takes over the listening socket. The task status starts with the address as `host:port`, once
    connections are accepted. On return everything is closed; where a thread of an agent does not
    end in time the process exits with code 0 from within.

    Raises:
        SettingsError: If it cannot start with its settings.
    """
    with sock, ExitStack() as timers:
        address = _address(sock)
        timers.enter_context(_fewer_collections())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_in_batches)
            drained: trio.Event = await nursery.start(_heed_signals, app, timers)
            async with app.running(), trio.open_nursery() as serving:
                listener = Listener(app, sock, tls=tls)
                await serving.start(listener.serve)
                task_status.started(address)
                await drained.wait()
                await listener.stop()
                serving.cancel_scope.deadline = trio.current_time() + CLOSING
            nursery.cancel_scope.cancel()


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for cycles of garbage less often: a busy server makes few, and many objects.

    By default a seventh of its time goes into that. What was imported stays anyway.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _heed_signals(
    app: Application,
    timers: ExitStack,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Drain at the first signal, exit at the second."""
    drained = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(drained)
        draining = False
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if draining:
                    _exit(1, "second signal: ended at once")
                _log.info("signal", signal=signal.Signals(number).name)
                draining = True
                nursery.start_soon(_drain, app, drained, timers)


async def _drain(app: Application, drained: trio.Event, timers: ExitStack) -> None:
    timers.callback(_exit_later(app.settings.drain_timeout_ms / 1000 + LAST_RESORT).cancel)
    await app.drain()
    drained.set()


def _exit_later(seconds: float) -> threading.Timer:
    """Exit in any case: a thread that an agent left behind would keep the loop for ever."""
    timer = threading.Timer(seconds, _exit, (0, "tasks did not end in time: ended without them"))
    timer.daemon = True
    timer.start()
    return timer


def _exit(code: int, why: str) -> None:
    # Whoever reads the output may be what everything waits for.
    words = threading.Thread(target=_say_last, args=(code, why), daemon=True)
    words.start()
    words.join(LAST_WORDS)
    os._exit(code)


def _say_last(code: int, why: str) -> None:
    _log.warning("exit", code=code, why=why)
    flush()
    sys.stdout.flush()
    sys.stderr.flush()


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


def secure(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Return what to speak TLS with: HTTP/1.1 and HTTP/2, TLS 1.2 or later.

    Raises:
        SettingsError: If the files cannot be read, or do not belong together.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    try:
        tls.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        files = f"--certfile {certfile}" + (f", --keyfile {keyfile}" if keyfile else "")
        raise SettingsError(f"{files}: {reason}") from None
    return tls


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family is socket.AF_INET6 else f"{host}:{port}"
