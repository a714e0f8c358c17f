"""Files over HTTP: uploads, and downloads that continue where they broke off.

file = await client.upload(Path("report.pdf"))
async with client.download(file.file_id) as download:
    async for chunk in download:
        ...
"""

import os
import re
import stat
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Protocol, Self, runtime_checkable
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import trio
from attrs import frozen

from netra_trio.client.errors import ClientError, MessageRefused, TransferFailed
from netra_trio.client.frames import parse_object
from netra_trio.client.http import Answer, HttpConnection, refusal_of
from netra_trio.client.retry import BackOff, Next, after_refusal
from netra_trio.client.sockets import NoAnswer, OpeningRefused
from netra_trio.client.tokens import Tokens
from netra_trio.generators import closing
from netra_trio.protocol.codes import ErrorCode

ATTEMPTS = 5  # in a row without progress: some 15 seconds
IDLE_SECONDS = 60.0  # without a byte in either direction
CHUNK_BYTES = 64 * 1024
ANSWER_BYTES = 64 * 1024  # of an answer other than content

Progress = Callable[[int, int | None], None]
"""Called with the bytes that were sent so far and the size, if that is known."""


@runtime_checkable
class HttpDialer(Protocol):
    """A `Dialer` that opens HTTP connections too, as `Network` does."""

    async def dial_http(self, parts: SplitResult) -> HttpConnection:
        """Open a connection to the host of an address.

        Raises:
            NoAnswer: There is none.
        """
        ...


@frozen
class File:
    """A file that was uploaded.

    Attributes:
        media_type: Its type, detected from its content.
        bytes: Its size.
        sha256: The digest of its content, in hexadecimal digits.
    """

    file_id: str
    media_type: str
    bytes: int
    sha256: str


