"""Messages on their way to the server, and the tasks that wait for their confirmation."""

from collections.abc import Callable, Mapping
from typing import Any

from netra_trio.client.errors import ClientError, MessageRefused
from netra_trio.client.frames import frame_of
from netra_trio.client.outbox import Outbox, OutboxMessage
from netra_trio.client.outbox_file import OutboxFile
from netra_trio.client.reply import Reply
from netra_trio.client.run import Run
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS

DEFAULT_MAX_BYTES = 10_240  # of one message until the server says more (docs/protocol.md)


def check_key(key: str) -> None:
    """Check a key of the application.

    Raises:
        ValueError: It is not 1 to 128 characters.
    """
    if not 1 <= len(key) <= CORRELATION_ID_CHARACTERS:
        raise ValueError(f"correlation_id: expected 1 to {CORRELATION_ID_CHARACTERS} characters")


class Messages:
    """The messages of the application that are not settled.

    Args:
        outbox: The unconfirmed messages.
        file: The same messages on the disk; None if they are only in memory.
        notify: Called when there is a message to write.

    Attributes:
        max_bytes: The largest message that the server accepts.
        takes_binary: Whether the present connection, or the last one, takes binary frames.
    """

    def __init__(self, outbox: Outbox, file: OutboxFile | None, notify: Callable[[], None]) -> None:
        self._outbox = outbox
        self._file = file
        self._notify = notify
        self._replies: dict[OutboxMessage, Reply[Run]] = {}
        self.max_bytes = DEFAULT_MAX_BYTES
        self.takes_binary = True
        for message in file.messages if file is not None else []:
            outbox.add(message)

    def make(
        self, kind: str, payload: Mapping[str, Any], key: str, data: bytes | None = None
    ) -> OutboxMessage:
        """Return a message.

        Raises:
            MessageRefused: It is larger than the server accepts, or it has data and the connection
                takes no binary frames.
        """
        message = OutboxMessage(key, frame_of(kind, payload, key), data=data)
        if data is not None and not self.takes_binary:
            raise self.not_binary(message)
        if message.size > self.max_bytes:
            raise self.too_large(message)
        return message

    def post(self, message: OutboxMessage) -> Reply[Run]:
        """Append a message to the outbox; the answer is its run."""
        self._outbox.add(message)
        reply = self._replies[message] = Reply[Run]()
        self._notify()
        return reply

    def abandon(self, message: OutboxMessage) -> None:
        """Give up the wait for an answer; a message that is not written yet is not sent."""
        self._replies.pop(message, None)
        if not message.is_written:
            self._outbox.remove(message)
            self._forget(message)

    def settle(self, message: OutboxMessage) -> Reply[Run] | None:
        """Note that a message is confirmed or refused; return the reply that a task waits for."""
        self._forget(message)
        return self._replies.pop(message, None)

    def refuse(self, message: OutboxMessage, refusal: MessageRefused) -> None:
        """Settle a message with an error."""
        reply = self.settle(message)
        if reply is not None:
            reply.settle(failure=refusal)

    def fail(self, failure: ClientError) -> None:
        """Fail every task that waits; the messages stay in the outbox."""
        replies = list(self._replies.values())
        self._replies.clear()
        for reply in replies:
            reply.settle(failure=failure)

    def too_large(self, message: OutboxMessage) -> MessageRefused:
        """Return the error of a message that the server would not accept."""
        return MessageRefused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"Expected a frame of at most {self.max_bytes} bytes, got {message.size}.",
            "Send a shorter message.",
            correlation_id=message.key,
        )

    def not_binary(self, message: OutboxMessage) -> MessageRefused:
        """Return the error of a message with data on a connection without binary frames."""
        return MessageRefused(
            ErrorCode.INVALID_MESSAGE_TYPE,
            "Expected a message without data, because the connection is not one of netra.v2.",
            "Upload the data, and name the file in attachments.",
            correlation_id=message.key,
        )

    def _forget(self, message: OutboxMessage) -> None:
        if self._file is not None:
            self._file.remove(message)
