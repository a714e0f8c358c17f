"""The server of `serve --reload`, in a process that `netra_trio.cli.reload` starts."""

import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from netra_trio.cli.main import exit_after
from netra_trio.cli.serving import RELOAD_DRAIN_MS, CommandServer, ServeOptions
from netra_trio.config.loading import load
from netra_trio.server.exit import FORCED_AFTER
from netra_trio.telemetry import logs

EXIT_SECONDS = RELOAD_DRAIN_MS / 1000 + FORCED_AFTER + 1.0  # after the end of the other process


def main(given: str) -> None:
    """Run the server, and exit.

    Args:
        given: A JSON object: `socks` (descriptors of listening sockets), `alive` (the reading
            end of a pipe that is closed when the other process ends), `options` (of
            `ServeOptions`).
    """
    exit_after(partial(_run, orjson.loads(given)))


def _run(given: dict[str, Any]) -> int:
    # A terminal sends SIGINT to both processes, and the other one then ends this one. A function,
    # because programs that agents start would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    for descriptor in (*given["socks"], given["alive"]):
        os.set_inheritable(descriptor, False)
    threading.Thread(target=end_with, args=(given["alive"],), daemon=True).start()
    logs.configure()
    options = ServeOptions(**given["options"])
    loaded = load(os.environ, directory=Path.cwd())
    server = CommandServer.make(options, loaded, is_supervised=True)
    server.run([socket.socket(fileno=descriptor) for descriptor in given["socks"]])
    return 0


def end_with(alive: int) -> None:
    """Wait until a pipe is closed, then end this process, by SIGTERM, then by `os._exit`."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(EXIT_SECONDS)
    os._exit(1)
