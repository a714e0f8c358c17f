"""The kinds of values that settings have: how each is parsed, described and shown.

>>> Integer(1, 20, "messages").read("5")
5
>>> Integer(1, 20, "messages").expected
'a whole number from 1 to 20 (messages)'
"""

import ipaddress
import re
import unicodedata
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import urlsplit

from attrs import frozen
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

FILE_SUFFIX = "_FILE"
MAX_SHOWN = 60  # characters of an invalid value: enough to recognise it, short enough to read

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_AMOUNT = re.compile("[0-9]+([.][0-9]+)?")
_MAX_DIGITS = 18  # a longer number is a mistake, and Python itself refuses to parse 4300 digits


class ValueKind(Protocol):
    """Parses, checks and shows one kind of value."""

    @property
    def expected(self) -> str:
        """A description of valid texts, to follow the word "expected"."""
        ...

    def read(self, text: str) -> Any:
        """Return the value of a text that is not blank.

        Raises:
            ValueError: The text is invalid; the text of the error says how to fix it, and never
                contains the invalid text.
        """
        ...

    def show(self, value: Any) -> str:
        """Return a value that is not None as text for people."""
        ...


@frozen
class Integer:
    """A whole number between two inclusive bounds; `maximum` None means no upper bound."""

    minimum: int
    maximum: int | None = None
    unit: str = ""

    @property
    def expected(self) -> str:
        """The bounds and the unit."""
        lowest, unit = self.minimum, f" ({self.unit})" if self.unit else ""
        if self.maximum is None:
            return f"a whole number, {lowest} or more{unit}"
        return f"a whole number from {lowest} to {self.maximum}{unit}"

    def read(self, text: str) -> int:
        """Read decimal digits with an optional minus sign."""
        text = text.strip()
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS:
            raise ValueError("write digits only, without unit, point or separators")
        value = int(text)
        if value < self.minimum:
            raise ValueError(f"raise it to {self.minimum} or more")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"lower it to {self.maximum} or less")
        return value

    def show(self, value: int) -> str:
        """Show the number with its unit."""
        return f"{value} {self.unit}".rstrip()


@frozen
class Amount:
    """A positive decimal number of at most `places` decimals, up to an inclusive bound."""

    maximum: int
    places: int

    @property
    def expected(self) -> str:
        """The bound and the decimals."""
        return f"a number above 0, up to {self.maximum}, with at most {self.places} decimals"

    def read(self, text: str) -> Decimal:
        """Read decimal digits with an optional point."""
        text = text.strip()
        if len(text) > _MAX_DIGITS or not _AMOUNT.fullmatch(text):
            raise ValueError("write digits with a point, like 2.50, without currency or separators")
        value = Decimal(text)
        if len(text.partition(".")[2]) > self.places:
            raise ValueError(f"write at most {self.places} decimals")
        if not value:
            raise ValueError("raise it above 0, or unset it for no limit")
        if value > self.maximum:
            raise ValueError(f"lower it to {self.maximum} or less")
        return value

    def show(self, value: Decimal) -> str:
        """Show the number as it was written."""
        return f"{value:f}"


@frozen
class Flag:
    """A boolean."""

    @property
    def expected(self) -> str:
        """Every accepted word, in any case of letters."""
        return f"one of {', '.join(_TRUE + _FALSE)}"

    def read(self, text: str) -> bool:
        """Read one of the words."""
        word = text.strip().lower()
        if word not in _TRUE + _FALSE:
            raise ValueError("write true or false")
        return word in _TRUE

    def show(self, value: bool) -> str:
        """Show the word."""
        return "true" if value else "false"


@frozen
class Choice:
    """One of a few words, in any case of letters."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Every accepted word."""
        return f"one of {', '.join(self.words)}"

    def read(self, text: str) -> str:
        """Read one of the words."""
        word = text.strip().lower()
        if word not in self.words:
            raise ValueError("write one of these words")
        return word

    def show(self, value: str) -> str:
        """Show the word."""
        return value


@frozen
class WordList:
    """A list separated with commas; blanks and repetitions are ignored.

    Attributes:
        meaning: What the words are.
        allowed: The accepted words, of which at least one must be given; None accepts any list,
            which is then checked elsewhere.
    """

    meaning: str
    allowed: tuple[str, ...] | None = None

    @property
    def expected(self) -> str:
        """The meaning of the words, and the accepted ones."""
        among = "" if self.allowed is None else f", of {', '.join(self.allowed)}"
        return f"{self.meaning}, separated with commas{among}"

    def read(self, text: str) -> tuple[str, ...]:
        """Read the words in their order."""
        words = tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
        if self.allowed is not None and not (words and set(words) <= set(self.allowed)):
            raise ValueError("remove every other one, and name at least one")
        return words

    def show(self, value: tuple[str, ...]) -> str:
        """Show the words as they are written."""
        return ", ".join(value) or "none"


