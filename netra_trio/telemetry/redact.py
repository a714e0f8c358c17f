r"""What a log line must not hold: credentials, and characters that end a line or steer a terminal.

>>> redact("GET /ws?ticket=abc&last_seq=7")
'GET /ws?ticket=[redacted]&last_seq=7'
>>> escape("opened\nforged")
'opened\\nforged'
"""

import re
from functools import lru_cache

LINE = 16 * 1024  # bytes: most collectors split longer lines; what is beyond is cut, and says so
SCAN = 4 * LINE  # characters of one text that are looked at: bounds the work for one log call
REDACTED = "[redacted]"
CUT = "… cut"

# Every pattern below is linear on hostile text, for one of two reasons: past a literal start it can
# only fail within a bounded number of characters (so a new attempt at the next start repeats a
# constant, not the rest of the text), or a lookbehind lets it start once per run of its characters.
# Patterns with two neighbouring unbounded parts would be shorter to write and quadratic to run.
#
# They err on the side of removing: a credential may touch any text on either side, so what matches
# runs on to the next character that cannot belong to it.

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
_PERCENT = r"%(?:25){0,4}"  # a percent sign, itself encoded up to four times
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
    r")[^\s\"'\\,;:&<>(){}\[\]]*+"  # a quote inside the value, its backslash lost in a second repr
)
_FLAGS = re.ASCII | re.IGNORECASE


def _encoded(word: str) -> str:
    """Return a pattern for a word in which any letter may be percent-encoded."""
    return "".join(
        f"(?:{letter}|{_PERCENT}(?:{ord(letter):x}|{ord(letter.upper()):x}))" for letter in word
    )


# Over plain text, before it is rendered: these may consume quotes and backslashes.
_AUTHORIZATION = re.compile(
    rf"(authorization{_SEPARATOR})(?:{_QUOTED}|[^\s\"]+(?:[ \t]{{1,4}}[^\s\"]+)?)", _FLAGS
)
_PAIR = re.compile(rf"({_NAME}{_SEPARATOR})(?:{_QUOTED}|[^\s&\"]+)", _FLAGS)
_URL = re.compile(r"://[^\s\"<>]+", re.ASCII)

# Over a rendered line: these never touch a quote, a backslash or a colour, so JSON stays JSON.
_LINE_PAIR = re.compile(rf"({_NAME}{_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS)
_LINE_URL = re.compile(r"://[^\s\"'\\\x1b]+", re.ASCII)

# Over both.
_ENCODED_PAIR = re.compile(
    rf"((?:{_encoded('token')}|{_encoded('ticket')}){_EQUALS})[^\s&\"'\\\x1b]+", _FLAGS
)
_BEARER = re.compile(r"(bearer)(?:[ \t+:=]|%20){1,8}[^\s\"'\\,;\x1b]+", _FLAGS)
_SUBPROTOCOL = re.compile(r"(jwt(?:\.|%2E))[\w-]{20,}", _FLAGS)  # 20: jwt.exceptions is a module
# "eyJ" is '{"' in base64 and "ZXlK" is "eyJ" in base64: whole tokens, tokens cut short, and the
# parts of one. The second pattern is for headers that begin otherwise ('{ "alg"', '{\n').
_JWT = re.compile(r"(?:eyJ|ZXlK)[\w.%-]{8,}", re.ASCII)
_THREE_PARTS = re.compile(r"(?<![\w-])[\w-]{16,}\.[\w-]{16,}\.[\w-]{32,}(?:\.[\w-]+)*", re.ASCII)


def _without_passwords(url: re.Match[str]) -> str:
    """Replace what stands between user and host in each URL of a run without spaces."""
    parts = url[0].split("://")
    for index, part in enumerate(parts):
        colon, at = part.find(":"), part.rfind("@")
        if 0 <= colon < at:
            parts[index] = f"{part[: colon + 1]}{REDACTED}{part[at:]}"
    return "://".join(parts)


def _without_shapes(text: str) -> str:
    """Replace what is a credential by its own shape, in plain text or in a rendered line."""
    # Looking for a word costs a tenth of running the pattern that begins with it.
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


# Most values are ids and words: without a separator only these can be credentials.
_INERT = re.compile(r"[\w -]*", re.ASCII)


def is_inert(text: str) -> bool:
    """Whether a short text has nothing in it that could be a credential, nor needs escaping."""
    if _INERT.fullmatch(text) is None:
        return False
    # In any case of letters, and a pattern that ignores it takes ten times as long.
    lower = text.lower()
    return "eyj" not in lower and "zxlk" not in lower and "bearer " not in lower


def redact(text: str) -> str:
    """Return the text without the credentials in it; linear in time, whatever the text.

    Goes: JWTs, `Authorization` and `Bearer` values, `jwt.` subprotocols, passwords in URLs, and
    what follows the name of a secret (`token=…`, `"ticket": "…"`), percent-encoded too. Text
    beyond `SCAN` characters is dropped.

        >>> redact("GET /ws?ticket=abc&last_seq=7")
        'GET /ws?ticket=[redacted]&last_seq=7'
    """
    if len(text) <= SCAN and is_inert(text):
        return text
    if len(text) > SCAN:
        text = text[:SCAN]
        # The cut may have left a URL without its "@": its password would no longer look like one.
        text = text[: max(text.rfind(" "), text.rfind("\n")) + 1 or SCAN] + CUT
    if "://" in text:
        text = _URL.sub(_without_passwords, text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    text = _PAIR.sub(rf"\1{REDACTED}", text)
    return _without_shapes(text)


def redact_line(line: str) -> str:
    """Catch in the whole rendered line what its values did not show one by one."""
    if "://" in line:
        line = _LINE_URL.sub(_without_passwords, line)
    if "=" in line or "%" in line:
        line = _LINE_PAIR.sub(rf"\1{REDACTED}", line)
    return _without_shapes(line)


def is_secret(key: object) -> bool:
    """Whether a key says that its value is a credential: a name, or a header's bytes."""
    name = key.decode("latin-1") if isinstance(key, bytes) else key
    return isinstance(name, str) and _ends_secretly(name)


@lru_cache(maxsize=1024)  # a program has a few hundred names of fields, if it has many
def _ends_secretly(name: str) -> bool:
    return name.lower().replace("-", "_").endswith(_SECRET_ENDS)


_SURROGATE = re.compile("[\ud800-\udfff]")
# What can move a cursor, colour a terminal, end a line or turn the direction of writing.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
_PRINTABLE = re.compile("[ -~]*")  # takes half the time of `str.isprintable`


def escape(text: str) -> str:
    """Return the text with each control character as a Python string shows it."""
    return _CONTROL.sub(_escaped, text)


def escape_json(text: str) -> str:
    """Return JSON that says the same, with each control character escaped."""
    if _PRINTABLE.fullmatch(text) is not None:  # as most lines are
        return text
    return _CONTROL.sub(_escaped_json, text)


def escape_surrogates(text: str) -> str:
    """Return the text with each surrogate, which UTF-8 refuses, as a Python string shows it."""
    return _SURROGATE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _escaped_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
