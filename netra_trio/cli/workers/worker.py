"""A worker: the server of `serve`, in a process that a supervisor starts."""

import contextlib
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve

from netra_trio.cli.errors import CommandError
from netra_trio.cli.main import exit_after
from netra_trio.cli.serving import CommandServer, ServeOptions, Supervised, reloaded_settings
from netra_trio.cli.workers.channel import encoded
from netra_trio.config.loading import load
from netra_trio.errors import SettingsError
from netra_trio.server.exit import FORCED_AFTER
from netra_trio.telemetry import logs

EXIT_SECONDS = FORCED_AFTER + 1.0  # after the drain timeout, once the supervisor has ended
REPORT_SECONDS = 1.0  # for the supervisor to take the reason why this worker cannot start


def main(given: str) -> None:
    """Run the server, and exit.

    Args:
        given: A JSON object: `number` (of this worker, from 1), `workers` (their number), `socks`
            (descriptors of listening sockets), `alive` (the reading end of a pipe that is closed
            when the supervisor ends), `control` (a socket that is connected to it), `kept`
            (descriptors that stay open as long as this process), `options` (of `ServeOptions`),
            `is_reloaded`, `owns_broker` (of `Supervised`).
    """
    exit_after(partial(_run, orjson.loads(given)))


def _run(given: dict[str, Any]) -> int:
    # A terminal sends SIGINT to all processes, and the supervisor then ends this one. A function,
    # because programs that agents start would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    for descriptor in (*given["socks"], *given["kept"], given["alive"], given["control"]):
        os.set_inheritable(descriptor, False)
    workers = given["workers"]
    logs.configure(fields={"worker": given["number"]} if workers > 1 else {})
    socks = [socket.socket(fileno=descriptor) for descriptor in given["socks"]]
    control = socket.socket(fileno=given["control"])
    try:
        loaded = load(os.environ, directory=Path.cwd())
        if given["is_reloaded"]:
            loaded = evolve(loaded, settings=reloaded_settings(loaded.settings))
        exit_seconds = loaded.settings.drain_timeout_ms / 1000 + EXIT_SECONDS
        watch = partial(end_with, given["alive"], exit_seconds)
        threading.Thread(target=watch, daemon=True).start()
        supervised = Supervised(
            control,
            workers,
            is_reloaded=given["is_reloaded"],
            owns_broker=given["owns_broker"],
        )
        server = CommandServer.make(ServeOptions(**given["options"]), loaded, supervised=supervised)
        server.run(socks)
    except (CommandError, SettingsError) as error:
        _tell(control, str(error))
        return 1
    return 0


def end_with(alive: int, exit_seconds: float) -> None:
    """Wait until a pipe is closed, then end this process, by SIGTERM, then by `os._exit`."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(exit_seconds)
    os._exit(1)


def _tell(control: socket.socket, fault: str) -> None:
    """Leave the reason to the supervisor, which reports that of several workers once."""
    logs.flush()  # a thread writes them: they come before the error
    control.settimeout(REPORT_SECONDS)
    with contextlib.suppress(OSError):
        control.sendall(encoded({"type": "failed", "fault": fault}))
