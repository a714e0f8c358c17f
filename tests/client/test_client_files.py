"""Uploads and downloads of a client: against a server that breaks off, refuses, or is slow."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import orjson
import pytest
import trio
from attrs import define, field

from netra_trio.client import (
    ClientError,
    Event,
    File,
    MessageRefused,
    Network,
    TransferFailed,
)
from netra_trio.client.files import ATTEMPTS, CHUNK_BYTES, FileTransfers
from netra_trio.client.frames import frame_of, message_of
from netra_trio.client.outbox import OutboxMessage
from netra_trio.client.outbox_file import OutboxFile
from netra_trio.client.tokens import GetToken, Tokens

PATIENCE = 60.0
UPLOADED = {"file_id": "file_1", "media_type": "text/plain", "bytes": 5, "sha256": "00"}
FILE = File("file_1", "text/plain", 5, "00")


@define
class Seen:
    """A request that the server has received.

    Attributes:
        body: As much of it as the server has read.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@define(eq=False)
class Peer:
    """One connection of the client, on the side of the server."""

    stream: trio.SocketStream
    protocol: h11.Connection = field(factory=lambda: h11.Connection(h11.SERVER))

    async def request(self, *, body_bytes: int | None = None) -> Seen:
        """Read a request, or only so many bytes of its body."""
        seen: Seen | None = None
        while seen is None or body_bytes is None or len(seen.body) < body_bytes:
            event = self.protocol.next_event()
            if event is h11.NEED_DATA:
                self.protocol.receive_data(await self.stream.receive_some(CHUNK_BYTES))
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                seen = Seen(event.method.decode(), event.target.decode(), headers)
            elif isinstance(event, h11.Data):
                assert seen is not None
                seen.body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage), event
                assert seen is not None
                break
        assert seen is not None
        return seen

    async def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        """Send a whole answer."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        await self.start(status, len(data), **headers)
        await self.write(data)
        await self._send(h11.EndOfMessage())

    async def start(self, status: int, size: int | None, **headers: str) -> None:
        """Send the head of an answer; without a size the body is sent in chunks."""
        length = {} if size is None else {"content-length": str(size)}
        fields = length | {name.replace("_", "-"): value for name, value in headers.items()}
        await self._send(h11.Response(status_code=status, headers=list(fields.items())))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if data:
            await self._send(h11.Data(data=data))

    async def _send(self, event: Any) -> None:
        data = self.protocol.send(event)
        assert data is not None
        await self.stream.send_all(data)


Handler = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def transfers(
    *handlers: Handler, get_token: GetToken | None = None
) -> AsyncIterator[FileTransfers]:
    """Open a server that serves one connection with each handler, and transfers to it."""
    left = list(handlers)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await left.pop(0)(Peer(stream))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            await nursery.start(trio.serve_listeners, serve, [listener])
            tokens = Tokens("t" if get_token is None else None, get_token)
            url = f"ws://127.0.0.1:{port}/ws"
            yield FileTransfers(url, dialer=Network(), tokens=tokens, random=lambda: 0.0)
            assert left == []
            nursery.cancel_scope.cancel()


def takes(seen: list[Seen]) -> Handler:
    async def handler(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.answer(200, UPLOADED)

    return handler


def refuses(status: int, body: Any = b"", **headers: str) -> Handler:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer(status, body, **headers)

    return handler


async def hangs_up(peer: Peer) -> None:
    await peer.request(body_bytes=1)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


# Uploads.


async def test_an_upload_of_bytes() -> None:
    seen: list[Seen] = []
    told: list[tuple[int, int | None]] = []
    data = b"x" * (2 * CHUNK_BYTES + 1)
    async with transfers(takes(seen)) as files:
        file = await files.upload(
            data, name="a b/\u00e9.txt", progress=lambda *each: told.append(each)
        )
    assert file == FILE
    [request] = seen
    assert (request.method, request.target) == ("POST", "/ws/files")
    disposition = "attachment; filename*=UTF-8''a%20b%2F%C3%A9.txt"
    assert request.headers["content-disposition"] == disposition
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["content-length"] == str(len(data))
    assert request.body == data
    assert told == [(CHUNK_BYTES, len(data)), (2 * CHUNK_BYTES, len(data)), (len(data), len(data))]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_an_upload_of_a_path(tmp_path: Path, size: int) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(b"y" * size)
    seen: list[Seen] = []
    async with transfers(takes(seen), takes(seen)) as files:
        await files.upload(path, name=None, progress=None)
        await files.upload(str(path), name="", progress=None)
    assert [request.target for request in seen] == ["/ws/files"] * 2
    names = [request.headers.get("content-disposition") for request in seen]
    assert names == ["attachment; filename*=UTF-8''plan.txt", None]
    assert [request.body for request in seen] == [b"y" * size] * 2
    assert seen[0].headers["content-length"] == str(size)


async def test_an_upload_of_an_iterable() -> None:
    seen: list[Seen] = []
    told: list[tuple[int, int | None]] = []
    async with transfers(takes(seen)) as files:
        data = pieces(b"he", b"", b"llo")
        await files.upload(data, name=None, progress=lambda *each: told.append(each))
    [request] = seen
    assert request.headers["transfer-encoding"] == "chunked"
    assert (request.target, request.body) == ("/ws/files", b"hello")
    assert told == [(2, None), (5, None)]


async def test_sources_that_cannot_be_uploaded(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    async def goes_on(peer: Peer) -> None:
        with pytest.raises((AssertionError, h11.RemoteProtocolError, trio.BrokenResourceError)):
            await peer.request()

    wrong: Any = 5
    async with transfers(goes_on, goes_on) as files:
        with pytest.raises(TypeError, match="expected a path, bytes or an async iterable"):
            await files.upload(wrong, name=None, progress=None)
        with pytest.raises(FileNotFoundError):
            await files.upload(tmp_path / "none", name=None, progress=None)
        with pytest.raises(ZeroDivisionError):
            await files.upload(broken(), name=None, progress=None)


async def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2 * CHUNK_BYTES)

    async def goes_on(peer: Peer) -> None:
        with pytest.raises((AssertionError, h11.RemoteProtocolError, trio.BrokenResourceError)):
            await peer.request()

    def cut(sent: int, _: int | None) -> None:
        path.write_bytes(b"x" * sent)

    async with transfers(goes_on) as files:
        with pytest.raises(ValueError, match="the body does not have the declared size"):
            await files.upload(path, name=None, progress=cut)


async def test_an_upload_that_breaks_off_is_repeated() -> None:
    seen: list[Seen] = []
    async with transfers(hangs_up, hangs_up, takes(seen)) as files:
        assert await files.upload(b"hello", name=None, progress=None) == FILE
    assert seen[0].body == b"hello"


async def test_an_upload_that_breaks_off_too_often() -> None:
    async with transfers(*[hangs_up] * ATTEMPTS) as files:
        with pytest.raises(TransferFailed, match=f"failed {ATTEMPTS} times: "):
            await files.upload(b"hello", name=None, progress=None)


async def test_an_upload_of_an_iterable_is_not_repeated() -> None:
    busy = {"code": "SERVICE_UNAVAILABLE", "error": "Busy.", "help": "Wait."}
    async with transfers(hangs_up, refuses(503, busy)) as files:
        with pytest.raises(TransferFailed, match="the upload broke off"):
            await files.upload(pieces(b"hello"), name=None, progress=None)
        with pytest.raises(MessageRefused) as caught:
            await files.upload(pieces(b"hello"), name=None, progress=None)
    assert caught.value.code == "SERVICE_UNAVAILABLE"


async def test_an_upload_that_is_refused_for_now_is_repeated() -> None:
    seen: list[Seen] = []
    body = {"code": "RATE_LIMIT_EXCEEDED", "error": "Too many.", "help": "Wait."}
    async with transfers(refuses(429, body, retry_after="0"), refuses(502), takes(seen)) as files:
        assert await files.upload(b"hello", name=None, progress=None) == FILE


async def test_an_upload_for_which_there_is_no_room_is_not_repeated() -> None:
    body = {"code": "QUEUE_FULL", "error": "Too many bytes.", "help": "Delete threads."}
    async with transfers(refuses(429, body, retry_after="1")) as files:
        with pytest.raises(MessageRefused) as caught:
            await files.upload(b"hello", name=None, progress=None)
    assert caught.value.code == "QUEUE_FULL"


async def test_a_generator_is_closed_when_its_upload_fails() -> None:
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * CHUNK_BYTES
        finally:
            await trio.lowlevel.checkpoint()
            closed.set()

    async with transfers(hangs_up) as files:
        with pytest.raises(TransferFailed):
            await files.upload(endless(), name=None, progress=None)
        assert closed.is_set()


async def test_an_answer_before_the_end_of_the_body_ends_the_upload() -> None:
    async def early(peer: Peer) -> None:
        await peer.request(body_bytes=1)
        body = {"code": "MESSAGE_TOO_LARGE", "error": "Too large.", "help": "Send less."}
        await peer.answer(413, body)
        await trio.sleep_forever()

    async with transfers(early) as files:
        with pytest.raises(MessageRefused, match=r"^MESSAGE_TOO_LARGE: Too large. Send less.$"):
            await files.upload(b"x" * 50_000_000, name=None, progress=None)


async def test_a_refusal_of_something_else() -> None:
    async with transfers(refuses(404, b"<html>"), refuses(200, b"<html>")) as files:
        with pytest.raises(MessageRefused) as caught:
            await files.upload(b"hello", name=None, progress=None)
        assert caught.value.code == "HTTP_404"
        with pytest.raises(TransferFailed, match="not one of a netra_trio server"):
            await files.upload(b"hello", name=None, progress=None)


async def test_a_token_that_has_expired_is_renewed_once() -> None:
    given = iter(("old", "new", "newer"))
    seen: list[Seen] = []
    refused = {"code": "TOKEN_EXPIRED", "error": "Expired.", "help": "Renew."}

    async def token() -> str:
        return next(given)

    both = (refuses(401, refused), takes(seen), refuses(401, refused), refuses(401, refused))
    async with transfers(*both, get_token=token) as files:
        assert await files.upload(b"hello", name=None, progress=None) == FILE
        assert seen[0].headers["authorization"] == "Bearer new"
        with pytest.raises(MessageRefused, match="TOKEN_EXPIRED"):
            await files.upload(b"hello", name=None, progress=None)
    async with transfers(refuses(401, refused)) as files:
        with pytest.raises(MessageRefused, match="TOKEN_EXPIRED"):
            await files.upload(b"hello", name=None, progress=None)


async def test_a_server_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.client.files.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("netra_trio.client.files.ATTEMPTS", 1)

    async def stalls(peer: Peer) -> None:
        await trio.sleep_forever()

    async def never_answers(peer: Peer) -> None:
        await peer.request()
        await trio.sleep_forever()

    async with transfers(stalls, never_answers) as files:
        for size in (50_000_000, 5):
            with pytest.raises(TransferFailed, match=r"no progress for 0\.05 s"):
                await files.upload(b"x" * size, name=None, progress=None)


async def test_a_dialer_of_sockets_only() -> None:
    files = FileTransfers(
        "ws://h/ws", dialer=object(), tokens=Tokens("t", None), random=lambda: 0.0
    )
    with pytest.raises(ClientError, match="opens no HTTP connections"):
        await files.upload(b"hello", name=None, progress=None)


# Downloads.

CONTENT = b"0123456789abcdef" * 10_000
NAMED = {
    "content_type": "text/plain",
    "content_disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''%C3%A9.txt",
}


def sends(seen: list[Seen], *, cut: int | None = None) -> Handler:
    """Send the content from the requested byte on; close the connection after `cut` bytes."""

    async def handler(peer: Peer) -> None:
        request = await peer.request()
        seen.append(request)
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        data = CONTENT[start:]
        await peer.start(206 if start else 200, len(data), **NAMED)
        await peer.write(data[:cut])

    return handler


async def whole(files: FileTransfers) -> tuple[str, str, int, bytes]:
    async with files.download("file_1") as download:
        chunks = [chunk async for chunk in download]
        assert max(map(len, chunks)) <= CHUNK_BYTES
        return download.name, download.media_type, download.bytes, b"".join(chunks)


async def test_a_download() -> None:
    seen: list[Seen] = []
    async with transfers(sends(seen)) as files:
        assert await whole(files) == ("\u00e9.txt", "text/plain", len(CONTENT), CONTENT)
    assert (seen[0].method, seen[0].target) == ("GET", "/ws/files/file_1")
    assert seen[0].headers["authorization"] == "Bearer t"


async def test_a_download_that_breaks_off_goes_on_where_it_was() -> None:
    seen: list[Seen] = []
    handlers = (hangs_up_at_once, sends(seen, cut=70_000), sends(seen, cut=0), sends(seen))
    async with transfers(*handlers) as files:
        assert (await whole(files))[3] == CONTENT
    starts = [request.headers.get("range") for request in seen]
    assert starts == [None, "bytes=70000-", "bytes=70000-"]


async def hangs_up_at_once(peer: Peer) -> None:
    """Close the connection without an answer."""


async def test_a_download_that_breaks_off_too_often() -> None:
    seen: list[Seen] = []
    handlers = [sends(seen, cut=5)] + [sends(seen, cut=0)] * (ATTEMPTS - 1)
    async with transfers(*handlers) as files, files.download("file_1") as download:
        assert await anext(download) == CONTENT[:5]
        with pytest.raises(TransferFailed, match="failed 5 times: peer closed connection"):
            await anext(download)


async def test_a_download_that_is_refused() -> None:
    gone = {"code": "FILE_NOT_FOUND", "error": "No such file.", "help": "Ask for another."}
    seen: list[Seen] = []
    handlers = (refuses(404, gone), sends(seen, cut=5), refuses(404, gone))
    async with transfers(*handlers) as files:
        with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):
            await whole(files)
        with pytest.raises(MessageRefused, match="FILE_NOT_FOUND"):  # deleted meanwhile
            await whole(files)


async def test_a_part_that_is_too_short_is_followed_by_the_rest() -> None:
    seen: list[Seen] = []

    async def short(peer: Peer) -> None:
        await peer.request()
        await peer.answer(206, CONTENT[5:9])

    async with transfers(sends(seen, cut=5), short, sends(seen)) as files:
        assert (await whole(files))[3] == CONTENT
    assert seen[-1].headers["range"] == "bytes=9-"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment", ""),
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment; filename=\"a_.txt\"; filename*=UTF-8''a%2Fb.txt", "a/b.txt"),
    ],
)
async def test_the_name_of_a_download(disposition: str, name: str) -> None:
    handler = refuses(200, content_disposition=disposition)
    async with transfers(handler) as files, files.download("file_1") as download:
        assert [chunk async for chunk in download] == []
        assert (download.name, download.bytes) == (name, 0)


async def test_a_download_without_its_size() -> None:
    async def chunked(peer: Peer) -> None:
        await peer.request()
        await peer.start(200, None, **NAMED)
        await peer.write(CONTENT)

    async with transfers(chunked) as files:
        with pytest.raises(TransferFailed, match="the answer has no Content-Length"):
            await whole(files)


async def test_a_server_without_ranges_is_asked_again() -> None:
    seen: list[Seen] = []

    async def ignores(peer: Peer) -> None:
        await peer.request()
        await peer.start(200, len(CONTENT), **NAMED)

    async with transfers(sends(seen, cut=5), ignores, sends(seen)) as files:
        assert (await whole(files))[3] == CONTENT


async def test_a_download_that_is_left_early_closes_its_connection() -> None:
    closed = trio.Event()

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.start(200, 10**9, **NAMED)
        try:
            while True:
                await peer.write(b"x" * CHUNK_BYTES)
        except trio.BrokenResourceError:
            closed.set()

    async with transfers(endless) as files:
        async with files.download("file_1") as download:
            await anext(download)
        await closed.wait()


async def test_a_download_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.client.files.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("netra_trio.client.files.ATTEMPTS", 1)

    async def stalls(peer: Peer) -> None:
        await peer.request()
        await trio.sleep_forever()

    async with transfers(stalls) as files:
        with pytest.raises(TransferFailed, match=r"nothing was received for 0\.05 s"):
            await whole(files)


# Messages.


def test_an_outbox_keeps_the_files_of_a_message(tmp_path: Path) -> None:
    path, payload = tmp_path / "outbox.jsonl", {"content": "look", "attachments": ["file_1"]}
    with OutboxFile.open(path) as file:
        file.add(OutboxMessage("c-1", frame_of("user_message", payload, "c-1")))
    with OutboxFile.open(path) as file:
        [kept] = file.messages
    assert orjson.loads(kept.text)["payload"] == payload


def test_a_watched_thread_has_the_files_of_own_messages() -> None:
    confirmed = Event("message_confirmed", {"message_id": "m", "run_id": "r"})
    for files in (["file_1"], None):
        text = frame_of("user_message", {"content": "look", "attachments": files})
        assert message_of(confirmed, text, "alice").payload.get("attachments") == files
