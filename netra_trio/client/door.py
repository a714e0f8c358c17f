"""Sockets over HTTP, where something between the client and the server prevents WebSockets.

    door = EventsDoor(trust)
    async with door.stream(url, headers=headers) as socket:     # or door.poll
        print(await socket.receive())

Frames of the server come as server-sent events, or as answers to long-polls. Those of the client
are posted one after the other, each when the one before was taken. No request is repeated: if one
fails, the socket is closed, and the client reconnects and resumes, as after any lost connection.
"""

import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from math import inf
from typing import Any, Self
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

import orjson
import trio

from netra_trio.client.fallback import Transport
from netra_trio.client.frames import HELLO, as_object, parse_object
from netra_trio.client.http import (
    ANSWER_SECONDS,
    TOO_SLOW,
    Answer,
    HttpConnection,
    KeptConnection,
    dial,
    host_of,
    refusal_of,
    target_of,
)
from netra_trio.client.sockets import NoAnswer, OpeningRefused, SocketClosed
from netra_trio.client.sse import EventTooLarge, SseReader
from netra_trio.protocol.codes import ABNORMAL, CloseCode

FIRST_FRAME_SECONDS = 5.0  # of a stream: something may collect it; a server sends it at once
WAIT_SECONDS = 25  # of a poll: most proxies give up after 30 or later
POST_SECONDS = 30.0  # for the answer to a frame
UPLOAD_RATE = 16 * 1024  # bytes a second, beside that
EMPTY_SECONDS = 1.0  # between two polls without a frame: an answer must not drive a loop
CONTROL_SECONDS = 0.25  # between two polls without an event, likewise
FRAME_BYTES = 1024 * 1024  # four times the largest event (docs/protocol.md, Limits)
POLL_BYTES = 4 * FRAME_BYTES  # of one answer
REFUSAL_BYTES = 64 * 1024

_OK, _ACCEPTED, _TOO_LARGE = 200, 202, 413
_WEBSOCKET = "/ws"  # the usual path of the server's WebSocket
_STREAM, _JSON = "text/event-stream", "application/json"


class LateFrame(NoAnswer):
    """There was time enough for the first frame of a stream, and it did not come."""


class EventsDoor:
    """Opens sockets at the paths that the server names in its discovery document.

    Args:
        trust: Returns the authorities to trust for `https`.

    Attributes:
        paths: The paths of the stream and for messages; None if the server has no such door.
    """

    def __init__(self, trust: Callable[[], ssl.SSLContext]) -> None:
        self._trust = trust
        self._polls: set[PollSocket] = set()
        self.paths: tuple[str, str] | None = None

    def read_config(self, document: Mapping[str, Any]) -> None:
        """Read the discovery document of the server."""
        config = as_object(document.get("websocket_config"))
        door = as_object(as_object(config.get("doors")).get("events"))
        stream, messages = door.get("stream"), door.get("messages")
        self.paths = None
        if isinstance(stream, str) and isinstance(messages, str):
            self.paths = (stream, messages)

    @asynccontextmanager
    async def stream(self, url: str, *, headers: Mapping[str, str]) -> AsyncIterator["SseSocket"]:
        """Open a stream of server-sent events (see `Dialer.open`).

        Raises:
            OpeningRefused, NoAnswer: As `Dialer.open`.
            LateFrame: The first frame did not come in time.
        """
        where = _Address(url, self._paths())
        poster = _Poster(where, headers, self._trust)
        stream = await dial(where.parts, self._trust)
        async with poster, HttpConnection(stream, host_of(where.parts)) as connection:
            with trio.move_on_after(FIRST_FRAME_SECONDS):
                fields = {**poster.headers, "accept": _STREAM, "cache-control": "no-store"}
                head = await connection.start("GET", where.stream(), fields)
                await _check(head, connection, _STREAM)
                socket = SseSocket(connection, poster)
                await socket.prepare()
            if poster.session_id is None:
                raise LateFrame(f"no event within {FIRST_FRAME_SECONDS:g} s")
            yield socket

    @asynccontextmanager
    async def poll(self, url: str, *, headers: Mapping[str, str]) -> AsyncIterator["PollSocket"]:
        """Open a connection that is read with long-polls (see `Dialer.open`).

        Raises:
            OpeningRefused, NoAnswer: As `Dialer.open`.
        """
        where = _Address(url, self._paths())
        poster = _Poster(where, headers, self._trust)
        async with poster, PollSocket(poster, self._trust) as socket:
            with trio.move_on_after(ANSWER_SECONDS):
                await socket.prepare()
            if poster.session_id is None:
                raise NoAnswer(TOO_SLOW)
            self._polls.add(socket)
            try:
                yield socket
            finally:
                self._polls.discard(socket)

    @contextmanager
    def pausing(self, url: str) -> Iterator[Callable[[str], None]]:
        """Pause the polls of a session while another connection of it is being opened.

        A poll acknowledges what the one before has returned, and the new connection has to begin
        with what the client had when it was requested.

        Args:
            url: The address of the other connection. When it is open, call the yielded function
                with the id of its session: polls of that session are not sent any more.
        """
        session_id = parse_qs(urlsplit(url).query).get("session_id", [""])[0]
        paused = [poll for poll in self._polls if session_id and poll.session_id == session_id]
        for poll in paused:
            poll.pause()

        def settle(new_id: str) -> None:
            while paused:
                poll = paused.pop()
                if new_id != session_id:
                    poll.go_on()

        try:
            yield settle
        finally:
            settle("")

    def _paths(self) -> tuple[str, str]:
        assert self.paths is not None  # noqa: S101 - the caller has checked
        return self.paths


