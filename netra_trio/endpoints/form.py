"""The file in the body of an upload: a part of a form, or the body itself.

    form = FormFile(boundary_of(request), body)
    name = await form.find()
    async for chunk in form:
        ...

Forms are parsed by `multipart`, which does no I/O. This module bounds the parts and bytes beside
the file.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Self
from urllib.parse import unquote

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    content_disposition_unquote,
    parse_options_header,
)

from netra_trio.endpoints.body import Body
from netra_trio.endpoints.request import Request
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem

PARTS = 32  # of a form
HEADERS = 8  # of a part; RFC 7578, 4.2 and 4.4 to 4.8 have three
HEADER_BYTES = 4096  # of one header of a part: a name of a file takes most of it
OTHER_BYTES = 64 * 1024  # of a form beside its file
BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1

_FORM = "multipart/form-data"
# RFC 8187, 3.2.1, and the other encoding of its predecessor; Python knows some that raise errors.
_ENCODED_NAME = re.compile(
    r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^\s;\"]+)", re.IGNORECASE
)


def boundary_of(request: Request) -> str | None:
    """Return the boundary of the parts of a form; None if the body is not a form.

    Raises:
        Refused: BAD_REQUEST, if the form has no valid boundary, or it is another kind of parts.
    """
    kind, options = parse_options_header(",".join(request.headers.get("content-type", [])))
    if not kind.startswith("multipart/"):
        return None
    if kind != _FORM:
        raise _refused(f"Content-Type: expected {_FORM} or the type of the file.")
    boundary = options.get("boundary", "")
    if not (1 <= len(boundary) <= BOUNDARY_CHARACTERS and boundary.isprintable()):
        raise _refused(
            f"Content-Type: expected a boundary of 1 to {BOUNDARY_CHARACTERS} characters."
        )
    return str(boundary)


def name_of(dispositions: Iterable[str]) -> str:
    """Return the name of a file in the values of Content-Disposition; empty if there is none."""
    value = "; ".join(dispositions)
    encoded = _ENCODED_NAME.search(value)
    if encoded is not None:
        return unquote(encoded[2], encoding=encoded[1], errors="replace")
    _, options = parse_options_header(value, unquote=content_disposition_unquote)
    return _utf8(options.get("filename", ""))


class _End(Enum):
    END = auto()


class FormFile:
    """The first file of a form.

    Args:
        boundary: The boundary of its parts.
        body: The form.
    """

    def __init__(self, boundary: str, body: Body) -> None:
        self._body = body
        self._parser = PushMultipartParser(
            boundary.encode("latin-1"),
            max_header_count=HEADERS,
            max_header_size=HEADER_BYTES,
            max_segment_count=PARTS,
            header_charset="latin-1",
        )
        self._events: Iterator[MultipartSegment | bytes | None] = iter(())
        self._is_file = True
        self._file_bytes = 0

    async def find(self) -> str:
        """Read until the file begins; return its name, as the client has sent it.

        Raises:
            Refused: BAD_REQUEST, if the body is not a form, or a form without a file.
        """
        while (event := await self._next()) is not _End.END:
            if isinstance(event, MultipartSegment) and (name := _file_name(event)):
                return name
        raise _refused("The form has no file: expected a part with a filename.")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes of the file; read the rest of the form at its end.

        Raises:
            Refused: BAD_REQUEST, if the form is not valid or has another file.
        """
        while (event := await self._next()) is not _End.END:
            if isinstance(event, MultipartSegment):
                if _file_name(event):
                    raise _refused("The form has more than one file: use one request for each.")
            elif event is None:
                self._is_file = False
            elif self._is_file:
                self._file_bytes += len(event)
                return event
        raise StopAsyncIteration

    async def _next(self) -> "MultipartSegment | bytes | _End | None":
        """Return the next part, bytes of it, or None at its end."""
        try:
            while (event := next(self._events, _End.END)) is _End.END:
                if self._body.size - self._file_bytes > OTHER_BYTES:
                    text = f"The form has more than {OTHER_BYTES} bytes beside the file."
                    raise Refused(problem(ErrorCode.BAD_REQUEST, text, status=413))
                data = await self._body.read()
                if not data:
                    self._parser.close()
                    return _End.END
                self._events = iter(self._parser.parse(data))
        except ParserLimitReached:
            text = (
                f"The form has more than {PARTS} parts, or a part with more than {HEADERS} headers "
                f"or a header of more than {HEADER_BYTES} bytes."
            )
            raise _refused(text) from None
        except MultipartError:
            # `from None`: the text of the error may have parts of the body.
            raise _refused(f"The body is not a valid {_FORM}.") from None
        return event


def _file_name(segment: MultipartSegment) -> str:
    """Return the name of a file; empty for another field, and for a form without a chosen file."""
    dispositions = [value for name, value in segment.headerlist if name == "Content-Disposition"]
    return _utf8(segment.filename or "") or name_of(dispositions)


def _utf8(text: str) -> str:
    """Return a text whose bytes are UTF-8; headers are decoded as Latin-1."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _refused(text: str) -> Refused:
    return Refused(problem(ErrorCode.BAD_REQUEST, text))