@frozen
class Text:
    """Any text. A secret keeps its blanks, and only its length is ever shown.

    Attributes:
        meaning: What the text is.
        secret: Whether the value must never be shown.
    """

    meaning: str
    secret: bool = False

    @property
    def expected(self) -> str:
        """The meaning of the text."""
        return self.meaning

    def read(self, text: str) -> str:
        """Read the text."""
        if not self.secret:
            return text.strip()
        check_ends(text)
        return text

    def show(self, value: str) -> str:
        """Show the text, or only the length of a secret."""
        return f"set, {len(value.encode())} bytes" if self.secret else value


@frozen
class Scope:
    """The scopes of an OpenID Connect request; the characters are those of RFC 6749, 3.3."""

    @property
    def expected(self) -> str:
        """Its form, and the scope that it requires."""
        return "scopes separated with blanks, one of which is openid"

    def read(self, text: str) -> str:
        """Read the scopes in their order, without repetitions."""
        words = tuple(dict.fromkeys(text.split()))
        if not all(re.fullmatch(r"[!#-\[\]-~]+", word) for word in words):
            raise ValueError("leave out quotes, backslashes, control and non-ASCII characters")
        if "openid" not in words:
            raise ValueError("add openid")
        return " ".join(words)

    def show(self, value: str) -> str:
        """Show the scopes as they are written."""
        return value


@frozen
class WebUrl:
    """An absolute http or https URL without credentials; an invalid one is never shown.

    Attributes:
        example: A valid URL.
        hides_path: Whether only the host is shown, because the path may be a secret.
        has_query: Whether it may have a query.
    """

    example: str = "https://login.example.com/jwks"
    hides_path: bool = False
    has_query: bool = True

    @property
    def expected(self) -> str:
        """Its accepted beginnings, and the parts that it must not have."""
        parts = "user, password and fragment"
        if not self.has_query:
            parts = "user, password, query and fragment"
        return f"a URL with https:// or http://, without {parts}"

    @property
    def secret(self) -> bool:
        """True: a URL that is refused because it contains a password must not be shown."""
        return True

    def read(self, text: str) -> str:
        """Read the URL."""
        url = text.strip()
        if not re.fullmatch(r"[!-~]+", url):
            raise ValueError("percent-encode blanks, control and non-ASCII characters")
        try:
            parts = urlsplit(url)
            is_web = parts.scheme in {"http", "https"}
            is_whole = is_web and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError(f"write it like {self.example}")
        if "@" in parts.netloc:
            raise ValueError("leave out user and password")
        if "#" in url:
            raise ValueError("leave out the # and what follows")
        if "?" in url and not self.has_query:
            raise ValueError("leave out the ? and what follows")
        return url

    def show(self, value: str) -> str:
        """Show the URL; a valid one contains no secret, except in its path."""
        if not self.hides_path:
            return value
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.netloc}/…"


@frozen
class DatabaseUrl:
    """A database URL in SQLAlchemy's form; only `show` shows it, without its secret parts.

    Attributes:
        schemes: The accepted schemes, in any case of letters.
    """

    schemes: tuple[str, ...] = ("sqlite", "postgresql", "postgres", "postgresql+psycopg")

    @property
    def expected(self) -> str:
        """Its accepted beginnings."""
        *others, last = (f"{scheme}://" for scheme in self.schemes)
        return f"a URL with {', '.join(others)} or {last}"

    @property
    def secret(self) -> bool:
        """True: it may contain a password."""
        return True

    def read(self, text: str) -> str:
        """Read the URL; its scheme is returned in lower case."""
        text = text.strip()
        check_ends(text)
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if scheme not in self.schemes:
            bare = scheme.partition("+")[0]
            known = colon and bare in self.schemes
            raise ValueError(f"leave out the driver: {bare}://" if known else "use one of these")
        if scheme != "sqlite":
            rest = _with_hosts_as_options(rest)
        url = _parsed(f"{scheme}:{rest}")
        if scheme == "sqlite" and url.host:
            raise ValueError("write three slashes before a relative path, four before another")
        if scheme != "sqlite" and not url.database:
            raise ValueError("name the database: postgresql://user@host/database")
        return f"{scheme}:{rest}"

    def show(self, value: str) -> str:
        """Show the URL without its password and its options, which may contain one too."""
        url = make_url(value)
        places = {name: url.query[name] for name in ("host", "port") if name in url.query}
        return url.set(query=places).render_as_string(hide_password=True)


S3_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PREFIX = re.compile(r"[!-~]{0,512}")


