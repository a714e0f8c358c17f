"""A real server in a separate process, and clients for it.

with serving(tmp_path, "--agent", "agents:slow", ENVIRONMENT="staging") as server:
    assert server.http("GET", "/ws/health").status_code == 200
    assert server.upgrade().status == 401
    async with server.connect("alice") as client:
        await client.say("hello")
        events = await client.until("agent_completed")
"""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2
import jwt
import orjson
import trio
import trio_websocket
from attrs import define, field, frozen

from support.forking import begin
from support.frame_client import FrameClient

SECRET = "outside-tests-sign-with-this-secret-of-forty-eight"
# Bounds on what hangs, in seconds. A busy machine takes many times as long as an idle one, and no
# test depends on their size.
PATIENCE = 120.0  # for the whole connection of a test, or the end of a process
UNREAD = 16  # frames that a client holds for a test that does not read them
SOON = 100.0  # for one step: its failure is reported before PATIENCE ends
STARTING = 180.0  # for a program to load its modules and be ready
CLOSING = 2.0  # seconds for a server to reply to a close frame
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOL = "netra.v1"
FRAME_BYTES = 1024 * 1024  # four times the largest event
PAGE_MESSAGES = 100  # of a history, the maximum
PAGE_SECONDS = 0.1  # between pages: the rate limit is ten per second

Frame = dict[str, Any]
Headers = Sequence[tuple[str, str]]
T = TypeVar("T")

_READY = re.compile(
    r"^Ready on https?://(?P<address>\S+) \(WebSocket: (?P<url>wss?://\S+)\)"
    r"(?:, token of user '(?P<user>[^']+)': (?P<token>\S+))?$"
)
_STOCK_READY = re.compile(r"Running on https?://(?P<address>[^\s\"]+)")
STOCK_APP = "netra_trio.asgi:app"
_MAIN = "from netra_trio.__main__ import main; main()"
PATIENT = """
from netra_trio.server import request_head
request_head.HEAD_SECONDS = 3600
"""  # for a server: one that waits for the end of a request head does not exit within a test
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused: to load authorities takes 20 ms
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
_MEASURING = ("COVERAGE_", "COV_CORE_")


