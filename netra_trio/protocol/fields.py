"""The types of open JSON, and the validators of fields, which the message classes share."""

import re
from collections.abc import Sequence
from typing import Any, NewType

import attrs

JsonObject = dict[str, Any]
JsonValue = NewType("JsonValue", object)
"""Any value of JSON except null."""

CORRELATION_ID_CHARACTERS = 128  # docs/protocol.md, Frames
HISTORY_PAGE = 50  # messages, unless the client asks for another number
HISTORY_PAGE_MAX = 100  # messages
ATTACHMENTS = 16  # files of one message, or of one answer: docs/protocol.md, Files
MEDIA_TYPE_CHARACTERS = 127  # docs/protocol.md, Binary frames

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(; ?[\w.+-]+=[\w.+-]+)*", re.ASCII)
_THREAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
THREAD_ID_TEXT = "1 to 64 characters out of A-Z, a-z, 0-9, _ and -"


class ExpectationError(ValueError):
    """A field has the right type and an invalid value.

    Attributes:
        expected: A description of valid values.
        field: The name of the field.
        value: The invalid value.
    """

    def __init__(self, expected: str, field: str, value: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.field = field
        self.value = value


def check_thread_id(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    """Accept a thread id, or None."""
    if value is not None and not is_thread_id(value):
        raise ExpectationError(THREAD_ID_TEXT, attribute.name, value)


def is_thread_id(value: str) -> bool:
    """Return whether a text is a valid thread id."""
    return _THREAD_ID.fullmatch(value) is not None


def is_media_type(value: str) -> bool:
    """Return whether a text has the form of a media type, with its parameters."""
    return len(value) <= MEDIA_TYPE_CHARACTERS and _MEDIA_TYPE.fullmatch(value) is not None


def check_not_blank(_: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    """Accept a text that is not blank."""
    if not value.strip():
        raise ExpectationError("a text that is not blank", attribute.name, value)


def check_name(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    """Accept a text that is not empty, or None."""
    if value is not None and not value:
        raise ExpectationError("a name", attribute.name, value)


def check_positive(_: object, attribute: "attrs.Attribute[Any]", value: int | None) -> None:
    """Accept an integer from 1, or None."""
    if value is not None and value < 1:
        raise ExpectationError("an integer from 1", attribute.name, value)


def check_not_negative(_: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    """Accept an integer from 0."""
    if value < 0:
        raise ExpectationError("an integer from 0", attribute.name, value)


def check_page_size(_: object, attribute: "attrs.Attribute[Any]", value: int) -> None:
    """Accept the size of a page."""
    if not 1 <= value <= HISTORY_PAGE_MAX:
        raise ExpectationError(f"an integer from 1 to {HISTORY_PAGE_MAX}", attribute.name, value)


def check_attachments(_: object, attribute: "attrs.Attribute[Any]", value: Sequence[str]) -> None:
    """Accept the ids of at most `ATTACHMENTS` different files."""
    if len(value) > ATTACHMENTS or len(set(value)) < len(value) or not all(value):
        expected = f"at most {ATTACHMENTS} different file ids that are not empty"
        raise ExpectationError(expected, attribute.name, list(value))


def check_correlation_id(_: object, attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    """Accept a correlation id, or None."""
    if value is not None and not 1 <= len(value) <= CORRELATION_ID_CHARACTERS:
        raise ExpectationError(
            f"1 to {CORRELATION_ID_CHARACTERS} characters", attribute.name, value
        )