class _Address:
    """The addresses of a connection.

    Args:
        url: That of the WebSocket. A path in front of its `/ws` is in front of the door's, too.
        paths: The paths of the door.
    """

    def __init__(self, url: str, paths: tuple[str, str]) -> None:
        self.parts = urlsplit(url)
        path = self.parts.path.rstrip("/")
        prefix = path.removesuffix(_WEBSOCKET) if path.endswith(_WEBSOCKET) else ""
        self._stream, self._messages = prefix + paths[0], prefix + paths[1]
        self._query = parse_qsl(self.parts.query)

    def stream(self, **query: str) -> str:
        """Return the target of the stream, with the whole query of the address."""
        return self._target(self._stream, [*self._query, *query.items()])

    def next_poll(self, session_id: str, last_seq: int) -> str:
        """Return the target of a poll that is not the first one."""
        place = {"session_id": session_id, "last_seq": last_seq, "wait": WAIT_SECONDS}
        return self._target(self._stream, [*self._own, *place.items()])

    def messages(self, session_id: str) -> str:
        """Return the target for messages."""
        return self._target(self._messages, [*self._own, ("session_id", session_id)])

    @property
    def _own(self) -> list[tuple[str, str]]:
        """The query of the application."""
        return [(k, v) for k, v in self._query if k not in {"session_id", "last_seq"}]

    def _target(self, path: str, query: list[tuple[str, Any]]) -> str:
        return target_of(SplitResult("", "", path, urlencode(query), ""))


class _Poster:
    """Sends the frames of a client.

    Attributes:
        where: The addresses.
        headers: The credential; a token that the client renews replaces it.
        session_id: The session, from the first frame of the server on; empty if the server closed
            the connection instead.
        code: The close code; None while the socket is open.
    """

    def __init__(
        self,
        where: _Address,
        headers: Mapping[str, str],
        trust: Callable[[], ssl.SSLContext],
    ) -> None:
        self.where = where
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.session_id: str | None = None
        self.code: int | None = None
        self._kept = KeptConnection(where.parts, trust)
        self._sending = trio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(ABNORMAL)
        await self._kept.close()

    def end(self, code: int) -> None:
        """Note the close code; the first one counts."""
        if self.code is None:
            self.code = code

    async def post(self, text: str) -> None:
        """Send a frame, and wait until the server has taken it.

        Raises:
            SocketClosed: The socket is closed, from now on if the frame was not taken.
        """
        async with self._sending:
            if self.code is None:
                await self._post(text)
            if self.code is not None:
                raise SocketClosed(self.code)

    async def _post(self, text: str) -> None:
        assert self.session_id is not None  # noqa: S101 - a socket is used after its first frame
        body = text.encode()
        headers = {**self.headers, "content-type": _JSON}
        target = self.where.messages(self.session_id)
        code = ABNORMAL
        with trio.move_on_after(POST_SECONDS + len(body) / UPLOAD_RATE):
            try:
                connection = await self._kept.get()
                answer = await connection.ask("POST", target, headers, body, limit=REFUSAL_BYTES)
            except NoAnswer:
                self.end(ABNORMAL)
                return
            if answer.status == _ACCEPTED:
                self._note_token(text)
                return
            code = CloseCode.TOO_BIG if answer.status == _TOO_LARGE else ABNORMAL
        self.end(code)

    async def finish(self, code: int) -> None:
        """Wait for the frame that is being sent, and send no other."""
        async with self._sending:
            self.end(code)

    def _note_token(self, text: str) -> None:
        frame = parse_object(text) or {}
        if frame.get("type") == "auth":
            token = as_object(frame.get("payload")).get("token")
            self.headers["authorization"] = f"Bearer {token}"


