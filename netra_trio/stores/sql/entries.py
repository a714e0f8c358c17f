"""The entries of the queue of writes: one class for each kind of write.

entry = RecordMessage(message, size=len(message.content))
"""

from attrs import define, frozen

from netra_trio.errors import KeyConflict, ThreadDeleted
from netra_trio.ids import CorrelationId, FileId, RunId, UserId
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, StoredEnd, User
from netra_trio.stores.questions import NewQuestion, QuestionEnd
from netra_trio.stores.sql.write_behind import Entry
from netra_trio.stores.usage import Usage

Key = tuple[UserId, CorrelationId]
"""An idempotency key with the user that it belongs to."""


@frozen
class Known:
    """A message that was recorded earlier under a key.

    Attributes:
        fingerprint: The fingerprint that a message of the same key must have.
        duplicate: The message; None if its thread is deleted.
    """

    fingerprint: bytes
    duplicate: Duplicate | None

    def is_of(self, message: NewMessage) -> bool:
        """Whether this is that message itself."""
        return self.duplicate is not None and self.duplicate.run_id == message.run_id

    def duplicate_of(self, message: NewMessage) -> Duplicate:
        """Return the recorded message for a message of the same key.

        Raises:
            KeyConflict: If the fingerprints differ.
            ThreadDeleted: If its thread is deleted.
        """
        if self.fingerprint != message.fingerprint:
            raise KeyConflict
        if self.duplicate is None:
            raise ThreadDeleted
        return self.duplicate


@define(eq=False)
class RecordMessage(Entry):
    """Record a message and its run.

    Attributes:
        is_started: Whether the run started while this was queued: it is inserted as `running`.
        known: What was recorded earlier under its key; set when this is written.
        missing_files: The files that it names and that its user does not have, so that it is not
            recorded; set when this is written.
        lacks_branch: Whether the message that it replaces does not exist, so that it is not
            recorded; set when this is written.
    """

    message: NewMessage
    is_started: bool = False
    known: Known | None = None
    lacks_branch: bool = False
    missing_files: tuple[FileId, ...] = ()

    def compensation(self) -> Entry:
        """Return the entry that removes the message and its run."""
        return DeleteMessage(self.message.run_id)


@define(eq=False)
class CreateUser(Entry):
    """Create a user unless it exists; there is nothing to compensate.

    Attributes:
        user: The user that exists afterwards; set when this is written.
    """

    user_id: UserId
    created_at: float
    user: User | None = None


@define(eq=False)
class StartRun(Entry):
    """Set the status of a queued run to `running`."""

    run_id: RunId


@define(eq=False)
class EndRun(Entry):
    """Store how a run ended, and the agent's message.

    Attributes:
        stood: The end that the run had before, if that is another one; set when this is written.
    """

    end: RunEnd
    stood: StoredEnd | None = None


@define(eq=False)
class DeleteMessage(Entry):
    """Delete a message whose sender was told that it is not stored, if it is stored.

    It stays if another node has ended or adopted its run: that one may have told of it.
    """

    run_id: RunId


@define(eq=False)
class RecordQuestion(Entry):
    """Record a question of a run; one of a caller that went away ends with its run."""

    question: NewQuestion


@define(eq=False)
class EndQuestion(Entry):
    """Store how a question was closed."""

    end: QuestionEnd


@define(eq=False)
class RecordUsage(Entry):
    """Store what a run has used of a model."""

    usage: Usage
