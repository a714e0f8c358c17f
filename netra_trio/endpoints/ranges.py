"""The bytes of a file that a request is for (RFC 9110, 13 and 14).

>>> Part.of_request({"range": ["bytes=-3"]}, size=10, etag='"x"')
Part(start=7, size=3, status=206)
"""

import re
from collections.abc import Mapping
from typing import Self

from attrs import frozen

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
OK, PARTIAL, NOT_MODIFIED, UNSATISFIABLE = 200, 206, 304, 416


@frozen
class Part:
    """The part of a file that is sent.

    Attributes:
        start: Its first byte.
        size: How many bytes.
        status: 200, 206, 304 or 416.
    """

    start: int
    size: int
    status: int

    @classmethod
    def of_request(cls, headers: Mapping[str, list[str]], *, size: int, etag: str) -> Self:
        """Return the part that a request is for.

        A header that is not understood is ignored, and so is one with several ranges: then the
        whole file is sent.

        Args:
            headers: The headers of the request, by their names in lower case.
            size: The bytes of the file.
            etag: Its entity tag, a strong one.
        """
        known = _tags(headers.get("if-none-match", []))
        if "*" in known or etag in known:
            return cls(0, 0, NOT_MODIFIED)
        whole = cls(0, size, OK)
        given, conditions = headers.get("range", []), headers.get("if-range", [])
        if len(given) != 1 or (conditions and conditions != [etag]):
            return whole
        found = _RANGE.fullmatch(given[0].strip())
        if found is None or found.groups() == ("", ""):
            return whole
        first, last = found.groups()
        if not first:  # the last bytes
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return whole
        if start >= size or start == end:
            return cls(0, 0, UNSATISFIABLE)
        return cls(start, end - start, PARTIAL)


def _tags(values: list[str]) -> set[str]:
    """Return the tags of If-None-Match, which are compared weakly."""
    tags = ",".join(values).split(",")
    return {tag.strip().removeprefix("W/") for tag in tags}
