"""The target of a request over HTTP/1.1, in origin form (RFC 9112, 3.2).

>>> to_origin_form(b"http://b/ws?x=1", [(b"Host", b"a")])
(b'/ws?x=1', [(b'host', b'b')])
>>> to_origin_form(b"/ws", [(b"Host", b"a")])
(b'/ws', [(b'Host', b'a')])
"""

import re
from collections.abc import Iterable

LINE_END = b"\r\n"  # the bytes of empty lines, which are ignored before a request (2.2)

_ABSOLUTE = re.compile(rb"(?:https?|wss?)://([^/?#@]+)([/?][^#]*)?", re.IGNORECASE)


def to_origin_form(
    target: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return a target without scheme and host, and the headers that go with it.

    The host of an absolute target takes the place of the Host header (3.2.2). Every other target
    is returned as it is.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return target, list(headers)
    host, path = match.groups()
    kept = [(name, value) for name, value in headers if name.lower() != b"host"]
    path = path or b"/"
    return (path if path.startswith(b"/") else b"/" + path), [(b"host", host), *kept]
