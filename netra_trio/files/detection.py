r"""The type of content, by the content itself: a name or a declared type may be wrong.

>>> kind = Detection()
>>> kind.feed(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
>>> kind.media_type("holiday.png")
'image/svg+xml'

Content that is text from its first byte to its last one is a kind of text, also if it begins with
the letters of a signature. The name only decides between kinds of text that are equally harmless.
"""

import codecs
import re

import filetype
import orjson

from netra_trio.files.names import ending

HEAD_BYTES = 64 * 1024  # of a file: the longest distance at which a signature is searched

OCTETS = "application/octet-stream"
PLAIN = "text/plain"
HTML = "text/html"
SVG = "image/svg+xml"
XML = "application/xml"
JSON = "application/json"

NAMED_TEXT = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
}
"""The kinds of text that a name decides."""

RENDERED_IMAGES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/heic",
        "image/bmp",
        "image/tiff",
        "image/x-icon",
    }
)
"""Raster images, in which a browser runs nothing."""

_OTHER_NAMES = {
    "audio/x-wav": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "video/x-m4v": "video/mp4",
    "application/x-msdownload": OCTETS,
    "application/x-executable": OCTETS,
}
_TEXT_SIGNATURES = ((b"%PDF-", "application/pdf"), (b"{\\rtf", "application/rtf"))
_UTF16 = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Escape is a part of terminal recordings, form feed of old manuals.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")
# The tags by which a browser detects HTML without a declared type (WHATWG MIME Sniffing, 7.1), and
# other elements of a page: rather too much text counts as HTML than too little.
_HTML = re.compile(
    r"<(?:!doctype\s+html|html|head|script|iframe|h[1-6]|div|font|table|a|style|title|b|body|br|p"
    r"|img|svg|meta|link|form|object|embed|base|frameset|math|template|video|audio|input|button"
    r"|details|marquee)(?:[\s>/]|$)",
    re.IGNORECASE,
)
_ROOT = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")
_SPACE = re.compile(r"\s*")
_PROLOG = (("<?", "?>"), ("<!--", "-->"), ("<!", ">"))  # the parts before the root element
_NAMESPACE_WITHIN = 1024  # characters of a root element

_SIMPLE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]{0,100}")
_SERVED = frozenset(
    {
        *RENDERED_IMAGES,
        *NAMED_TEXT.values(),
        PLAIN,
        JSON,
        "application/pdf",
        "application/zip",
        "application/gzip",
        "application/x-tar",
        "application/msword",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
    }
)
_SERVED_GROUPS = (
    "audio/",
    "video/",
    "application/vnd.openxmlformats-officedocument.",
    "application/vnd.oasis.opendocument.",
)


class Detection:
    """Finds the type of content that is fed to it."""

    def __init__(self) -> None:
        self._head = b""
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_utf8 = True
        self._has_controls = False

    def feed(self, data: bytes | bytearray) -> None:
        """Look at the next bytes of the content."""
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._size += len(data)
        self._has_controls = self._has_controls or _CONTROLS.search(data) is not None
        self._is_utf8 = self._is_utf8 and not self._has_controls and self._decodes(data)

    def media_type(self, name: str = "") -> str:
        """Return the type of all that was fed; `name` decides between kinds of text.

        Call it once, after the last byte.
        """
        text = self._text()
        if text is None or not self._size:
            return self._binary() or OCTETS
        for signature, kind in _TEXT_SIGNATURES:
            if self._head.startswith(signature):
                return kind
        return _markup(text) or self._harmless(text, name)

    def _decodes(self, data: bytes | bytearray, *, final: bool = False) -> bool:
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError:
            return False
        return True

    def _text(self) -> str | None:
        """Return the first characters, if all of the content is text."""
        if self._is_utf8 and self._decodes(b"", final=True):
            return self._head.decode(errors="ignore").removeprefix("\ufeff")
        for mark, encoding in _UTF16:
            if self._head.startswith(mark):
                text = self._head[len(mark) :].decode(encoding, errors="ignore")
                return None if _CONTROL_CHARACTERS.search(text) else text
        if self._has_controls or self._binary() is not None:
            return None
        return self._head.decode("latin-1")  # of an older encoding with one byte per character

    def _binary(self) -> str | None:
        found = filetype.guess(self._head)
        return None if found is None else _OTHER_NAMES.get(found.mime, found.mime)

    def _harmless(self, text: str, name: str) -> str:
        """Return the kind of a text in which nothing can run."""
        if text.lstrip()[:1] in {"{", "["} and self._is_json(name):
            return JSON
        return NAMED_TEXT.get(ending(name), PLAIN)

    def _is_json(self, name: str) -> bool:
        if self._size > len(self._head):  # it is too long to be parsed here: the name decides
            return ending(name) == ".json"
        try:
            orjson.loads(self._head)
        except orjson.JSONDecodeError:
            return False
        return True


def served_type(media_type: str) -> str:
    """Return the type with which content is sent to browsers: never one that they run or render.

    Args:
        media_type: The type of a file, which an agent may have given.
    """
    kind = media_type.partition(";")[0].strip().lower()
    if kind in _SERVED or (kind.startswith(_SERVED_GROUPS) and _SIMPLE.fullmatch(kind)):
        return kind
    return OCTETS


def _markup(text: str) -> str | None:
    """Return the kind of a document that a browser would render."""
    at = _root_at(text)
    root = _ROOT.match(text, at)
    if root and root[1].lower() == "svg":
        return SVG
    begun = text.lstrip()
    if _HTML.match(begun) or _HTML.match(text, at):
        return HTML
    has_namespace = "xmlns" in text[at : at + _NAMESPACE_WITHIN]
    return XML if root and (has_namespace or begun.startswith("<?xml")) else None


def _root_at(text: str) -> int:
    """Return where the first element begins: behind declarations and comments."""
    at = 0
    while True:
        space = _SPACE.match(text, at)
        at = at if space is None else space.end()
        begin, end = next((pair for pair in _PROLOG if text.startswith(pair[0], at)), ("", ""))
        if not begin:
            return at
        after = text.find(end, at)
        subset = text.find("[", at, after)
        if begin == "<!" and subset >= 0:  # of a document type: it has parts of its own
            after = text.find(end, max(subset, text.find("]", subset)))
        if after < 0:
            return len(text)
        at = after + len(end)