class Download:
    """The content of a file; iterate over it once.

    A transfer that breaks off continues where it was, with the next chunk.

    Attributes:
        file_id: The file.
        name: Its name; may be empty.
        media_type: Its type.
        bytes: Its size.
    """

    def __init__(self, files: "FileTransfers", file_id: str) -> None:
        self.file_id = file_id
        self.name = ""
        self.media_type = ""
        self.bytes = 0
        self._files = files
        self._connection: HttpConnection | None = None
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, of at most 64 KiB. Cancelling ends the transfer.

        Raises:
            TransferFailed: It broke off too often.
            MessageRefused: The server refuses the file, for example because it was deleted.
        """
        back_off = BackOff(ATTEMPTS)
        while True:
            if self._at >= self.bytes:
                raise StopAsyncIteration
            try:
                chunk = await self._read()
            except NoAnswer as failure:
                await self.close()
                await self._files.pause(back_off, failure)
            except BaseException:
                await self.close()
                raise
            else:
                self._at += len(chunk)
                return chunk

    async def _read(self) -> bytes:
        if self._connection is None:
            await self.open()
        assert self._connection is not None  # noqa: S101 - `open` has set it
        with _within_idle():
            chunk = await self._connection.read()
        if not chunk:
            raise NoAnswer("the content ended early")
        return chunk

    async def open(self) -> None:
        """Request what is missing of the content; for the client.

        Raises:
            NoAnswer: There is none, or another one than to this request.
            MessageRefused: The server refuses the file.
            TransferFailed: The size of the content is not known.
        """
        headers = {"range": f"bytes={self._at}-"} if self._at else {}
        head, connection = await self._files.begin(self.file_id, headers)
        self._connection = connection
        expected = HTTPStatus.PARTIAL_CONTENT if self._at else HTTPStatus.OK
        if head.status != expected:
            raise NoAnswer(f"expected the HTTP status {expected}, got {head.status}")
        if not self._at:
            length = head.headers.get("content-length")
            if length is None:
                text = "the answer has no Content-Length: a proxy may have changed its encoding"
                raise TransferFailed(text)
            self.name = _name_in(head.headers.get("content-disposition", ""))
            self.media_type = head.headers.get("content-type", "application/octet-stream")
            self.bytes = int(length)

    async def close(self) -> None:
        """End the transfer; for the client."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class FileTransfers:
    """Uploads and downloads of one client.

    Args:
        url: The WebSocket address of the server.
        dialer: Opens connections.
        tokens: The token.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self, url: str, *, dialer: object, tokens: Tokens, random: Callable[[], float]
    ) -> None:
        parts = urlsplit(url)
        scheme = "https" if parts.scheme == "wss" else "http"
        path = parts.path.rstrip("/") + "/files"
        self._parts = urlsplit(urlunsplit((scheme, parts.netloc, path, "", "")))
        self._dialer = dialer
        self._tokens = tokens
        self._random = random

    async def upload(
        self,
        source: "str | Path | bytes | AsyncIterable[bytes]",
        *,
        name: str | None,
        progress: Progress | None,
    ) -> File:
        """Upload a file; see `Client.upload`."""
        given = _Source(source, progress)
        headers = {"content-type": "application/octet-stream"}
        shown = given.name if name is None else name
        if shown:  # not in the address, which the logs of proxies have
            headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(shown, safe='')}"
        back_off, was_renewed = BackOff(ATTEMPTS), False
        while True:
            try:
                answer = await self._send(headers, given)
            except NoAnswer as failure:
                if not given.is_repeatable:
                    raise TransferFailed(f"the upload broke off: {failure}") from None
                await self.pause(back_off, failure)
                continue
            if answer.status == HTTPStatus.OK:
                return _file_of(answer)
            was_renewed = await self._after(answer, back_off, was_renewed, given.is_repeatable)

    async def begin(
        self, file_id: str, headers: Mapping[str, str]
    ) -> tuple[Answer, HttpConnection]:
        """Request the content of a file; return the head of the answer.

        Raises:
            NoAnswer: There is none.
            MessageRefused: The server refuses it.
            TransferFailed: It refuses it for now, too often.
        """
        target = f"{self._parts.path}/{quote(file_id, safe='')}"
        back_off, was_renewed = BackOff(ATTEMPTS), False
        while True:
            connection = await self._dial()
            is_given = False
            try:
                fields = await self._headers(headers)
                with _within_idle():
                    head = await connection.start("GET", target, fields)
                    if head.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                        is_given = True
                        return head, connection
                    body = await connection.read_all(ANSWER_BYTES)
            finally:
                if not is_given:
                    await connection.close()
            answer = Answer(head.status, head.headers, body)
            was_renewed = await self._after(answer, back_off, was_renewed, may_repeat=True)

    @asynccontextmanager
    async def download(self, file_id: str) -> AsyncIterator[Download]:
        """Download a file; see `Client.download`."""
        download = Download(self, file_id)
        back_off = BackOff(ATTEMPTS)
        try:
            while True:
                try:
                    await download.open()
                    break
                except NoAnswer as failure:
                    await download.close()
                    await self.pause(back_off, failure)
            yield download
        finally:
            await download.close()

    async def pause(self, back_off: BackOff, failure: NoAnswer, at_least: float = 0.0) -> None:
        """Wait before the next attempt.

        Raises:
            TransferFailed: There is none.
        """
        back_off.failed()
        if back_off.is_exhausted:
            raise TransferFailed(f"the transfer failed {back_off.failures} times: {failure}")
        await trio.sleep(back_off.pause(chance=self._random(), at_least=at_least))

    async def _after(
        self, answer: Answer, back_off: BackOff, was_renewed: bool, may_repeat: bool
    ) -> bool:
        """Wait after a refusal for the next attempt; return whether the token was renewed.

        Raises:
            MessageRefused: There is none.
            TransferFailed: There were too many.
        """
        refused = refusal_of(answer)
        is_full = refused.code == ErrorCode.QUEUE_FULL  # 429 as well, but waiting frees nothing
        what = Next.STOP if is_full else after_refusal(answer.status)
        if what is Next.RENEW and self._tokens.can_renew and not was_renewed and may_repeat:
            self._tokens.forget()
            return True
        if what is not Next.RETRY or not may_repeat:
            raise _refusal(refused)
        await self.pause(back_off, NoAnswer(refused.reason), refused.retry_after or 0.0)
        return was_renewed

    async def _send(self, headers: Mapping[str, str], source: "_Source") -> Answer:
        async with await self._dial() as connection, source.open() as pieces:
            fields = await self._headers(headers)
            return await connection.send(
                "POST",
                self._parts.path,
                fields,
                pieces,
                size=source.size,
                idle_seconds=IDLE_SECONDS,
                limit=ANSWER_BYTES,
            )

    async def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"authorization": f"Bearer {await self._tokens.get()}", **more}

    async def _dial(self) -> HttpConnection:
        if not isinstance(self._dialer, HttpDialer):
            raise ClientError("the dialer of this client opens no HTTP connections, only sockets")
        return await self._dialer.dial_http(self._parts)


class _Source:
    """The content of an upload.

    Args:
        data: A path, the content, or an iterable of its pieces.
        progress: Called after each piece that was sent.

    Attributes:
        name: Its name; empty if it has none.
        size: Its bytes; None if that is not known.

    Raises:
        TypeError: The data is not a path, bytes or an async iterable.
    """

    def __init__(self, data: object, progress: Progress | None) -> None:
        if isinstance(data, str | os.PathLike):
            data = Path(data)
        elif isinstance(data, bytearray | memoryview):
            data = bytes(data)
        elif not isinstance(data, bytes | AsyncIterable):
            text = "expected a path, bytes or an async iterable of bytes"
            raise TypeError(f"{text}, got {type(data).__name__}")
        self._data: bytes | Path | AsyncIterable[bytes] = data
        self._progress = progress
        self.name = data.name if isinstance(data, Path) else ""
        self.size: int | None = len(data) if isinstance(data, bytes) else None

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be read again."""
        return isinstance(self._data, bytes | Path)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["_Pieces"]:
        """Open it, and return its pieces.

        Raises:
            OSError: The file cannot be read.
        """
        data = self._data
        if isinstance(data, Path):
            async with await trio.open_file(data, "rb") as file:
                found = os.fstat(file.fileno())
                self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
                yield _Pieces(file.read, self.size, self._progress)
        elif isinstance(data, bytes):
            rest = BytesIO(data)

            async def read(count: int) -> bytes:
                return rest.read(count)

            yield _Pieces(read, self.size, self._progress)
        else:
            pieces = aiter(data)

            async def following(_: int) -> bytes:
                while (piece := await anext(pieces, None)) is not None:
                    if piece:
                        return piece
                return b""

            async with closing(data):
                yield _Pieces(following, None, self._progress)


