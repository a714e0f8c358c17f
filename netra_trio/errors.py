"""The exceptions of the package.

Their texts are for developers and operators, and are not sent to clients, except those of a
`ToolError` and an `AgentError`. The errors of the wire protocol are in
`netra_trio.protocol.problem`.
"""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and its nested groups; for any other exception, itself."""
    left = [error]
    while left:  # without recursion: groups may be nested deeper than the stack
        inner = left.pop()
        if isinstance(inner, BaseExceptionGroup):
            left += reversed(inner.exceptions)
        else:
            yield inner


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the only exception of a nursery's group as it is.

    For a nursery whose block raises exceptions that callers expect, and whose tasks raise none.
    """
    try:
        yield
    except ExceptionGroup as group:
        errors = list(leaves(group))
        if len(errors) > 1:
            raise
        raise errors[0] from errors[0].__cause__


def place_of(error: BaseException) -> str:
    """Return the file and line where an exception was raised.

    For log lines that must not contain the text of an exception, because it may quote user input.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


class NetraError(Exception):
    """The base class of the exceptions of this package."""


class SettingsError(NetraError):
    """The settings are invalid; the text lists each error and how to fix it."""


class AgentUnusable(SettingsError):
    """The resources of an agent cannot be opened; the text names the agent and the reason."""


class DatabaseUnusable(SettingsError):
    """The database of DATABASE_URL cannot be used; the text gives the reason and the fix."""


class StoreUnavailable(NetraError):
    """The store cannot answer now; a later attempt may succeed."""


class BrokerUnusable(SettingsError):
    """The broker of REDIS_URL cannot be used; the text gives the reason and the fix."""


class BrokerUnavailable(NetraError):
    """The broker cannot answer now; a later attempt may succeed."""


class NotStorable(NetraError):
    """The store can never keep this, so another attempt is useless."""


class KeyConflict(NetraError):
    """The idempotency key was used before with different content."""


class MessageNotFound(NetraError):
    """The thread has no such message."""


class FilesNotFound(NetraError):
    """A message names files that its user does not have.

    Attributes:
        file_ids: These files.
    """

    def __init__(self, file_ids: Iterable[str]) -> None:
        self.file_ids = tuple(file_ids)
        super().__init__(f"no such files: {', '.join(self.file_ids)}")


class FileTooLarge(NetraError):
    """A file has more bytes than a file may have.

    Attributes:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"expected a file of at most {limit} bytes")


class FilesFull(NetraError):
    """The files of a user would have more bytes together than they may have.

    Attributes:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"expected at most {limit} bytes in all files of a user")


class StorageUnavailable(NetraError):
    """The file storage cannot answer now; a later attempt may succeed."""


class ContentMissing(NetraError):
    """The file storage does not have the content of a file."""


class ThreadNotFound(NetraError):
    """The user has no such thread."""


class ThreadDeleted(NetraError):
    """The message is a repeated one, and its thread is deleted."""


class TransportClosed(NetraError):
    """The transport is closed.

    Attributes:
        code: The close code of the peer; None if it sent none.
        timed_out: Whether it was closed because a send made no progress within its timeout.
    """

    def __init__(self, code: int | None = None, *, timed_out: bool = False) -> None:
        super().__init__(f"transport closed (code {code}, timed out: {timed_out})")
        self.code = code
        self.timed_out = timed_out


class RetryableAgentError(NetraError):
    """Raised by an agent that has emitted nothing yet, so that the run is retried."""


class AgentError(NetraError):
    """Raised by an agent, so that its run ends `failed`; its text is sent to the client."""


class ToolError(NetraError):
    """Raised inside a `run.tool` block; its text is sent to the client."""


class ToolDenied(NetraError):
    """A tool call was not approved; the block of `run.tool` is not entered.

    Attributes:
        tool: The name of the tool.
        outcome: `denied` if a user denied it, `expired` if no user answered in time, `changed` if
            its arguments were changed after the question.
    """

    def __init__(self, tool: str, outcome: str) -> None:
        super().__init__(f"the call of {tool} was not approved: {outcome}")
        self.tool = tool
        self.outcome = outcome


class QuestionExpired(NetraError):
    """No user answered a question of `run.ask` in time."""


class MessageTooBig(NetraError):
    """A peer sent a frame beyond the hard size limit."""


def is_only(group: BaseException, error: BaseException) -> bool:
    """Whether a group contains only an error; if the error is a group, only its leaves.

    A nursery wraps the exception of its block into a group. It may copy groups, but not leaves.
    """
    known = {id(leaf) for leaf in leaves(error)}
    return all(id(leaf) in known for leaf in leaves(group))
