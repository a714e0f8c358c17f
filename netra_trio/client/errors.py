"""The exceptions of a client, all below `ClientError`; no text contains a token.

>>> isinstance(MessageRefused("QUEUE_FULL", "The queue is full.", "Wait."), ClientError)
True
"""

from typing import Any

from netra_trio.errors import NetraError


class ClientError(NetraError):
    """The base class of the exceptions of a client."""


class ConnectionRefused(ClientError):
    """The server refused the upgrade, and trying again would not help.

    Attributes:
        status: The HTTP status.
        code: The error code, such as `ORIGIN_NOT_ALLOWED`; None if the answer had none.
    """

    def __init__(self, text: str, *, status: int, code: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class ConnectionClosed(ClientError):
    """The server closed the connection with a code after which the client does not reconnect.

    `Client.reconnect` connects all the same.

    Attributes:
        code: The close code.
    """

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class GaveUp(ClientError):
    """`max_attempts` attempts failed in a row; the text has the last reason."""


class TokenFailed(ClientError):
    """`get_token` raised an exception, which is the cause of this one."""


class TokenUnavailable(ClientError):
    """Raised by a `get_token` that has no token now: it is called again later."""


class ClientClosed(ClientError):
    """The client was left, or is being left."""


class MessageRefused(ClientError):
    """The server refused a message or a request, or it is too large to be sent.

    Attributes:
        code: The error code.
        error: What was expected and what was received.
        help: What to do.
        retry_after_ms: Milliseconds after which it may succeed; None if the server gives none.
        correlation_id: The key of the message; it may be used again.
    """

    def __init__(
        self,
        code: str,
        error: str,
        help: str,  # noqa: A002 - its name in the protocol
        *,
        retry_after_ms: int | None = None,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {error} {help}".rstrip())
        self.code = code
        self.error = error
        self.help = help
        self.retry_after_ms = retry_after_ms
        self.correlation_id = correlation_id


class BudgetExceeded(MessageRefused):
    """The agent has used what it may use for the user today.

    `retry_after_ms` is the time until the next day begins. The message is not sent again.
    """


class MessageUncertain(ClientError):
    """It is unknown whether a message was published: its key expired before an answer.

    Attributes:
        key: The key of the message.
    """

    def __init__(self, text: str, *, key: str) -> None:
        super().__init__(text)
        self.key = key


class TransferFailed(ClientError):
    """A file could not be sent or received: there was no answer, or the transfer broke off."""


class OutboxFull(ClientError):
    """Too many messages are unconfirmed or have a run that is not over."""


class OutboxUnusable(ClientError):
    """The file of the outbox cannot be used; the text says why."""


class RunFailed(ClientError):
    """A run ended with another status than `completed`.

    Attributes:
        status: How it ended.
        error: The error body of its `agent_completed`; None if it has none.
    """

    def __init__(self, status: str, error: dict[str, Any] | None) -> None:
        detail = "" if error is None else f": {error.get('error')} {error.get('help')}"
        if error is not None and "error_id" in error:
            detail += f" ({error['error_id']})"
        super().__init__(f"the run ended {status}{detail}")
        self.status = status
        self.error = error


class RunLost(ClientError):
    """The end of a run is unknown: the server lost its session and the key of its message."""
