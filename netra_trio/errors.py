"""One tree of what can go wrong, as plain values.

A `Problem` is what a client is told; `Refused` carries one to the place that tells it. Everything
else here is raised for the program's own use and never shown to a client.
"""

import traceback
from collections.abc import Iterator


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Return the exceptions in a group, however deep; of any other exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def place_of(error: BaseException) -> str:
    """Return the file and line where an exception was raised: its text may quote what came in."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


class NetraError(Exception):
    """The root of everything this package raises on purpose."""


class SettingsError(NetraError):
    """The settings are wrong; the text lists every fault and its mend."""


class AgentUnusable(SettingsError):
    """The resources of an agent cannot be opened; the text names the agent and the reason."""


class DatabaseUnusable(SettingsError):
    """What DATABASE_URL names can never work; the text says why and what to do."""


class StoreUnavailable(NetraError):
    """The store cannot answer now; trying again may help."""


class KeyConflict(NetraError):
    """The idempotency key was used before, with other content."""


class MessageNotFound(NetraError):
    """The thread has no such message."""


class TransportClosed(NetraError):
    """The line is gone.

    Attributes:
        code: The peer's close code, None where it vanished without one.
        timed_out: Whether it was given up because the peer took nothing for too long.
    """

    def __init__(self, code: int | None = None, *, timed_out: bool = False) -> None:
        super().__init__(f"transport closed (code {code}, timed out: {timed_out})")
        self.code = code
        self.timed_out = timed_out


class RetryableAgentError(NetraError):
    """Raised by an agent before it emitted anything: try the run again."""


class ToolError(NetraError):
    """Raised inside a `run.tool` block: its text is meant for the client and is shown to it."""


class MessageTooBig(NetraError):
    """A peer sent a frame beyond the hard size limit."""


def is_only(group: BaseException, error: BaseException) -> bool:
    """Whether a group has nothing in it but an error, or what is in that one.

    A nursery makes a group of what a block raised, and may copy groups, but not their leaves.
    """
    known = {id(leaf) for leaf in leaves(error)}
    return all(id(leaf) in known for leaf in leaves(group))
