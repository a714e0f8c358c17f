r"""Files in the messages that are posted to doors: as `data:` URLs, or as addresses of files.

    >>> found = read_url("data:image/png;base64,iVBORw==", name="a.png")
    >>> found.name, found.data
    ('a.png', b'\x89PNG')
    >>> read_url("https://example.com/ws/files/file_7?ticket=x").file_id
    'file_7'
    >>> read_url("https://example.com/a.png") is None
    True

The content of a `data:` URL is stored as a file of the user. An address may have any host; its path
has to name a file of the user. The server fetches nothing.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Self
from urllib.parse import urlsplit

import attrs
import trio
from attrs import define

from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import AcceptedUpgrade, check_door
from netra_trio.endpoints.uploads import count_upload, refusing
from netra_trio.files.chunks import chunks_of
from netra_trio.ids import FileId, UserId
from netra_trio.protocol import codec
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import ATTACHMENTS
from netra_trio.protocol.messages import HistoryMessage, UserMessage
from netra_trio.protocol.posted import DoorMessage, PostedMessage
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.wire_format import JSON_ACKNOWLEDGING
from netra_trio.services import Services
from netra_trio.values import frozen

EXPECTED = "a data: URL in Base64, or the address of an uploaded file"

_DATA = re.compile(r"data:[^,]{0,255};base64,", re.IGNORECASE)
_FILE = re.compile(r"/ws/files/([\w-]{1,64})", re.ASCII)


@frozen
class PostedFile:
    """A file of a posted message.

    Attributes:
        name: Its name; may be empty.
        data: Its content; None for one that was uploaded before.
        file_id: Its id; None for one that has none yet.
    """

    name: str
    data: bytes | None
    file_id: FileId | None = None

    @classmethod
    def uploaded(cls, file_id: str) -> Self:
        """Return a file that was uploaded before."""
        return cls("", None, FileId(file_id))

    @property
    def digest(self) -> str:
        """The value by which messages with the same key are compared."""
        return self.file_id or sha256(self.data or b"").hexdigest()


def read_url(url: object, *, name: object = None) -> PostedFile | None:
    """Return the file of a URL; None if it is neither a `data:` URL nor that of a file."""
    if not isinstance(url, str):
        return None
    if (head := _DATA.match(url)) is not None:
        return read_base64(url[head.end() :], name=name)
    try:
        found = _FILE.fullmatch(urlsplit(url).path)
    except ValueError:
        return None
    return None if found is None else PostedFile.uploaded(found[1])


def read_base64(text: object, *, name: object = None) -> PostedFile | None:
    """Return the file of a text in Base64; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        data = b64decode(text, validate=True)
    except (Error, ValueError):
        return None
    return PostedFile(name if isinstance(name, str) else "", data)


@define
class DoorFormat:
    """The format `netra.v1`, in which a message has what the client of a door has posted.

    Attributes:
        history: The history of the next message; None for that of its thread.
        digests: The values of its files, see `DoorMessage`.
    """

    history: tuple[HistoryMessage, ...] | None = None
    digests: tuple[str, ...] = ()
    name: str | None = JSON_ACKNOWLEDGING.name
    acknowledges: bool = True

    def decode(self, frame: str | bytes, *, max_size: int) -> codec.Frame:
        """Return the message of a frame; a message of the user gets what was posted."""
        decoded = JSON_ACKNOWLEDGING.decode(frame, max_size=max_size)
        if type(decoded.message) is not UserMessage:
            return decoded
        fields = attrs.asdict(decoded.message, recurse=False)
        message = (
            DoorMessage(**fields, digests=self.digests)
            if self.history is None
            else PostedMessage(**fields, digests=self.digests, history=self.history)
        )
        return codec.Frame(message, decoded.correlation_id)

    encoder = staticmethod(JSON_ACKNOWLEDGING.encoder)
    encode_control = staticmethod(JSON_ACKNOWLEDGING.encode_control)
    encode_problem = staticmethod(JSON_ACKNOWLEDGING.encode_problem)


def checking(call: Call, wire: DoorFormat) -> Callable[[], Awaitable[AcceptedUpgrade]]:
    """Return the check of a request whose connection has this format."""

    async def check() -> AcceptedUpgrade:
        accepted = await check_door(call.request, call.services, now=trio.current_time())
        return attrs.evolve(accepted, wire=wire)

    return check


def have_content(files: Sequence[PostedFile]) -> bool:
    """Return whether some of the files were posted with their content."""
    return any(file.file_id is None for file in files)


def attachments_of(message: Mapping[str, Any] | None) -> list[FileId]:
    """Return the files of a message of the history."""
    return [] if message is None else [FileId(each) for each in message.get("attachments", ())]


async def store_files(
    services: Services,
    user_id: UserId,
    files: Sequence[PostedFile],
    wire: DoorFormat,
    *,
    known: Sequence[FileId] = (),
) -> list[FileId]:
    """Store the files of a message that are not stored yet; return the ids of all, each once.

    Args:
        services: The services of the node.
        user_id: The user.
        files: The files that were posted.
        wire: Gets their digests.
        known: The files of the same message, if it was posted before: those with equal content are
            used again.

    Raises:
        Refused: Also VALIDATION_ERROR, MESSAGE_TOO_LARGE, QUEUE_FULL, RATE_LIMIT_EXCEEDED or
            SERVICE_UNAVAILABLE.
    """
    wanted = {file.digest: file for file in files}
    if len(wanted) > ATTACHMENTS:
        text = f"$.messages: expected at most {ATTACHMENTS} files in a message, got {len(wanted)}"
        raise Refused(problem(ErrorCode.VALIDATION_ERROR, text))
    wire.digests = tuple(wanted)
    stored: dict[str, FileId] = {}
    if known and have_content(files):
        with refusing():
            found = await services.store.find_files(user_id, known)
        stored = {file.sha256: file.file_id for file in found}
    return [
        file.file_id or stored.get(digest) or await _store(services, user_id, file)
        for digest, file in wanted.items()
    ]


async def _store(services: Services, user_id: UserId, file: PostedFile) -> FileId:
    await count_upload(services, user_id)
    with refusing():
        chunks = chunks_of(file.data or b"")
        return (await services.files.upload(user_id, chunks, name=file.name)).file_id
