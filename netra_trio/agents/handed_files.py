"""The files that an agent passes to a language model: as images, documents, text or by name.

    hand_over = HandOver(images=True, pdfs=False)
    files = await hand_over.load(run.attachments)

It works for a `Run` and for an `AsyncioRun`: nothing here belongs to Trio or to asyncio.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen
from orjson import dumps

from netra_trio.errors import (
    FilesNotFound,
    RetryableAgentError,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.ids import FileId
from netra_trio.protocol.messages import HistoryMessage

IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PDF = "application/pdf"
FILES_BYTES = 16 * 1024 * 1024  # of images and documents of one request to a model
TEXT_BYTES = 64 * 1024  # of the text of one file
TEXTS_BYTES = 128 * 1024  # of all texts of files of one request
EARLIER_FILES = 8  # of earlier messages, the newest ones
_TEXT_TYPES = frozenset(
    {
        "application/json",
        "application/javascript",
        "application/sql",
        "application/toml",
        "application/x-sh",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
    }
)


_Content = bytes  # a file has `bytes` too


class FileToLoad(Protocol):
    """A file that can be read: an `Attachment` or an `AsyncioAttachment`."""

    @property
    def file_id(self) -> FileId:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def media_type(self) -> str:
        """Its type."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...

    async def read(self, *, start: int = 0, size: int | None = None, limit: int = ...) -> _Content:
        """Return its content, or a part of it."""
        ...


class FileOwner(Protocol):
    """A run that has files: a `Run` or an `AsyncioRun`."""

    @property
    def attachments(self) -> Sequence[FileToLoad]:
        """The files of its message."""
        ...

    async def attachment(self, file_id: FileId | str) -> FileToLoad:
        """Return a file of the user by its id."""
        ...


@frozen
class Binary:
    """An image or a document for a model.

    Attributes:
        name: Its name; never empty.
    """

    name: str
    media_type: str
    data: bytes

    @property
    def is_image(self) -> bool:
        """Whether it is an image."""
        return self.media_type in IMAGES

    @property
    def base64(self) -> str:
        """Its data in Base64."""
        return b64encode(self.data).decode()

    @property
    def url(self) -> str:
        """Its data as a data URL."""
        return f"data:{self.media_type};base64,{self.base64}"


@frozen
class Handed:
    """The files of one message, for a model.

    Attributes:
        notes: Texts for the model: the texts of files, and the names of those that it cannot get.
        binaries: The images and documents.
    """

    notes: tuple[str, ...] = ()
    binaries: tuple[Binary, ...] = ()

    def text(self, content: str) -> str:
        """Return the text of the message together with the notes."""
        return "\n\n".join(filter(None, (content, *self.notes)))


class HandOver:
    """Loads the files of one request to a model, within bounds.

    Args:
        images: Whether the model gets images.
        pdfs: Whether it gets documents of the type application/pdf.
    """

    def __init__(self, *, images: bool, pdfs: bool) -> None:
        self._types = (IMAGES if images else frozenset()) | ({PDF} if pdfs else frozenset())
        self._bytes_left = FILES_BYTES
        self._text_left = TEXTS_BYTES

    async def load(self, files: Sequence[FileToLoad]) -> Handed:
        """Return the files of one message; call it for the newest message first.

        Raises:
            RetryableAgentError: If a file cannot be read now.
        """
        notes: list[str] = []
        binaries: list[Binary] = []
        for file in files:
            if file.media_type in self._types and file.bytes <= self._bytes_left:
                data = await self._read(file, file.bytes)
                if data:
                    self._bytes_left -= len(data)
                    binaries.append(Binary(file.name or file.file_id, file.media_type, data))
                    continue
            elif is_text(file.media_type) and self._text_left > 0:
                data = await self._read(file, min(TEXT_BYTES, self._text_left))
                if data is not None:
                    self._text_left -= len(data)
                    notes.append(_text_note(file, data))
                    continue
            notes.append(f"[{_shown(file)}, {file.bytes} bytes: its content is not available.]")
        return Handed(tuple(notes), tuple(binaries))

    async def load_earlier(
        self, run: FileOwner, messages: Sequence[HistoryMessage]
    ) -> dict[int, Handed]:
        """Return the files of earlier messages of the user, by their index.

        Those of the newest messages, at most `EARLIER_FILES`; deleted ones are left out.

        Raises:
            RetryableAgentError: If a file cannot be read now.
        """
        handed: dict[int, Handed] = {}
        left = EARLIER_FILES
        for index in range(len(messages) - 1, -1, -1):
            message = messages[index]
            if message.role != "user" or not message.attachments or not left:
                continue
            found = [
                file
                for file_id in message.attachments[:left]
                if (file := await _found(run, file_id)) is not None
            ]
            left -= len(found)
            if found:
                handed[index] = await self.load(found)
        return handed

    async def _read(self, file: FileToLoad, size: int) -> bytes | None:
        try:
            return await file.read(size=size)
        except FilesNotFound:
            return None
        except StorageUnavailable as error:
            raise RetryableAgentError from error


async def _found(run: FileOwner, file_id: FileId) -> FileToLoad | None:
    try:
        return await run.attachment(file_id)
    except FilesNotFound:
        return None
    except StoreUnavailable as error:
        raise RetryableAgentError from error


def is_text(media_type: str) -> bool:
    """Whether a file of this type is passed on as text."""
    bare = media_type.partition(";")[0].strip()
    return bare.startswith("text/") or bare in _TEXT_TYPES or bare.endswith(("+json", "+xml"))


def _shown(file: FileToLoad) -> str:
    return f"File {dumps(file.name or file.file_id).decode()} ({file.media_type})"


def _text_note(file: FileToLoad, data: bytes) -> str:
    # A character that was cut in its middle is left out.
    text = data.decode(errors="ignore" if len(data) < file.bytes else "replace")
    cut = f"\n[Cut: it has {file.bytes} bytes.]" if len(data) < file.bytes else ""
    return f"[{_shown(file)}]\n{text}{cut}"
