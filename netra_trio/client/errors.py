"""What a client raises: one tree under `ClientError`; no text of it has a token in it.

>>> isinstance(MessageRefused("QUEUE_FULL", "Too much waits.", "Wait."), ClientError)
True
"""

from typing import Any

from netra_trio.errors import NetraError


class ClientError(NetraError):
    """The root of what a client raises on purpose."""


class ConnectionRefused(ClientError):
    """The server refused the opening, and trying the same again would not help.

    Attributes:
        status: The HTTP status.
        code: The error code, such as `ORIGIN_NOT_ALLOWED`; None where the answer had none.
    """

    def __init__(self, text: str, *, status: int, code: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class ConnectionClosed(ClientError):
    """The server closed the connection, with a code after which one does not just come back.

    `Client.reconnect` tries all the same.

    Attributes:
        code: The close code.
    """

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class GaveUp(ClientError):
    """As many attempts as `max_attempts` allows failed in a row; the text has the last reason."""


class TokenFailed(ClientError):
    """`get_token` raised; what it raised is the cause."""


class TokenUnavailable(ClientError):
    """For `get_token` to raise when there is no token right now: it is asked again later."""


class ClientClosed(ClientError):
    """The client has been left, or is being left."""


class MessageRefused(ClientError):
    """The server refused a message or a request, or it was too large to be sent.

    Attributes:
        code: The error code.
        error: What was expected and what came.
        help: What to do now.
        retry_after_ms: How long to wait before it may work, in milliseconds; None for "no matter".
        correlation_id: The key of the message; it is free again.
    """

    def __init__(
        self,
        code: str,
        error: str,
        help: str,  # noqa: A002 - the contract's name for it
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


class OutboxFull(ClientError):
    """Too many messages wait for their confirmation or for their run to end."""


class OutboxUnusable(ClientError):
    """The file of the outbox cannot be used; the text says why."""


class RunFailed(ClientError):
    """A run ended otherwise than `completed`.

    Attributes:
        status: How it ended.
        error: The error body of its `agent_completed`; None where it has none.
    """

    def __init__(self, status: str, error: dict[str, Any] | None) -> None:
        told = "" if error is None else f": {error.get('error')} {error.get('help')}"
        super().__init__(f"the run ended {status}{told}")
        self.status = status
        self.error = error


class RunLost(ClientError):
    """The server forgot the session of a run and the key of its message: its end is not known."""