class _Pieces:
    """Iterates over the pieces of a source, and reports the progress.

    Args:
        read: Returns at most so many bytes; none at the end.
        size: How many bytes to send; None for all.
        progress: Called after each piece that was sent.
    """

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]],
        size: int | None,
        progress: Progress | None,
    ) -> None:
        self._read = read
        self._size = size
        self._progress = progress
        self._sent = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._progress is not None and self._sent:
            self._progress(self._sent, self._size)
        left = CHUNK_BYTES if self._size is None else min(CHUNK_BYTES, self._size - self._sent)
        piece = await self._read(left) if left else b""
        if not piece:
            raise StopAsyncIteration
        self._sent += len(piece)
        return piece


@contextmanager
def _within_idle() -> Iterator[None]:
    """Raise `NoAnswer` if the block takes longer than `IDLE_SECONDS`."""
    try:
        with trio.fail_after(IDLE_SECONDS):
            yield
    except trio.TooSlowError:
        raise NoAnswer(f"nothing was received for {IDLE_SECONDS:g} s") from None


def _name_in(disposition: str) -> str:
    """Return the name of a file in a header `Content-Disposition`; empty if it has none."""
    encoded = re.search(r"filename\*=UTF-8''([^;\s]+)", disposition, re.IGNORECASE)
    if encoded:
        return unquote(encoded[1], errors="replace")
    plain = re.search(r'filename="([^"]*)"', disposition, re.IGNORECASE)
    return plain[1] if plain else ""


def _file_of(answer: Answer) -> File:
    found = parse_object(answer.body) or {}
    try:
        return File(
            str(found["file_id"]),
            str(found["media_type"]),
            int(found["bytes"]),
            str(found["sha256"]),
        )
    except (KeyError, TypeError, ValueError):
        raise TransferFailed("the answer to the upload is not one of a netra_trio server") from None


def _refusal(refused: OpeningRefused) -> MessageRefused:
    """Return the exception for an answer after which trying again would not help."""
    error, advice = refused.body.get("error"), refused.body.get("help")
    return MessageRefused(
        refused.code or f"HTTP_{refused.status}",
        error if isinstance(error, str) else f"The answer was the HTTP status {refused.status}.",
        advice if isinstance(advice, str) else "",
        retry_after_ms=None if refused.retry_after is None else round(refused.retry_after * 1000),
    )
