"""Run the application: listening sockets, their listeners, and a drain on the first signal.

trio.run(serve, app, listen("127.0.0.1", 8000))
"""

import gc
import os
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

from netra_trio.agents.context import context_of
from netra_trio.server.application import Application
from netra_trio.server.asgi import CLOSING
from netra_trio.server.exit import SIGNALS, ExitWatchdog, drain_on_signal
from netra_trio.server.listeners import Listeners
from netra_trio.server.sockets import address_of
from netra_trio.telemetry.watchdog import LoopWatchdog

COLLECT_AFTER = 20_000  # new objects before a garbage collection, which takes about 8 ms for them


async def serve(
    app: Application,
    socks: Sequence[socket.socket],
    *,
    tls: ssl.SSLContext | None = None,
    is_supervised: bool = False,
    is_restarted: bool = False,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal exits at once.

    Takes over the listening sockets. The task status starts with their addresses as `host:port`,
    once connections are accepted. On return everything is closed; where the drain does not end in
    time the process exits with code 0 from within.

    Args:
        app: The application.
        socks: The listening sockets.
        tls: The TLS context; None for plain TCP.
        is_supervised: Whether another process holds the sockets, and ends this one by SIGTERM. A
            second SIGTERM has no effect then: a service manager may send one to each process.
            SIGINT, which a terminal sends to each process, is left to the other one.
        is_restarted: Whether this server is started again at once. Then the accepting ends before
            the drain, so that new connections wait for the next one; otherwise they are refused.
        task_status: See above.

    Raises:
        SettingsError: If it cannot start with its settings.
    """
    with ExitStack() as stack:
        for sock in socks:
            stack.enter_context(sock)
        addresses = [address_of(sock) for sock in socks]
        stack.enter_context(_rare_collections())
        seconds = app.settings.drain_timeout_ms / 1000
        watchdog = stack.enter_context(ExitWatchdog(seconds, ignores_second=is_supervised))
        listeners = Listeners(app, socks, tls=tls)

        async def drain() -> None:
            if is_restarted:
                listeners.stop_accepting()
            await app.drain()

        app.terminate = partial(os.kill, os.getpid(), signal.SIGTERM)
        async with trio.open_nursery() as nursery:
            numbers = (signal.SIGTERM,) if is_supervised else SIGNALS
            if is_supervised:
                # The handler after the drain: a second signal must not end the process while it
                # writes its last log lines. The supervisor kills one that does not end.
                signal.signal(signal.SIGTERM, lambda *_: None)
            drained: trio.Event = await nursery.start(drain_on_signal, drain, watchdog, numbers)
            stack.enter_context(LoopWatchdog(context_of))
            async with app.running(), trio.open_nursery() as serving:
                await serving.start(listeners.serve)
                task_status.started(addresses)
                await drained.wait()
                await listeners.stop()
                serving.cancel_scope.deadline = trio.current_time() + CLOSING
            nursery.cancel_scope.cancel()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage less often: a busy server makes many objects and few cycles.

    With Python's default a seventh of its time goes into collections. Objects that were created
    before, such as modules, are excluded from them.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