@frozen
class FilesUrl:
    """A folder, or `s3://bucket/prefix`; credentials for S3 are in variables of their own."""

    @property
    def expected(self) -> str:
        """Its form."""
        return "the path of a folder, or s3://bucket/prefix"

    def read(self, text: str) -> str:
        """Read the path or the URL; slashes at its end are dropped."""
        url = text.strip()
        scheme, found, rest = url.partition("://")
        if not found:
            if "\0" in url:
                raise ValueError("leave out the NUL")
            return url.rstrip("/") or "/"
        if scheme.lower() != "s3":
            raise ValueError("write a folder without file://, or use s3://")
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket:
            raise ValueError("leave out the key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("name the bucket: s3://bucket/prefix")
        if not _PREFIX.fullmatch(prefix) or set(prefix) & {"?", "#"}:
            raise ValueError("use a prefix of letters, digits and slashes; options have variables")
        return f"{S3_SCHEME}{bucket}/{prefix.strip('/')}".rstrip("/")

    def show(self, value: str) -> str:
        """Show the path or the URL."""
        return value


def _with_hosts_as_options(rest: str) -> str:
    """Return the part after the scheme with several hosts as options.

    SQLAlchemy does not accept libpq's `//user@a:5432,b:5433/name`.
    """
    slashes, begin, after = rest.partition("//")
    authority = re.split("[/?#]", after, maxsplit=1)[0]
    user, at, hosts = authority.rpartition("@")
    if "," not in hosts:
        return rest
    places = [_host_and_port(place) for place in hosts.split(",")]
    path, mark, query = after[len(authority) :].partition("?")
    names, ports = (",".join(each) for each in zip(*places, strict=True))
    options = f"host={names}&port={ports}" + ("&" if mark else "")
    return f"{slashes}{begin}{user}{at}{path}?{options}{query}"


def _host_and_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        name, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = place.partition(":")
    return name, port or "5432"


_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_NAMES = {"\t": "tab", "\n": "line feed", "\r": "carriage return", "\ufeff": "byte-order mark"}


def check_ends(text: str) -> None:
    """Check that a secret has no characters around it that are probably not part of it.

    An editor or a shell adds them: a line feed, a carriage return, a byte-order mark, quotation
    marks. Plain spaces are allowed, and any character inside.

    Raises:
        ValueError: There is one; the text says which and where, and shows nothing else.
    """
    for character, place in ((text[0], "beginning"), (text[-1], "end")):
        if character != " " and not character.isprintable():
            raise ValueError(f"remove the {_name_of(character)} at its {place}")
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        raise ValueError(f"remove the quotation marks ({_code_of(text[0])}) around it")


def _name_of(character: str) -> str:
    name = _NAMES.get(character) or unicodedata.name(character, "control character").lower()
    return f"{name} ({_code_of(character)})"


def _code_of(character: str) -> str:
    return f"U+{ord(character):04X}"


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        # `from None`: the text of the parser's error contains the URL.
        raise ValueError(
            "write it like postgresql://user:password@host/database, and percent-encode characters "
            "other than letters and digits"
        ) from None


def is_loopback(url: str) -> bool:
    """Whether the host of a URL is `localhost` or a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@frozen
class Setting:
    """One row of the table of settings.

    Attributes:
        env: The name of its environment variable.
        kind: How its text is parsed.
        meaning: What it is for.
        beyond: What happens beyond the limit, or to a request that lacks what is required; empty
            if nothing does.
        required: How to set it, if staging and production do not start without it; else empty.
        in_file: Whether it may be in a file that `file_env` names.
    """

    env: str
    kind: ValueKind
    meaning: str
    beyond: str = ""
    required: str = ""
    in_file: bool = False

    @property
    def file_env(self) -> str:
        """The name of the variable that names a file with the value."""
        return f"{self.env}{FILE_SUFFIX}"

    def read(self, text: str) -> Any:
        """Return the value of a text that is not blank.

        Raises:
            ValueError: It is invalid; the text is the line for the user, which never contains a
                secret value.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                fault_line(
                    self.env, "bytes that are not UTF-8", self.kind.expected, "write it in UTF-8"
                )
            ) from None
        try:
            return self.kind.read(text)
        except ValueError as error:
            # `from None`: the chained traceback would show the value.
            raise ValueError(
                fault_line(self.env, self._given(text), self.kind.expected, str(error))
            ) from None

    def show(self, value: Any) -> str:
        """Return the value as text for people; of a secret only its length."""
        return "not set" if value is None else self.kind.show(value)

    @property
    def explanation(self) -> str:
        """The meaning and the effect beyond the limit, in one line."""
        if not self.beyond:
            return self.meaning
        when = "beyond it" if isinstance(self.kind, Integer | Amount) else "else"
        return f"{self.meaning}; {when}: {self.beyond}"

    def _given(self, text: str) -> str:
        if getattr(self.kind, "secret", False):
            return f"{len(text.encode())} bytes (kept secret)"
        return quoted(text)


def quoted(text: str) -> str:
    """Return `text` in quotes, in ASCII, without control characters, cut to `MAX_SHOWN`."""
    return ascii(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def fault_line(name: str, got: str, expected: str, fix: str) -> str:
    """Return the line that reports an invalid setting."""
    return f"{name}: got {got}, expected {expected}; {fix}"
