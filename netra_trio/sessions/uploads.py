"""Stores the data of a binary message as a file of its user, before the message is recorded.

file = await store_data(files, user_id, message)
"""

import trio

from netra_trio.agents.attachments import FileAccess
from netra_trio.errors import (
    FilesFull,
    FileTooLarge,
    NotStorable,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.files.chunks import chunks_of
from netra_trio.ids import UserId
from netra_trio.protocol.binary_messages import BinaryRoomMessage, BinaryUserMessage
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.sessions import refusals
from netra_trio.stores.files import StoredFile

STORE_SECONDS = 5.0  # for the data of a message: the messages behind it wait


async def store_data(
    files: FileAccess, user_id: UserId, message: BinaryUserMessage | BinaryRoomMessage
) -> StoredFile:
    """Store the data of a message; cancelling is safe.

    If the message is not recorded, the file is deleted after a day, as any that no message names.

    Raises:
        Refused: MESSAGE_TOO_LARGE, VALIDATION_ERROR or SERVICE_UNAVAILABLE.
    """
    try:
        with trio.fail_after(STORE_SECONDS):
            return await files.upload(
                user_id, chunks_of(message.data), media_type=message.media_type
            )
    except FileTooLarge as error:
        text = f"The attachment has more than {error.limit} bytes."
        raise Refused(problem(ErrorCode.MESSAGE_TOO_LARGE, text)) from None
    except FilesFull as error:
        text = f"Your files would have more than {error.limit} bytes together."
        fault = problem(ErrorCode.MESSAGE_TOO_LARGE, text, help="Delete threads that have files.")
        raise Refused(fault) from None
    except NotStorable:
        raise refusals.never_stored() from None
    except (StorageUnavailable, StoreUnavailable, trio.TooSlowError):
        raise refusals.not_stored() from None
