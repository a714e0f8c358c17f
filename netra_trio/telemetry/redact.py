r"""Removes credentials from log lines, and characters that end a line or control a terminal.

>>> redact("GET /ws?ticket=abc&last_seq=7")
'GET /ws?ticket=[redacted]&last_seq=7'
>>> escape("opened\nforged")
'opened\\nforged'
"""

import re
from functools import lru_cache

LINE = 16 * 1024  # bytes: most collectors split longer lines; the rest is cut and marked
SCAN = 4 * LINE  # characters of one text that are scanned: bounds the work of one log call
REDACTED = "[redacted]"
CUT = "… cut"

# Every pattern below runs in linear time on hostile text, for one of two reasons: after a literal
# start it can only fail within a bounded number of characters (so each attempt repeats a constant
# amount of work, not the rest of the text), or a lookbehind lets it start once per run of its
# characters. Patterns with two adjacent unbounded parts would be shorter, and quadratic.
#
# They rather remove too much: a credential may touch other text on either side, so a match extends
# to the next character that cannot belong to a credential.

_SECRET_ENDS = (
    "token",
    "ticket",
    "secret",
    "password",
    "passwd",
    "authorization",
    "cookie",
    "secret_key",
    "api_key",
    "apikey",
    "secretkey",
    "bearer",
)
_PERCENT = r"%(?:25){0,4}"  # a percent sign, encoded up to four times
_EQUALS = rf"(?:=|{_PERCENT}3D)"
_NAME = r"(?:token|ticket|secret|passw(?:or)?d|secret[_-]?key|api[_-]?key)"
_SEPARATOR = (
    rf"(?:\\{{0,4}}[\"'][ \t]{{0,4}}[:=,]|[ \t]{{0,4}}(?:[:=]|{_PERCENT}3D))"
    r"[ \t]{0,4}"
)
_QUOTED = (
    r"[bru]{0,2}(?:"
    r"\"(?:[^\"\\\n]|\\.)*+\"?"
    r"|'(?:[^'\\\n]|\\.)*+'?"
    r"|\\{1,4}[\"'][^\"'\\\n]*+(?:\\{1,4}[\"'])?"
    r")[^\s\"'\\,;:&<>(){}\[\]]*+"  # after an inner quote without its backslash
)
_FLAGS = re.ASCII | re.IGNORECASE


def _encoded(word: str) -> str:
    """Return a pattern for a word in which any letter may be percent-encoded."""
    return "".join(
        f"(?:{letter}|{_PERCENT}(?:{ord(letter):x}|{ord(letter.upper()):x}))" for letter in word
    )


# For plain text, before it is rendered: these may consume quotes and backslashes.
_AUTHORIZATION = re.compile(
    rf"(authorization{_SEPARATOR})(?:{_QUOTED}|[^\s\"]+(?:[ \t]{{1,4}}[^\s\"]+)?)", _FLAGS
)
_PAIR = re.compile(rf"({_NAME}{_SEPARATOR})(?:{_QUOTED}|[^\s&\"]+)", _FLAGS)
_URL = re.compile(r"://[^\s\"<>]+", re.ASCII)