class _HttpSocket(ABC):
    """The common part of both sockets: a `Socket`."""

    def __init__(self, poster: _Poster) -> None:
        self._poster = poster

    async def send(self, frame: str | bytes) -> None:
        """Post a frame (see `Socket`)."""
        try:
            await self._poster.post(_text_of(frame))
        except SocketClosed:
            await self._stop_reading()
            raise

    async def close(self, code: int) -> None:
        """Close (see `Socket`); the server is not told, and sees the end of the stream."""
        await self._poster.finish(code)
        await self._stop_reading()

    @abstractmethod
    async def _stop_reading(self) -> None:
        """Let a `receive` that waits end."""

    def _begin(self, frame: Mapping[str, Any] | None) -> int:
        """Read the first frame of the server; return the number after which events follow.

        Raises:
            NoAnswer: It is not the one that opens a connection.
        """
        payload = as_object((frame or {}).get("payload"))
        session_id = payload.get("session_id")
        last_seq = as_object(payload.get("resume")).get("last_seq")
        if (frame or {}).get("type") != HELLO or not isinstance(session_id, str):
            raise NoAnswer(f"the first frame is not {HELLO}")
        self._poster.session_id = session_id
        return last_seq if isinstance(last_seq, int) else 0


class SseSocket(_HttpSocket):
    """A `Socket` whose frames come as server-sent events."""

    transport = Transport.SSE

    def __init__(self, connection: HttpConnection, poster: _Poster) -> None:
        super().__init__(poster)
        self._connection = connection
        self._reader = SseReader(limit=FRAME_BYTES)
        self._frames: deque[str] = deque()

    async def prepare(self) -> None:
        """Wait for the first frame.

        Raises:
            NoAnswer: There is none.
        """
        poster = self._poster
        while not self._frames and poster.code is None:
            await self._read()
        if self._frames:
            self._begin(parse_object(self._frames[0]))
        elif poster.code == ABNORMAL:
            raise NoAnswer("the stream ended before its first event")
        else:
            poster.session_id = ""

    async def receive(self) -> str:
        """Wait for a frame (see `Socket`)."""
        await trio.lowlevel.checkpoint()
        while not self._frames:
            if self._poster.code is not None:
                raise SocketClosed(self._poster.code)
            await self._read()
        return self._frames.popleft()

    async def _read(self) -> None:
        try:
            piece = await self._connection.read()
            events = self._reader.feed(piece)
        except (NoAnswer, EventTooLarge):
            piece, events = b"", []
        for event in events:
            if event.event == "close":
                self._poster.end(_close_code(parse_object(event.data)))
            elif event.event == "message":
                self._frames.append(event.data)
        if not piece:
            self._poster.end(ABNORMAL)

    async def _stop_reading(self) -> None:
        await self._connection.close()