def clean_environ(
    directory: Path, environ: Mapping[str, str], *, measured: bool = True
) -> dict[str, str]:
    """Return an environment without variables of the test process, except those for coverage."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (measured and name.startswith(_MEASURING))
    }
    return {
        **kept,
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "JWT_SECRET_KEY": SECRET,
        **environ,
    }


class Output:
    """The lines of a pipe, read by a thread so that the pipe never fills."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._pipe = pipe
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        """The lines so far."""
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        """The lines so far as one text."""
        return "\n".join(self.lines)

    def wait_for(self, look: Callable[[list[str]], T | None], seconds: float = SOON) -> T:
        """Return the result of `look` for the lines, when it is not None."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = look(self._lines)
                if found:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the output ended" if self._ended else f"nothing within {seconds:g} s"
                    raise AssertionError(f"{why}:\n" + "\n".join(self._lines))
                self._changed.wait(left)

    def join(self) -> None:
        """Wait for the end of the pipe."""
        self._thread.join(PATIENCE)

    def _gather(self) -> None:
        with self._pipe as pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Process:
    """A Python program in a clean environment; it is killed at the end of its context.

    A program that will be killed need not be `measured`: it cannot write its coverage data. The
    arguments `before` run it, for example in another network.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        environ: Mapping[str, str],
        typed: bool = False,
        measured: bool = True,
        before: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        clean = clean_environ(directory, environ, measured=measured)
        self.popen = begin(arguments, directory, clean, typed=typed, before=before)
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self.out = Output(self.popen.stdout)
        self.err = Output(self.popen.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.hang_up()
        self.wait()

    def type(self, line: str) -> None:
        """Write a line to its input, which it has with `typed`."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def hang_up(self) -> None:
        """Close its input, if it has one."""
        if self.popen.stdin is not None:
            self.popen.stdin.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self.popen.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until it has ended and all its output is read; return the exit code."""
        code = self.popen.wait(seconds)
        self.out.join()
        self.err.join()
        return code

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Send a signal and return the exit code."""
        self.send_signal(number)
        return self.wait(seconds)

    def logs(self, event: str | None = None, **fields: Any) -> list[Frame]:
        """Return the log lines so far; only those of `event`, if given, and with these fields."""
        return _logs(self.err.lines, event, fields)

    def wait_log(self, event: str, count: int = 1, **fields: Any) -> list[Frame]:
        """Wait until an event has `count` log lines with these fields, and return them.

        If several tests share the server, the fields have to identify the lines of the test.
        """

        def look(lines: list[str]) -> list[Frame] | None:
            found = _logs(lines, event, fields)
            return found if len(found) >= count else None

        return self.err.wait_for(look)


def _logs(lines: list[str], event: str | None, fields: Frame) -> list[Frame]:
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [
        line for line in found if event in {None, line["event"]} and fields.items() <= line.items()
    ]


def run(
    arguments: Sequence[str], *, directory: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a Python program to its end; return its exit code, output and error output."""
    with Process(arguments, directory=directory, environ=environ or {}) as process:
        code = process.wait()
        return code, process.out.text, process.err.text


@frozen
class Answer:
    """An HTTP answer to an upgrade request."""

    status: int
    headers: dict[str, str]
    body: Any

    def refuses(self, status: int, code: str) -> Frame:
        """Check that it is an error with this status and code; return the error."""
        assert (self.status, self.body.get("code") if self.body else None) == (status, code), self
        return check_error(self.body, code)


def check_error(body: Frame, code: str) -> Frame:
    """Check the body of an HTTP error: an `error` frame, with the payload's fields at the top too.

    Returns:
        The payload.
    """
    assert body["type"] == "error"
    payload: Frame = body["payload"]
    assert {**payload, "type": "error", "payload": payload} == body
    assert payload["code"] == code
    for name in ("error", "help"):
        assert isinstance(payload[name], str)
        assert payload[name]
    assert isinstance(payload["recoverable"], bool)
    assert abs(payload["timestamp"] - time.time()) < PATIENCE
    return payload


def upgrade_request(
    address: str,
    path: str = "/ws",
    headers: Headers = (),
    *,
    host: str | None = None,
    version: str = "13",
    key: str = KEY,
) -> bytes:
    """Return the bytes of an upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {address if host is None else host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def ask(address: str, request: bytes) -> Answer:
    """Send bytes over a new connection and return the answer."""
    with open_line(address) as line:
        line.sendall(request)
        return read_answer(line)


def open_line(address: str) -> socket.socket:
    """Open a TCP connection."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def read_answer(line: socket.socket) -> Answer:
    """Read the head of an answer, and its body if it is not an upgrade."""
    response = http.client.HTTPResponse(line)
    try:
        response.begin()
        content = response.read()
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    is_json = headers.get("content-type") == "application/json"
    return Answer(response.status, headers, orjson.loads(content) if is_json and content else None)


def sign(user: str = "alice", *, seconds: float = 3600, secret: str = SECRET, **claims: Any) -> str:
    """Return a token; a claim that is None is left out."""
    known = {"sub": user, "exp": int(time.time() + seconds), **claims}
    given = {name: value for name, value in known.items() if value is not None}
    return jwt.encode(given, secret, algorithm="HS256")


def bearer(user: str = "alice", **options: Any) -> tuple[str, str]:
    """Return an Authorization header with a token."""
    return ("Authorization", f"Bearer {sign(user, **options)}")


@define(eq=False)
class Client(FrameClient):
    """A client with an independent WebSocket implementation: trio-websocket."""

    socket: trio_websocket.WebSocketConnection
    skipped: frozenset[str] = field(  # those that come at any time
        default=frozenset({"heartbeat", "thread_changed"}), kw_only=True
    )

    async def send_raw(self, data: str | bytes) -> None:
        await self.socket.send_message(data)

    async def receive_raw(self) -> str | bytes:
        message: str | bytes = await self.socket.get_message()
        return message

    async def page(self, thread_id: str, **request: Any) -> Frame:
        """Return the newest page of a thread, with as many messages as a page may have."""
        request = {"thread_id": thread_id, "limit": PAGE_MESSAGES, **request}
        await self.send("get_thread_history", request)
        payload: Frame = (await self.expect("thread_history"))["payload"]
        return payload

    async def history(self, thread_id: str) -> list[Frame]:
        """Return all messages of a thread, oldest first."""
        page = await self.page(thread_id)
        messages: list[Frame] = page["messages"]
        while page["has_more"]:
            await trio.sleep(PAGE_SECONDS)
            page = await self.page(thread_id, before=messages[0]["message_id"])
            messages = page["messages"] + messages
        return messages

    async def answers(self) -> None:
        """Check that the connection still works: a ping is answered."""
        await self.send("ping", {"still": "there"}, "still-there")
        pong = await self.expect("pong")
        assert (pong["payload"], pong["correlation_id"]) == ({"still": "there"}, "still-there")

    async def rest(self) -> tuple[list[Frame], int | None]:
        """Return the frames up to the end of the connection, and the close code."""
        frames: list[Frame] = []
        while True:
            try:
                frames.append(await self.next())
            except trio_websocket.ConnectionClosed as closed:
                return frames, closed.reason.code if closed.reason is not None else None


@frozen
class Server:
    """A server that is ready.

    Attributes:
        process: Its process.
        address: Its host and port.
        token: The token in its start message, in development.
    """

    process: Process
    address: str
    token: str | None = None

    @property
    def url(self) -> str:
        """The URL of its WebSocket."""
        return f"ws://{self.address}/ws"

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    def http(
        self, method: str, path: str, headers: Headers = (), **options: Any
    ) -> httpx2.Response:
        """Send an HTTP request."""
        with httpx2.Client(timeout=PATIENCE, trust_env=False, verify=_NO_TLS) as client:
            return client.request(
                method, f"http://{self.address}{path}", headers=list(headers), **options
            )

    def upgrade(self, query: str = "", *headers: tuple[str, str], path: str = "/ws") -> Answer:
        """Send an upgrade request, return the answer, and close the connection."""
        return ask(self.address, upgrade_request(self.address, path + query, headers))

    def ticket(self, user: str = "alice", **options: Any) -> str:
        """Get a ticket."""
        answer = self.http("POST", "/ws/ticket", [bearer(user, **options)])
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ticket"])

    @asynccontextmanager
    async def connect(
        self,
        user: str = "alice",
        *,
        token: str | None = None,
        query: str = "",
        subprotocols: Sequence[str] = (),
        headers: Headers = (),
    ) -> AsyncIterator[Client]:
        """Open a connection, receive its first frame, and close it at the end of the block."""
        extra = [("Authorization", f"Bearer {token or sign(user)}"), *headers]
        async with open_client(
            self.url + query, subprotocols=subprotocols, headers=extra
        ) as client:
            client.hello = await client.expect("connection_established")
            yield client


@asynccontextmanager
async def open_client(
    url: str, *, subprotocols: Sequence[str] = (), headers: Headers = ()
) -> AsyncIterator[Client]:
    """Open a connection with only the given headers; it fails if it hangs.

    Raises:
        trio_websocket.ConnectionRejected: If the server refuses.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with trio.fail_after(PATIENCE):
        stream = await trio.open_tcp_stream(parts.hostname, parts.port)
        async with stream, trio.open_nursery() as nursery:
            socket = await trio_websocket.wrap_client_stream(
                nursery,
                stream,
                parts.netloc,
                f"{parts.path}?{parts.query}" if parts.query else parts.path,
                subprotocols=list(subprotocols) or None,
                extra_headers=[(name.encode(), value.encode()) for name, value in headers],
                # Otherwise a frame that a test does not read, such as a change of a thread, would
                # keep the close frame of the server from being read.
                message_queue_size=UNREAD,
                max_message_size=FRAME_BYTES,
            )
            try:
                yield Client(socket)
            finally:
                nursery.cancel_scope.deadline = trio.current_time() + CLOSING
                with trio.move_on_after(CLOSING, shield=True):
                    await socket.aclose()


@contextmanager
def serving(
    directory: Path, *arguments: str, port: str = "0", before: str = "", **environ: str
) -> Iterator[Server]:
    """Run `netra-trio serve`, on a free port; on leaving it has to drain and exit with 0.

    Args:
        directory: Its working directory.
        arguments: More options of the command.
        port: Where it listens.
        before: Statements that the process executes first: they may change its constants.
        environ: Its settings.
    """
    program = ["-c", f"{before}\n{_MAIN}"] if before else ["-m", "netra_trio"]
    command = [*program, "serve", "--port", port, *arguments]
    with Process(command, directory=directory, environ=environ) as process:
        yield ready(process)
        _end_well(process)


@contextmanager
def servings(directory: Path, *arguments: str, **environ: str) -> Iterator[Callable[[], Server]]:
    """Yield a function that starts a new `netra-trio serve` at each call.

    Their coverage is not measured: most are killed, and cannot write it.
    """
    command = ["-m", "netra_trio", "serve", "--port", "0", *arguments]
    with ExitStack() as processes:

        def start() -> Server:
            process = Process(command, directory=directory, environ=environ, measured=False)
            return ready(processes.enter_context(process))

        yield start


@contextmanager
def stock_serving(
    directory: Path, *arguments: str, app: str = STOCK_APP, **environ: str
) -> Iterator[Server]:
    """Run an application under the stock Hypercorn command."""
    command = stock_command(*arguments, app=app)
    with Process(command, directory=directory, environ=environ) as process:
        match = process.err.wait_for(lambda lines: _first_match(_STOCK_READY, lines), STARTING)
        yield Server(process, match["address"])
        _end_well(process)


def stock_command(*arguments: str, app: str = STOCK_APP) -> list[str]:
    """Return the arguments of the stock command on a free port."""
    return ["-m", "hypercorn", "--worker-class", "trio", app, "-b", "127.0.0.1:0", *arguments]


def ready(process: Process) -> Server:
    """Wait until a server is ready, and return it."""
    match = process.out.wait_for(lambda lines: _first_match(_READY, lines), STARTING)
    return Server(process, match["address"], match["token"])


def _first_match(pattern: re.Pattern[str], lines: list[str]) -> re.Match[str] | None:
    return next((match for line in lines if (match := pattern.search(line))), None)


def _end_well(process: Process) -> None:
    if process.running:
        code = process.end()
        assert code == 0, process.err.text


def write_agents(directory: Path, source: str, name: str = "outside_agents") -> None:
    """Write a module of agents into the folder of the server."""
    (directory / f"{name}.py").write_text(source)