# For a rendered line. They match no quote, backslash or escape character, so that JSON stays
# valid and colour codes stay whole.
_LINE_PAIR = re.compile(rf"({_NAME}{_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS)
_LINE_URL = re.compile(r"://[^\s\"'\\\x1b]+", re.ASCII)

# For both.
_ENCODED_PAIR = re.compile(
    rf"((?:{_encoded('token')}|{_encoded('ticket')}){_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS
)
_BEARER = re.compile(r"(bearer)(?:[ \t+:=]|%20){1,8}[^\s\"'\\,;\x1b]+", _FLAGS)
_SUBPROTOCOL = re.compile(r"(jwt(?:\.|%2E))[\w-]{20,}", _FLAGS)  # 20: jwt.exceptions is a module
# "eyJ" is '{"' in base64 and "ZXlK" is "eyJ" in base64: this matches whole tokens, truncated ones
# and their parts. The second pattern is for headers that start differently ('{ "alg"', '{\n').
_JWT = re.compile(r"(?:eyJ|ZXlK)[\w.%-]{8,}", re.ASCII)
_THREE_PARTS = re.compile(r"(?<![\w-])[\w-]{16,}\.[\w-]{16,}\.[\w-]{32,}(?:\.[\w-]+)*", re.ASCII)


def _without_passwords(url: re.Match[str]) -> str:
    """Replace the password in each URL of a text without spaces."""
    parts = url[0].split("://")
    for index, part in enumerate(parts):
        colon, at = part.find(":"), part.rfind("@")
        if 0 <= colon < at:
            parts[index] = f"{part[: colon + 1]}{REDACTED}{part[at:]}"
    return "://".join(parts)


def _without_shapes(text: str) -> str:
    """Replace credentials that are recognisable by their form, in plain text or in a line."""
    # Searching a word costs a tenth of running the pattern that starts with it.
    lower = text.lower()
    if "%" in text:
        text = _ENCODED_PAIR.sub(rf"\1{REDACTED}", text)
    if "bearer" in lower:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "jwt" in lower:
        text = _SUBPROTOCOL.sub(rf"\1{REDACTED}", text)
    if "eyJ" in text or "ZXlK" in text:
        text = _JWT.sub(REDACTED, text)
    return _THREE_PARTS.sub(REDACTED, text)


# Most values are ids and words; without a separator few texts can be credentials.
_INERT = re.compile(r"[\w -]*", re.ASCII)


def is_inert(text: str) -> bool:
    """Whether a short text certainly contains no credential and needs no escaping."""
    if _INERT.fullmatch(text) is None:
        return False
    # Case-insensitive search by `lower`: a case-insensitive pattern takes ten times as long.
    lower = text.lower()
    return "eyj" not in lower and "zxlk" not in lower and "bearer " not in lower


def redact(text: str) -> str:
    """Return the text without credentials, in linear time.

    Removed are JWTs, `Authorization` and `Bearer` values, `jwt.` subprotocols, passwords in URLs,
    and values after the name of a secret (`token=…`, `"ticket": "…"`), percent-encoded too. Text
    beyond `SCAN` characters is dropped.

        >>> redact("GET /ws?ticket=abc&last_seq=7")
        'GET /ws?ticket=[redacted]&last_seq=7'
    """
    if len(text) <= SCAN and is_inert(text):
        return text
    if len(text) > SCAN:
        text = text[:SCAN]
        # The cut may have removed the "@" of a URL: its password could not be recognised any more.
        text = text[: max(text.rfind(" "), text.rfind("\n")) + 1 or SCAN] + CUT
    if "://" in text:
        text = _URL.sub(_without_passwords, text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    text = _PAIR.sub(rf"\1{REDACTED}", text)
    return _without_shapes(text)


def redact_line(line: str) -> str:
    """Remove credentials that only the rendered line shows, and not its single values."""
    if "://" in line:
        line = _LINE_URL.sub(_without_passwords, line)
    if "=" in line or "%" in line:
        line = _LINE_PAIR.sub(rf"\1{REDACTED}", line)
    return _without_shapes(line)


def is_secret(key: object) -> bool:
    """Whether the value of this key is a credential; the key is a name or the bytes of a header."""
    name = key.decode("latin-1") if isinstance(key, bytes) else key
    return isinstance(name, str) and _ends_secretly(name)


@lru_cache(maxsize=1024)  # a program has at most a few hundred field names
def _ends_secretly(name: str) -> bool:
    return name.lower().replace("-", "_").endswith(_SECRET_ENDS)


_SURROGATE = re.compile("[\ud800-\udfff]")
# Characters that move a cursor, colour a terminal, end a line or change the text direction.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
_PRINTABLE = re.compile("[ -~]*")  # takes half the time of `str.isprintable`


def escape(text: str) -> str:
    """Return the text with control characters escaped as in Python."""
    return _CONTROL.sub(_escaped, text)


def escape_json(text: str) -> str:
    """Return the same JSON with all control characters escaped."""
    if _PRINTABLE.fullmatch(text) is not None:  # most lines
        return text
    return _CONTROL.sub(_escaped_json, text)


def escape_surrogates(text: str) -> str:
    """Return the text with surrogates, which UTF-8 cannot encode, escaped as in Python."""
    return _SURROGATE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _escaped_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
