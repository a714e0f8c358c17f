"""`GET /ws/files/{file_id}`: the content of a file of the user of a token or a ticket."""

from contextlib import AsyncExitStack

import structlog
import trio

from netra_trio.endpoints.answer import Answer, problem_answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_file_request
from netra_trio.endpoints.paths import FILE, target_of
from netra_trio.endpoints.ranges import NOT_MODIFIED, PARTIAL, UNSATISFIABLE, Part
from netra_trio.errors import (
    ContentMissing,
    StorageUnavailable,
    StoreUnavailable,
    TransportClosed,
)
from netra_trio.files.detection import served_type
from netra_trio.files.names import disposition
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem, store_unavailable
from netra_trio.services import Services
from netra_trio.stores.files import StoredFile
from netra_trio.telemetry.events import FileSent

CACHE_SECONDS = 3600  # that a browser of the user may keep content, which never changes
RETRY_MS = 1000

SAFE = {
    "content-security-policy": "sandbox; default-src 'none'",
    # Other origins need a ticket in the address, which only a page of the user can get.
    "cross-origin-resource-policy": "cross-origin",
    "cache-control": f"private, max-age={CACHE_SECONDS}",
}
"""Headers with which a browser runs no content: it saves it, or a page shows it as an image."""

_log = structlog.get_logger(__name__)


async def download(call: Call) -> Answer | None:
    """Send the content of a file, or the requested part.

    Raises:
        Refused: Also FILE_NOT_FOUND, for a file that does not exist and for one of another user.
    """
    file_id = FileId(target_of(call.path, FILE) or "")
    services, now = call.services, trio.current_time()
    identity = await check_file_request(call.request, services, file_id, now=now)
    file = await find_file(services, identity.user_id, file_id)
    etag = f'"{file.sha256}"'
    part = Part.of_request(call.request.headers, size=file.size, etag=etag)
    headers = {**SAFE, "etag": etag, "accept-ranges": "bytes"}
    if part.status == NOT_MODIFIED:
        return Answer(NOT_MODIFIED, headers=headers)
    if part.status == UNSATISFIABLE:
        return _unsatisfiable(services, file.size)
    if part.status == PARTIAL:
        last = part.start + part.size - 1
        headers["content-range"] = f"bytes {part.start}-{last}/{file.size}"
    headers |= {
        "content-type": served_type(file.media_type),
        "content-length": str(part.size),
        "content-disposition": disposition(file.name),
    }
    await _send(call, file, part, headers)
    return None


async def find_file(services: Services, user_id: UserId, file_id: FileId) -> StoredFile:
    """Return a file of a user.

    Raises:
        Refused: FILE_NOT_FOUND or SERVICE_UNAVAILABLE.
    """
    try:
        file = await services.files.find(user_id, file_id)
    except StoreUnavailable:
        raise Refused(store_unavailable()) from None
    if file is None:
        raise file_not_found()
    return file


def file_not_found() -> Refused:
    """Return the error for a file that the user does not have; it is the same for all reasons."""
    return Refused(problem(ErrorCode.FILE_NOT_FOUND, "The user does not have this file."))


async def _send(call: Call, file: StoredFile, part: Part, headers: dict[str, str]) -> None:
    """Send a part of the content, piece by piece as the client takes it.

    Raises:
        Refused: FILE_NOT_FOUND or SERVICE_UNAVAILABLE, before anything was sent.
        TransportClosed: The client has left, or the content ends early.
    """
    responder, note = call.responder, call.services.instruments.note
    if call.method == "HEAD":
        await responder.start(headers, part.status)
        await responder.end()
        return
    sent = 0
    async with AsyncExitStack() as stack:
        read = call.services.files.read(file.file_id, start=part.start, size=part.size)
        try:
            chunks = await stack.enter_async_context(read)
        except ContentMissing:  # it was deleted meanwhile
            raise file_not_found() from None
        except StorageUnavailable:
            text = "The file storage cannot be read now."
            fault = problem(ErrorCode.SERVICE_UNAVAILABLE, text, retry_after_ms=RETRY_MS)
            raise Refused(fault) from None
        await responder.start(headers, part.status)
        try:
            async for chunk in chunks:
                await responder.send(chunk)
                sent += len(chunk)
        except StorageUnavailable as error:
            _log.warning("file_not_sent", file_id=file.file_id, reason=str(error))
        finally:
            note(FileSent(sent))
    if sent < part.size:
        raise TransportClosed  # the head has declared a size: the host ends the connection
    await responder.end()


def _unsatisfiable(services: Services, size: int) -> Answer:
    expected = f"expected a part of {size} bytes" if size else "expected none: the file is empty"
    fault = problem(ErrorCode.BAD_REQUEST, f"Range: {expected}.", status=UNSATISFIABLE)
    answer = problem_answer(fault, services.wall_clock())
    answer.headers["content-range"] = f"bytes */{size}"
    return answer
