"""Compares the type that a client gives for content with the content itself.

>>> stored_type("image/png", b"<html></html>")
Traceback (most recent call last):
...
netra_trio.files.declared.ContradictedType: text/html
>>> stored_type("audio/pcm", bytes(8))
'audio/pcm'
"""

from netra_trio.errors import NetraError
from netra_trio.files.detection import (
    HTML,
    JSON,
    NAMED_TEXT,
    OCTETS,
    PLAIN,
    RENDERED_IMAGES,
    SVG,
    XML,
    Detection,
)

_TEXTS = {PLAIN, JSON, *NAMED_TEXT.values()}
_MEDIA = {"image", "audio", "video", "font"}
_ZIP = "application/zip"
_ARCHIVES = {_ZIP, "application/gzip", "application/x-tar"}
_SIGNED = {*RENDERED_IMAGES, *_ARCHIVES, "application/pdf"}
"""Types whose content begins with a signature."""


class ContradictedType(NetraError):
    """The content shows another type than the one that was given; the text is that type."""


def stored_type(given: str, data: bytes) -> str:
    """Return the type of content: the given one, unless that is `application/octet-stream`.

    Args:
        given: The type that a client has given.
        data: The whole content.

    Raises:
        ContradictedType: The content shows that it has another type.
    """
    detection = Detection()
    detection.feed(data)
    found = detection.media_type()
    kind = given.partition(";")[0].strip().lower()
    if kind == OCTETS:
        return found
    if kind != found and _contradicts(kind, found):
        raise ContradictedType(found)
    return given


def _contradicts(kind: str, found: str) -> bool:
    """Whether content of the type `found` cannot have the different type `kind`."""
    group = kind.partition("/")[0]
    if found == OCTETS:  # it is not text, and has no known signature
        return group == "text" or kind in _SIGNED or kind in {SVG, XML, JSON}
    if found == XML:
        return not kind.endswith(("/xml", "+xml"))
    if found in _TEXTS:
        return group in _MEDIA or kind in _SIGNED
    if found in {HTML, SVG}:
        return True
    if {group, found.partition("/")[0]} <= {"audio", "video"}:
        return False  # one container has both
    return _ZIP not in {kind, found} or not (group == found.partition("/")[0] == "application")
