"""The errors of a model's server."""

from netra_trio.errors import AgentError


class ModelError(AgentError):
    """The server of a model gave no complete answer.

    Its text is for the user of the agent; it contains no address and no text of the server.

    Attributes:
        detail: For the operator: the address, the server's text and how to fix it. Contains no key.
        is_retryable: Whether the same request may succeed later.
        retry_after: Seconds that the server asks to wait; None if it names no time.
    """

    def __init__(
        self,
        text: str,
        detail: str | None = None,
        *,
        is_retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.detail = text if detail is None else detail
        self.is_retryable = is_retryable
        self.retry_after = retry_after
