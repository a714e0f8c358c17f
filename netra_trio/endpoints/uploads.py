"""`POST /ws/files`: stores a file of the token's user."""

from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager

import trio

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.body import Body
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_ticket_request
from netra_trio.endpoints.form import OTHER_BYTES, FormFile, boundary_of, name_of
from netra_trio.errors import (
    FilesFull,
    FileTooLarge,
    NotStorable,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.files.rate import UPLOADS
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem, rate_limited, store_unavailable
from netra_trio.services import Services
from netra_trio.stores.files import StoredFile
from netra_trio.telemetry.events import FileUploaded, UploadRefused

UPLOADS_AT_ONCE = 64  # of one process: each has a part of its file in memory, and a thread in turn
USER_UPLOADS_AT_ONCE = 16  # of one user in one process: the files that a message may have
RETRY_MS = 1000
FULL_MS = 60_000  # for the user to delete something: waiting alone makes no room

_IDENTITY = frozenset({"", "identity"})


class Uploads:
    """The endpoint, and the uploads that are in progress.

    Args:
        check_room: Raises `Refused` while the server drains or is full.
    """

    def __init__(self, check_room: Callable[[], None]) -> None:
        self._check_room = check_room
        self._at_work: dict[UserId, int] = {}

    async def upload(self, call: Call) -> Answer:
        """Store the file in the body; it is a part of a form, or the body itself.

        Raises:
            Refused: Also MESSAGE_TOO_LARGE, QUEUE_FULL, RATE_LIMIT_EXCEEDED or
                SERVICE_UNAVAILABLE.
        """
        since = trio.current_time()
        self._check_room()
        identity = await check_ticket_request(call.request, call.services, now=since)
        user_id, note = identity.user_id, call.services.instruments.note
        try:
            file = await self._store(call, user_id)
        except Refused as refused:
            note(UploadRefused(refused.problem.code, refused.problem.status))
            raise
        seconds = trio.current_time() - since
        note(FileUploaded(user_id, file.file_id, file.media_type, file.size, seconds))
        return Answer(
            200,
            {
                "file_id": file.file_id,
                "media_type": file.media_type,
                "bytes": file.size,
                "sha256": file.sha256,
            },
        )

    async def _store(self, call: Call, user_id: UserId) -> StoredFile:
        services = call.services
        # An upload counts from here on, also if it fails: its body has to be read.
        await count_upload(services, user_id)
        boundary = boundary_of(call.request)
        _check_head(call, services.settings.files_max_bytes, is_form=boundary is not None)
        with self._place(user_id), refusing():
            stall_seconds = services.settings.send_timeout_ms / 1000
            body = Body(call.receive, stall_seconds=stall_seconds)
            chunks: AsyncIterable[bytes] = body
            name = name_of(call.request.headers.get("content-disposition", []))
            if boundary is not None:
                form = FormFile(boundary, body)
                name, chunks = await form.find(), form
            name = next(iter(call.request.query.get("name", [])), name)
            return await services.files.upload(user_id, chunks, name=name)

    @contextmanager
    def _place(self, user_id: UserId) -> Iterator[None]:
        """Count an upload while its body is read.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if too many are in progress.
        """
        mine = self._at_work.get(user_id, 0)
        free = UPLOADS_AT_ONCE - sum(self._at_work.values())
        # At most half as many as are free, so that a few users cannot take the places of all.
        if free < 1 or mine >= min(USER_UPLOADS_AT_ONCE, max(1, free // 2)):
            text = "Too many uploads are in progress."
            raise Refused(problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS))
        self._at_work[user_id] = mine + 1
        try:
            yield
        finally:
            self._at_work[user_id] -= 1
            if not self._at_work[user_id]:
                del self._at_work[user_id]


async def count_upload(services: Services, user_id: UserId) -> None:
    """Count an upload of a user.

    Raises:
        Refused: RATE_LIMIT_EXCEEDED.
    """
    wait = await services.upload_rate.take(user_id)
    if wait:
        text = f"Too many uploads: a user may upload {UPLOADS} files a minute."
        raise Refused(rate_limited(text, wait))


def _check_head(call: Call, limit: int, *, is_form: bool) -> None:
    """Check the headers that describe the body, before it is read.

    Raises:
        Refused: BAD_REQUEST or MESSAGE_TOO_LARGE.
    """
    headers = call.request.headers
    encodings = ",".join(headers.get("content-encoding", [])).strip().lower()
    if encodings not in _IDENTITY:
        text = "Content-Encoding: expected none; send the file itself."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text))
    most = limit + OTHER_BYTES if is_form else limit
    for length in headers.get("content-length", []):
        if length.isdecimal() and int(length) > most:
            raise _too_large(limit)


@contextmanager
def refusing() -> Iterator[None]:
    """Raise `Refused` for each reason why a file is not stored."""
    try:
        yield
    except FileTooLarge as error:
        raise _too_large(error.limit) from None
    except FilesFull as error:
        text = f"Your files would have more than {error.limit} bytes together."
        advice = "Delete threads that have files."
        fault = problem(ErrorCode.QUEUE_FULL, text, help=advice, retry_after_ms=FULL_MS)
        raise Refused(fault) from None
    except NotStorable:
        text = "The file cannot be stored for this user."
        raise Refused(problem(ErrorCode.BAD_REQUEST, text)) from None
    except StorageUnavailable:
        text = "The file storage cannot store the file now."
        fault = problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS)
        raise Refused(fault) from None
    except StoreUnavailable:
        raise Refused(store_unavailable()) from None


def _too_large(limit: int) -> Refused:
    text = f"The file has more than {limit} bytes."
    return Refused(problem(ErrorCode.MESSAGE_TOO_LARGE, text, help="Send a smaller file."))
