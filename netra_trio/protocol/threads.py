"""The messages about threads: their list, titles, marks, deletion, and feedback on answers."""

from enum import StrEnum
from typing import Any, ClassVar

import attrs
from attrs import field

from netra_trio.ids import MessageId, ThreadId
from netra_trio.protocol.fields import (
    HISTORY_PAGE,
    ExpectationError,
    check_name,
    check_not_blank,
    check_page_size,
    check_thread_id,
)
from netra_trio.values import frozen

TITLE_CHARACTERS = 200
QUERY_CHARACTERS = 200
COMMENT_CHARACTERS = 2000  # of a feedback


def _check_characters(limit: int, *, is_blank_valid: bool) -> Any:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
        if value is None:
            return
        if not is_blank_valid:
            check_not_blank(_, attribute, value)
        if len(value) > limit:
            raise ExpectationError(f"at most {limit} characters", attribute.name, value)

    return check


class Rating(StrEnum):
    """A user's rating of an answer."""

    UP = "up"
    DOWN = "down"


# Client to server.


@frozen
class ListThreads:
    """A request for the threads of the user, newest update first.

    Attributes:
        before: The list begins after this thread.
        query: Only threads with this text in their title or a message.
    """

    TYPE: ClassVar[str] = "list_threads"
    limit: int = field(default=HISTORY_PAGE, validator=check_page_size)
    before: ThreadId | None = field(default=None, validator=check_thread_id)
    query: str | None = field(
        default=None, validator=_check_characters(QUERY_CHARACTERS, is_blank_valid=False)
    )


@frozen
class RenameThread:
    """A new title of a thread."""

    TYPE: ClassVar[str] = "rename_thread"
    thread_id: ThreadId = field(validator=check_thread_id)
    title: str = field(validator=_check_characters(TITLE_CHARACTERS, is_blank_valid=False))


@frozen
class MarkRead:
    """A new read mark: the user has read a thread up to and including a message."""

    TYPE: ClassVar[str] = "mark_read"
    thread_id: ThreadId = field(validator=check_thread_id)
    message_id: MessageId = field(validator=check_name)


@frozen
class DeleteThread:
    """A request to delete a thread and all its data."""

    TYPE: ClassVar[str] = "delete_thread"
    thread_id: ThreadId = field(validator=check_thread_id)


@frozen
class Feedback:
    """A rating of an agent's message; None (null on the wire) removes it."""

    TYPE: ClassVar[str] = "feedback"
    message_id: MessageId = field(validator=check_name)
    rating: Rating | None
    comment: str | None = field(
        default=None, validator=_check_characters(COMMENT_CHARACTERS, is_blank_valid=True)
    )


# Server to client: control frames, which have no number.


@frozen
class ListedThread:
    """A thread in the list.

    Attributes:
        room: The name of its room.
        created_at: Unix seconds.
        updated_at: The time of its newest message, in Unix seconds.
        runs_active: The number of its runs that have not ended.
        asks: Whether one of them has an open question.
        unread: The number of agents' messages after the read mark.
    """

    thread_id: ThreadId
    room: str
    title: str
    created_at: float
    updated_at: float
    runs_active: int
    asks: bool
    unread: int


@frozen
class ThreadList:
    """A page of the threads of the user."""

    TYPE: ClassVar[str] = "thread_list"
    threads: tuple[ListedThread, ...]
    has_more: bool


class ThreadChange(StrEnum):
    """A kind of change of a thread."""

    RENAMED = "renamed"
    UPDATED = "updated"
    DELETED = "deleted"


@frozen
class ThreadChanged:
    """A thread of the user has changed.

    Attributes:
        thread: The current entry of the thread; None if it is deleted.
    """

    TYPE: ClassVar[str] = "thread_changed"
    thread_id: ThreadId
    change: ThreadChange
    thread: ListedThread | None = None
