"""The sockets of the events door against scripted answers, in virtual time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from attrs import define, field
from support.http_host import Host, hosting
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import NoAnswer, OpeningRefused, Socket, SocketClosed
from netra_trio.client.door import POST_SECONDS, UPLOAD_RATE, WAIT_SECONDS, EventsDoor, LateFrame
from netra_trio.transports.asgi import Message, Receive, Send

URL = "ws://server.test/ws?color=blue&session_id=s-1&last_seq=4"
PATHS = ("/ws/events", "/ws/messages")
HEADERS = {"Authorization": "Bearer t.o.k"}
HELLO = {
    "type": "connection_established",
    "payload": {"session_id": "s-1", "resume": {"last_seq": 4}},
}
PONG = {"type": "pong", "payload": {}}
KINDS = pytest.mark.parametrize("kind", ["stream", "poll"])

Handler = Callable[["Call"], Awaitable[None]]


def event(seq: int) -> dict[str, Any]:
    return {"type": "agent_thinking", "payload": {}, "seq": seq}


@define(eq=False)
class Call:
    """A request that reached the server."""

    scope: Message
    body: bytes
    send: Send

    @property
    def place(self) -> str:
        query: str = self.scope["query_string"].decode()
        return f"{self.scope['path']}?{query}"

    @property
    def token(self) -> str:
        token: str = dict(self.scope["headers"])[b"authorization"].decode()
        return token

    async def start(self, kind: str, status: int = 200) -> None:
        headers = [(b"content-type", kind.encode()), (b"retry-after", b"7")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def put(self, data: bytes, *, more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, document: Any, status: int = 200) -> None:
        await self.start("application/json", status)
        await self.put(document if isinstance(document, bytes) else orjson.dumps(document))

    async def stream(self, *frames: Any) -> None:
        """Begin a stream, and leave it open."""
        await self.start("text/event-stream")
        for frame in frames:
            await self.put(sse(frame), more=True)


def sse(frame: Any, name: str = "message") -> bytes:
    data = frame if isinstance(frame, bytes) else orjson.dumps(frame)
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


@define(eq=False)
class Server:
    """A server that is scripted: `reads` answer the streams and polls, `posts` the frames."""

    reads: list[Any] = field(factory=list)
    posts: list[int] = field(factory=list)
    calls: list[Call] = field(factory=list)
    times: list[float] = field(factory=list)
    post_seconds: float = 0.0
    host: Host = field(init=False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        call = Call(scope, (await receive())["body"], send)
        self.calls.append(call)
        self.times.append(trio.current_time())
        if scope["method"] == "POST":
            await trio.sleep(self.post_seconds)
            status = self.posts.pop(0) if self.posts else 202
            await (call.answer(b"", status) if status else silent(call))
            return
        step = self.reads.pop(0) if self.reads else None
        if callable(step):
            await step(call)
        elif step is not None:
            await call.answer({"frames": step})
            return
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    server = Server()
    with trio.fail_after(1000):
        async with hosting(server, monkeypatch) as server.host:
            yield server


@asynccontextmanager
async def opened(server: Server, kind: str, *reads: Any, url: str = URL) -> AsyncIterator[Socket]:
    """Open a socket whose answers are given, after the first frame."""
    first: Any = [HELLO] if kind == "poll" else streaming(HELLO)
    server.reads += [first, *reads]
    door = EventsDoor(trust)
    door.paths = PATHS
    opening = door.poll if kind == "poll" else door.stream
    async with opening(url, headers=HEADERS) as socket:
        assert orjson.loads(await socket.receive()) == HELLO
        yield socket


def streaming(*frames: Any) -> Handler:
    async def answer(call: Call) -> None:
        await call.stream(*frames)

    return answer


def answering(document: Any, status: int = 200, kind: str = "application/json") -> Handler:
    async def answer(call: Call) -> None:
        await call.start(kind, status)
        await call.put(document if isinstance(document, bytes) else orjson.dumps(document))

    return answer


async def silent(_: Call) -> None:
    await trio.sleep_forever()


def trust() -> Any:
    raise AssertionError("there is no TLS here")


async def failure(server: Server, kind: str, read: Any) -> Exception:
    """Return the error of an opening."""
    with pytest.raises((NoAnswer, OpeningRefused)) as caught:
        async with opened(server, kind, url=URL) if read is None else first(server, kind, read):
            pass
    return caught.value


@asynccontextmanager
async def first(server: Server, kind: str, read: Any) -> AsyncIterator[Socket]:
    """Open a socket with any first answer."""
    server.reads.append(read)
    door = EventsDoor(trust)
    door.paths = PATHS
    opening = door.poll if kind == "poll" else door.stream
    async with opening(URL, headers=HEADERS) as socket:
        yield socket


# --- opening


@KINDS
@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ws://server.test/ws", "/ws/events?"),
        ("ws://server.test/chat/ws/?a=b", "/chat/ws/events?a=b"),
        ("ws://server.test/socket", "/ws/events?"),
        (URL, "/ws/events?color=blue&session_id=s-1&last_seq=4"),
    ],
)
async def test_the_addresses(
    autojump_clock: MockClock, server: Server, kind: str, url: str, place: str
) -> None:
    async with opened(server, kind, url=url) as socket:
        await socket.send("{}")
    get, post = server.calls
    assert get.place.startswith(place)
    assert ("resume=1" in get.place) is (kind == "poll")
    own = place.partition("?")[2].partition("session_id")[0].rstrip("&")
    path = place.partition("?")[0].replace("events", "messages")
    assert post.place == path + "?" + "&".join(filter(None, [own, "session_id=s-1"]))
    assert (get.token, post.token, post.body) == ("Bearer t.o.k", "Bearer t.o.k", b"{}")


@KINDS
async def test_a_refusal(autojump_clock: MockClock, server: Server, kind: str) -> None:
    body = {"code": "INVALID_TOKEN", "error": "No.", "help": "Sign in."}
    refused = await failure(server, kind, answering(body, 401))
    assert isinstance(refused, OpeningRefused)
    assert (refused.status, refused.code, refused.retry_after) == (401, "INVALID_TOKEN", 7.0)


STREAM = "text/event-stream"


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("stream", answering(HELLO)),
        ("stream", answering(b"", kind=STREAM)),
        ("stream", answering(sse(PONG), kind=STREAM)),
        ("stream", answering(sse(b"no"), kind=STREAM)),
        ("stream", answering(b"data: " + b"x" * 2_000_000, kind=STREAM)),
        ("poll", answering(b"<p>", kind="text/html")),
        ("poll", answering(b"no")),
        ("poll", answering({})),
        ("poll", answering({"frames": []})),
        ("poll", answering({"frames": [PONG]})),
        ("poll", answering({"frames": [3]})),
        ("poll", answering({"frames": [{"type": HELLO["type"], "payload": 3}]})),
    ],
)
async def test_invalid_answers(
    autojump_clock: MockClock, server: Server, kind: str, read: Handler
) -> None:
    assert isinstance(await failure(server, kind, read), NoAnswer)
    await wait_all_tasks_blocked()
    assert not server.host.streams


@pytest.mark.parametrize(("kind", "seconds"), [("stream", 5.0), ("poll", 10.0)])
async def test_no_answer_in_time(
    autojump_clock: MockClock, server: Server, kind: str, seconds: float
) -> None:
    error = await failure(server, kind, streaming() if kind == "stream" else silent)
    assert isinstance(error, LateFrame) is (kind == "stream")
    assert trio.current_time() == seconds


@KINDS
async def test_a_close_before_the_first_frame(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    close = {"code": 4429, "reason": "evicted"}
    read = answering({"frames": [], "close": close})
    if kind == "stream":
        read = answering(sse(close, "close"), kind=STREAM)
    async with first(server, kind, read) as socket:
        with pytest.raises(SocketClosed) as caught:
            await socket.receive()
    assert caught.value.code == 4429


@pytest.mark.parametrize("doors", [None, 3, {"events": 3}, {"events": {"stream": "/x"}}])
def test_documents_without_the_door(doors: Any) -> None:
    door = EventsDoor(trust)
    door.read_config({"websocket_config": {"doors": doors}})
    assert door.paths is None


# --- receiving


@pytest.mark.parametrize("code", [1012, "x", None])
@KINDS
async def test_frames_before_a_close(
    autojump_clock: MockClock, server: Server, kind: str, code: Any
) -> None:
    close = {"code": code, "reason": "drained"}

    async def stream(call: Call) -> None:
        await call.stream(HELLO, event(5), PONG)
        await call.put(sse(close, "other") + sse(close, "close"))

    if kind == "poll":
        reads = [[HELLO], answering({"frames": [event(5), PONG], "close": close})]
    else:
        reads = [stream]
    async with first(server, kind, reads[0]) as socket:
        server.reads += reads[1:]
        frames = [orjson.loads(await socket.receive()) for _ in range(3)]
        assert frames == [HELLO, event(5), PONG]
        for _ in range(2):
            with pytest.raises(SocketClosed) as caught:
                await socket.receive()
            assert caught.value.code == (1012 if code == 1012 else 1006)


async def test_a_poll_acknowledges_what_was_received(
    autojump_clock: MockClock, server: Server
) -> None:
    async with opened(server, "poll", [event(5), event(6)], [event(6), event(7)]) as socket:
        for seq in (5, 6, 7):
            assert orjson.loads(await socket.receive()) == event(seq)
            await wait_all_tasks_blocked()
    polls = [call.place.partition("?")[2] for call in server.calls]
    assert polls[1:] == [
        f"color=blue&session_id=s-1&last_seq={seq}&wait={WAIT_SECONDS}" for seq in (4, 6)
    ]


async def test_acknowledgements_are_left_to_the_polls(
    autojump_clock: MockClock, server: Server
) -> None:
    async with opened(server, "poll") as socket:
        await socket.send('{"type":"ack","payload":{"seq":5}}')
        assert [call.scope["method"] for call in server.calls] == ["GET"]


async def test_the_server_has_connected_the_session_anew(
    autojump_clock: MockClock, server: Server
) -> None:
    async with opened(server, "poll", [HELLO, event(5)]) as socket:
        with pytest.raises(SocketClosed) as caught:
            await socket.receive()
    assert caught.value.code == 1006


async def test_the_pace_of_polls_without_events(autojump_clock: MockClock, server: Server) -> None:
    async with opened(server, "poll", [], [], [PONG], [PONG], [event(5)], [event(6)]) as socket:
        for _ in range(4):
            await socket.receive()
    assert server.times[1:] == [0.0, 1.0, 2.0, 2.25, 2.5, 2.5]


@pytest.mark.parametrize("read", [answering({}, 502), answering(b"no"), silent])
async def test_a_poll_that_fails(autojump_clock: MockClock, server: Server, read: Handler) -> None:
    async with opened(server, "poll", read) as socket:
        with pytest.raises(SocketClosed) as caught:
            await socket.receive()
    assert caught.value.code == 1006
    assert trio.current_time() == (WAIT_SECONDS + 10.0 if read is silent else 0.0)


async def test_an_event_that_is_too_large(autojump_clock: MockClock, server: Server) -> None:
    async def stream(call: Call) -> None:
        await call.stream(HELLO, event(5), b"x" * 2_000_000)

    async with first(server, "stream", stream) as socket:
        for _ in range(2):
            await socket.receive()
        with pytest.raises(SocketClosed):
            await socket.receive()


@KINDS
async def test_receiving_can_be_cancelled(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    """Of a stream nothing is lost; a poll is sent again."""
    calls: list[Call] = []

    async def stream(call: Call) -> None:
        calls.append(call)
        await call.stream(HELLO)
        await call.put(sse(event(5))[:20], more=True)

    read = [HELLO] if kind == "poll" else stream
    async with first(server, kind, read) as socket:
        server.reads += [None, [event(5)]]
        await socket.receive()
        with trio.move_on_after(1):
            await socket.receive()
        if kind == "stream":
            await calls[0].put(sse(event(5))[20:], more=True)
        assert orjson.loads(await socket.receive()) == event(5)


# --- sending


@KINDS
@pytest.mark.parametrize(("status", "code"), [(404, 1006), (413, 1009), (503, 1006)])
async def test_a_frame_that_is_not_taken_closes_the_socket(
    autojump_clock: MockClock, server: Server, kind: str, status: int, code: int
) -> None:
    server.posts.append(status)
    codes: list[int] = []

    async def read(socket: Socket) -> None:
        with pytest.raises(SocketClosed) as caught:
            await socket.receive()
        codes.append(caught.value.code)

    async with opened(server, kind) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(read, socket)
        await wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(SocketClosed) as caught:
                await socket.send("{}")
            assert caught.value.code == code
    assert codes == [code]
    assert [call.scope["method"] for call in server.calls].count("POST") == 1


@KINDS
async def test_a_frame_without_an_answer(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    server.posts.append(0)
    text = "x" * UPLOAD_RATE
    async with opened(server, kind) as socket:
        with pytest.raises(SocketClosed) as caught:
            await socket.send(text)
    assert (caught.value.code, trio.current_time()) == (1006, POST_SECONDS + 1)


@KINDS
async def test_the_peer_is_gone(autojump_clock: MockClock, server: Server, kind: str) -> None:
    async with opened(server, kind) as socket:
        server.host.is_down = True
        with pytest.raises(SocketClosed):
            await socket.send("{}")
        with pytest.raises(SocketClosed):
            await socket.receive()


@KINDS
async def test_frames_are_posted_one_after_the_other(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    async with opened(server, kind) as socket:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(socket.send, str(number))
        await trio.sleep(3)  # servers close a connection that is idle
        await socket.send("later")
    posts = [call for call in server.calls if call.scope["method"] == "POST"]
    assert sorted(call.body for call in posts[:5]) == [b"0", b"1", b"2", b"3", b"4"]
    assert posts[5].body == b"later"


@KINDS
async def test_a_new_token_is_used_from_then_on(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    async with opened(server, kind) as socket:
        await socket.send('{"type":"auth","payload":{"token":"n.e.w"}}')
        await socket.send("{}")
    tokens = [call.token for call in server.calls if call.scope["method"] == "POST"]
    assert tokens == ["Bearer t.o.k", "Bearer n.e.w"]


# --- closing


@KINDS
async def test_closing_waits_for_the_frame_that_is_being_sent(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    taken: list[float] = []

    async def send(socket: Socket) -> None:
        await socket.send("{}")
        taken.append(trio.current_time())

    async with opened(server, kind) as socket, trio.open_nursery() as nursery:
        server.post_seconds = 3.0
        nursery.start_soon(send, socket)
        await wait_all_tasks_blocked()
        await socket.close(1000)
        assert trio.current_time() == 3.0
        await socket.close(1000)
        for use in (socket.receive, lambda: socket.send("{}")):
            with pytest.raises(SocketClosed) as caught:
                await use()
            assert caught.value.code == 1000
    assert taken == [3.0]


@KINDS
async def test_closing_ends_what_waits(
    autojump_clock: MockClock, server: Server, kind: str
) -> None:
    async def receive(socket: Socket) -> None:
        with pytest.raises(SocketClosed) as caught:
            await socket.receive()
        assert caught.value.code == 1000

    async with opened(server, kind) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(receive, socket)
        await wait_all_tasks_blocked()
        await socket.close(1000)
    await wait_all_tasks_blocked()
    assert not server.host.streams


@KINDS
@pytest.mark.parametrize("passes", range(12))
async def test_cancelled_after_so_many_checkpoints(
    autojump_clock: MockClock, server: Server, kind: str, passes: int
) -> None:
    """Whatever it waits for: the block ends, and no connection stays open."""
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            async with opened(server, kind, [event(5)]) as socket:
                await socket.send("{}")
                await socket.receive()
                await socket.close(1000)

        nursery.start_soon(use)
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0.0
    await wait_all_tasks_blocked()
    assert not server.host.streams
