"""The real server as a process of its own, and what one can do to it from outside.

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
import subprocess
import sys
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

SECRET = "outside-tests-sign-with-this-secret-of-forty-eight"
PATIENCE = 30.0  # seconds: a safety bound, reached only where something is wrong
SOON = 25.0  # seconds, likewise, for one step: what is wrong then is told before PATIENCE ends
STARTING = 60.0  # seconds, likewise, for a program to be ready, which loads its modules first
CLOSING = 2.0  # seconds for a server to answer a close frame
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOL = "netra.v1"
FRAME_BYTES = 1024 * 1024  # four times the largest event

Frame = dict[str, Any]
Headers = Sequence[tuple[str, str]]
T = TypeVar("T")

_READY = re.compile(
    r"^Ready on https?://(?P<address>\S+) \(WebSocket: (?P<url>wss?://\S+)\)"
    r"(?:, token of user '(?P<user>[^']+)': (?P<token>\S+))?$"
)
_STOCK_READY = re.compile(r"Running on https?://(?P<address>[^\s\"]+)")
STOCK_APP = "netra_trio.asgi:app"
_PREPARED = "import sys; from netra_trio.__main__ import main; sys.stdin.readline(); main()"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused: to load authorities takes 20 ms
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
_MEASURING = ("COVERAGE_", "COV_CORE_")


def clean_environ(
    directory: Path, environ: Mapping[str, str], *, measured: bool = True
) -> dict[str, str]:
    """Return an environment with nothing in it of who runs the tests, but for measuring them."""
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
    """The lines of a pipe, gathered by a thread so that nobody has to read them in time."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._pipe = pipe
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        """The lines so far."""
        with self._news:
            return list(self._lines)

    @property
    def text(self) -> str:
        """The lines so far as one text."""
        return "\n".join(self.lines)

    def wait_for(self, look: Callable[[list[str]], T | None], seconds: float = SOON) -> T:
        """Return what `look` finds in the lines, as soon as it finds something."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                found = look(self._lines)
                if found:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the output ended" if self._ended else f"nothing within {seconds:g} s"
                    raise AssertionError(f"{why}:\n" + "\n".join(self._lines))
                self._news.wait(left)

    def join(self) -> None:
        """Wait for the end of the pipe."""
        self._thread.join(PATIENCE)

    def _gather(self) -> None:
        with self._pipe as pipe:
            for line in pipe:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Process:
    """A Python program in a clean environment; leaving its context kills what is left of it.

    One that is going to be killed need not be `measured`: it has no time to write what it covered.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        environ: Mapping[str, str],
        typed: bool = False,
        measured: bool = True,
    ) -> None:
        self.directory = directory
        self.popen = subprocess.Popen(  # noqa: S603 - a test's own command line
            [sys.executable, *arguments],
            cwd=directory,
            env=clean_environ(directory, environ, measured=measured),
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
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
        """Write a line to its input, which was asked for with `typed`."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def hang_up(self) -> None:
        """End its input, if it has one."""
        if self.popen.stdin is not None:
            self.popen.stdin.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return the exit code once it has ended and all it wrote has been read."""
        code = self.popen.wait(seconds)
        self.out.join()
        self.err.join()
        return code

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Send a signal and return the exit code."""
        self.send_signal(number)
        return self.wait(seconds)

    def logs(self, event: str | None = None) -> list[Frame]:
        """Return the log lines so far, of one event where one is named."""
        return _logs(self.err.lines, event)

    def wait_log(self, event: str, count: int = 1) -> list[Frame]:
        """Return the log lines of an event once there are that many."""

        def look(lines: list[str]) -> list[Frame] | None:
            found = _logs(lines, event)
            return found if len(found) >= count else None

        return self.err.wait_for(look)


def _logs(lines: list[str], event: str | None) -> list[Frame]:
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if event in {None, line["event"]}]


def run(
    arguments: Sequence[str], *, directory: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a Python program to its end; return its exit code, output and error output."""
    with Process(arguments, directory=directory, environ=environ or {}) as process:
        code = process.wait()
        return code, process.out.text, process.err.text


@frozen
class Answer:
    """An HTTP answer to an upgrade."""

    status: int
    headers: dict[str, str]
    body: Any

    def refuses(self, status: int, code: str) -> Frame:
        """Check that it is this refusal, whole; return its error."""
        assert (self.status, self.body.get("code") if self.body else None) == (status, code), self
        return check_error(self.body, code)


def check_error(body: Frame, code: str) -> Frame:
    """Check an HTTP error's body: the frame that a socket would carry, its fields at the top too.

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
    """Return the bytes of a request that asks for a WebSocket."""
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
    """Send bytes over a connection of its own and return the answer."""
    with open_line(address) as line:
        line.sendall(request)
        return read_answer(line)


def open_line(address: str) -> socket.socket:
    """Open a TCP connection."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def read_answer(line: socket.socket) -> Answer:
    """Read an answer's head, and its body where it is no upgrade."""
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
class Client:
    """A WebSocket client that is not this project's: trio-websocket."""

    socket: trio_websocket.WebSocketConnection
    hello: Frame = field(factory=dict)

    async def send(self, kind: str, payload: Any = None, correlation_id: str | None = None) -> None:
        """Send a message."""
        frame: Frame = {"type": kind}
        if payload is not None:
            frame["payload"] = payload
        if correlation_id is not None:
            frame["correlation_id"] = correlation_id
        await self.send_raw(orjson.dumps(frame).decode())

    async def send_raw(self, data: str | bytes) -> None:
        """Send a text frame (`str`) or a binary one (`bytes`) as it stands."""
        await self.socket.send_message(data)

    async def say(self, content: str, correlation_id: str | None = None, **payload: Any) -> None:
        """Send a `user_message`."""
        await self.send("user_message", {"content": content, **payload}, correlation_id)

    async def next(self) -> Frame:
        """Return the next frame but heartbeats, whatever it is."""
        while True:
            frame: Frame = orjson.loads(await self.socket.get_message())
            if frame["type"] != "heartbeat":
                return frame

    async def expect(self, kind: str) -> Frame:
        """Return the next frame, which has to be of this type."""
        frame = await self.next()
        assert frame["type"] == kind, frame
        return frame

    async def until(self, kind: str) -> list[Frame]:
        """Return the frames up to and with the next one of this type."""
        frames = [await self.next()]
        while frames[-1]["type"] != kind:
            frames.append(await self.next())
        return frames

    async def error(self, code: str) -> Frame:
        """Return the payload of the next frame, which has to be this error."""
        payload: Frame = (await self.expect("error"))["payload"]
        assert payload["code"] == code, payload
        return payload

    async def answers(self) -> None:
        """Check that the connection still works: a ping comes back."""
        await self.send("ping", {"still": "there"}, "still-there")
        pong = await self.expect("pong")
        assert (pong["payload"], pong["correlation_id"]) == ({"still": "there"}, "still-there")

    async def rest(self) -> tuple[list[Frame], int | None]:
        """Return the frames up to the end of the line, and the close code."""
        frames: list[Frame] = []
        while True:
            try:
                frames.append(await self.next())
            except trio_websocket.ConnectionClosed as closed:
                return frames, closed.reason.code if closed.reason is not None else None


@frozen
class Server:
    """A server that is ready, and the ways to it.

    Attributes:
        process: Where it runs.
        address: Its host and port.
        token: What its start line offers, in development.
    """

    process: Process
    address: str
    token: str | None = None

    @property
    def url(self) -> str:
        """Its WebSocket."""
        return f"ws://{self.address}/ws"

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    def http(
        self, method: str, path: str, headers: Headers = (), **options: Any
    ) -> httpx2.Response:
        """Ask over HTTP."""
        with httpx2.Client(timeout=PATIENCE, trust_env=False, verify=_NO_TLS) as client:
            return client.request(
                method, f"http://{self.address}{path}", headers=list(headers), **options
            )

    def upgrade(self, query: str = "", *headers: tuple[str, str], path: str = "/ws") -> Answer:
        """Ask for a WebSocket, hear the answer, and hang up."""
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
        """Open a connection, take its welcome, and close it on leaving."""
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
    """Open a connection with nothing but what is given; one that hangs fails.

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
                max_message_size=FRAME_BYTES,
            )
            try:
                yield Client(socket)
            finally:
                nursery.cancel_scope.deadline = trio.current_time() + CLOSING
                with trio.move_on_after(CLOSING, shield=True):
                    await socket.aclose()


@contextmanager
def serving(directory: Path, *arguments: str, port: str = "0", **environ: str) -> Iterator[Server]:
    """Run `netra-trio serve`, on a free port; on leaving it has to drain and exit with 0."""
    command = ["-m", "netra_trio", "serve", "--port", port, *arguments]
    with Process(command, directory=directory, environ=environ) as process:
        yield _ready(process)
        _end_well(process)


@contextmanager
def servings(directory: Path, *arguments: str, **environ: str) -> Iterator[Callable[[], Server]]:
    """Offer a function that runs `netra-trio serve` anew each time, for many short lives.

    To load its modules is most of a start, so the next process does that ahead; it knows nothing of
    what it is to serve until it is asked for. None of them is measured.
    """
    command = ["-c", _PREPARED, "serve", "--port", "0", *arguments]
    with ExitStack() as processes:

        def prepare() -> Process:
            process = Process(
                command, directory=directory, environ=environ, typed=True, measured=False
            )
            return processes.enter_context(process)

        prepared = prepare()

        def start() -> Server:
            nonlocal prepared
            process = prepared
            process.type("")
            prepared = prepare()
            return _ready(process)

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


def _ready(process: Process) -> Server:
    match = process.out.wait_for(lambda lines: _first_match(_READY, lines), STARTING)
    return Server(process, match["address"], match["token"])


def _first_match(pattern: re.Pattern[str], lines: list[str]) -> re.Match[str] | None:
    return next((match for line in lines if (match := pattern.search(line))), None)


def _end_well(process: Process) -> None:
    if process.running:
        code = process.end()
        assert code == 0, process.err.text


def write_agents(directory: Path, source: str, name: str = "outside_agents") -> None:
    """Write a module of agents where the server looks for it."""
    (directory / f"{name}.py").write_text(source)