class PollSocket(_HttpSocket):
    """A `Socket` whose frames come as answers to polls.

    A poll acknowledges all events of the answers before. So it is sent when the caller has received
    the last frame, and waits for the next one.
    """

    transport = Transport.LONG_POLL

    def __init__(self, poster: _Poster, trust: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(poster)
        self._kept = KeptConnection(poster.where.parts, trust)
        self._frames: deque[dict[str, Any]] = deque()
        self._close: int | None = None  # the code that follows the frames
        self._last_seq = 0
        self._has_begun = False  # the first frame was received
        self._may_poll = trio.Event()
        self._may_poll.set()
        self._next_at = -inf

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kept.close()

    @property
    def session_id(self) -> str | None:
        """The session."""
        return self._poster.session_id

    def pause(self) -> None:
        """Send no further poll."""
        self._may_poll = trio.Event()

    def go_on(self) -> None:
        """Send polls again."""
        self._may_poll.set()

    async def prepare(self) -> None:
        """Wait for the first frame.

        Raises:
            OpeningRefused, NoAnswer: There is none.
        """
        # The server may still hold a connection of the session, which this is not to continue.
        await self._poll(self._poster.where.stream(wait=str(WAIT_SECONDS), resume="1"))
        if self._frames:
            self._last_seq = self._begin(self._frames[0])
        elif self._close is None:
            raise NoAnswer("the first answer has no frame")
        else:
            self._poster.session_id = ""

    async def send(self, frame: str | bytes) -> None:
        """Post a frame (see `Socket`); acknowledgements are left to the polls."""
        text = _text_of(frame)
        if text.startswith('{"type":"ack"'):
            await trio.lowlevel.checkpoint()
            return
        await super().send(text)

    async def receive(self) -> str:
        """Wait for a frame (see `Socket`).

        If a poll is cancelled, the socket may be closed after the next one; nothing is lost.
        """
        await trio.lowlevel.checkpoint()
        poster = self._poster
        while True:
            while not self._frames:
                if self._close is not None:
                    poster.end(self._close)
                if poster.code is not None:
                    raise SocketClosed(poster.code)
                await self._next_poll()
            frame = self._frames.popleft()
            if frame.get("type") == HELLO and self._has_begun:
                # The server has opened another connection of the session, with none of its rooms.
                self._frames.clear()
                poster.end(ABNORMAL)
                continue
            self._has_begun = True
            seq = frame.get("seq")
            if isinstance(seq, int):
                if seq <= self._last_seq:
                    continue
                self._last_seq = seq
            return orjson.dumps(frame).decode()

    async def _next_poll(self) -> None:
        await trio.sleep_until(self._next_at)
        await self._may_poll.wait()
        if self._poster.code is not None:
            return
        assert self.session_id is not None  # noqa: S101 - it is set by the first frame
        started = trio.current_time()
        with trio.move_on_after(WAIT_SECONDS + ANSWER_SECONDS) as patience:
            try:
                await self._poll(self._poster.where.next_poll(self.session_id, self._last_seq))
            except (NoAnswer, OpeningRefused):
                self._poster.end(ABNORMAL)
        if patience.cancelled_caught:
            self._poster.end(ABNORMAL)
        has_event = any("seq" in frame for frame in self._frames)
        gap = 0.0 if has_event else CONTROL_SECONDS if self._frames else EMPTY_SECONDS
        self._next_at = started + gap

    async def _poll(self, target: str) -> None:
        connection = await self._kept.get()
        fields = {**self._poster.headers, "accept": _JSON}
        head = await connection.start("GET", target, fields)
        await _check(head, connection, _JSON)
        body = await connection.read_all(POLL_BYTES)
        document = parse_object(body) or {}
        frames = document.get("frames")
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            raise NoAnswer("the answer to a poll has no frames")
        self._frames += frames
        if "close" in document:
            self._close = _close_code(document["close"])

    async def _stop_reading(self) -> None:
        self.go_on()
        await self._kept.close()


async def _check(head: Answer, connection: HttpConnection, kind: str) -> None:
    """Check the head of an answer.

    Raises:
        OpeningRefused, NoAnswer: It is not the expected one.
    """
    if head.status != _OK:
        body = await connection.read_all(REFUSAL_BYTES)
        raise refusal_of(Answer(head.status, head.headers, body))
    if not head.headers.get("content-type", "").startswith(kind):
        raise NoAnswer(f"the answer is not {kind}")


def _close_code(close: Any) -> int:
    code = as_object(close).get("code")
    return code if type(code) is int else ABNORMAL


def _text_of(frame: str | bytes) -> str:
    assert isinstance(frame, str)  # noqa: S101 - binary frames are only sent with netra.v2
    return frame
