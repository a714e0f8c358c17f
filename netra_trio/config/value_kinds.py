"""What a setting can be: how its text is read, what is expected of it, how its value is shown.

>>> Whole(1, 20, "messages").read("5")
5
>>> Whole(1, 20, "messages").expected
'a whole number from 1 to 20 (messages)'
"""

import ipaddress
import re
from typing import Any, Protocol
from urllib.parse import urlsplit

from attrs import frozen
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

FILE_SUFFIX = "_FILE"
MAX_SHOWN = 60  # characters of a wrong value: enough to find it by, and no wall of text

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_MAX_DIGITS = 18  # beyond it a number is a mistake, and Python itself refuses to read 4300 digits


class Kind(Protocol):
    """How one sort of value is read, checked and shown."""

    @property
    def expected(self) -> str:
        """What a text must be, to follow "expected"."""
        ...

    def read(self, text: str) -> Any:
        """Return the value of a text that is not blank.

        Raises:
            ValueError: The text is not as expected; the error's own text says how to mend it, and
                never repeats the text that came.
        """
        ...

    def show(self, value: Any) -> str:
        """Return a value, which is not None, as people read it."""
        ...


@frozen
class Whole:
    """A whole number between bounds that are both allowed; `maximum` None means no upper bound."""

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
        """Read decimal digits, with a minus sign at most."""
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
class Flag:
    """Yes or no."""

    @property
    def expected(self) -> str:
        """Every word that is taken, in whatever case."""
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
    """One of some words, in whatever case."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Every word that is taken."""
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
class Words:
    """A list, separated with commas; blanks and repetitions do not count.

    Attributes:
        what: What the words are.
        allowed: The only words taken, None where this is not the place to judge them. Where it
            is given there must be one at least.
    """

    what: str
    allowed: tuple[str, ...] | None = None

    @property
    def expected(self) -> str:
        """What the words are and which of them are taken."""
        among = "" if self.allowed is None else f", of {', '.join(self.allowed)}"
        return f"{self.what}, separated with commas{among}"

    def read(self, text: str) -> tuple[str, ...]:
        """Read the words in their order."""
        words = tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
        if self.allowed is not None and not (words and set(words) <= set(self.allowed)):
            raise ValueError("leave out every other one, and name one at least")
        return words

    def show(self, value: tuple[str, ...]) -> str:
        """Show the words as they are written."""
        return ", ".join(value) or "none"


@frozen
class Text:
    """Any text. A secret is taken as it is, with its blanks, and only its length is ever shown.

    Attributes:
        what: What the text is.
        secret: Whether its value must never appear anywhere.
    """

    what: str
    secret: bool = False

    @property
    def expected(self) -> str:
        """What the text is."""
        return self.what

    def read(self, text: str) -> str:
        """Read the text."""
        return text if self.secret else text.strip()

    def show(self, value: str) -> str:
        """Show the text, or of a secret that it is there."""
        return f"set, {len(value.encode())} bytes" if self.secret else value


@frozen
class WebUrl:
    """An absolute URL of a page, without a credential in it; a wrong one is never repeated."""

    @property
    def expected(self) -> str:
        """How it begins and what it must not have."""
        return "a URL with https:// or http://, without user, password and fragment"

    @property
    def secret(self) -> bool:
        """True: what is refused for its password must not be shown for it."""
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
            raise ValueError("write it like https://login.example.com/jwks")
        if "@" in parts.netloc:
            raise ValueError("leave out user and password")
        if "#" in url:
            raise ValueError("leave out the # and what follows")
        return url

    def show(self, value: str) -> str:
        """Show the URL, which has nothing secret in it."""
        return value


@frozen
class DatabaseUrl:
    """A database, as SQLAlchemy writes it; only `show` ever shows it, without what may be secret.

    Attributes:
        schemes: What each may begin with before `://`, in whatever case.
    """

    schemes: tuple[str, ...] = ("sqlite", "postgresql", "postgres", "postgresql+psycopg")

    @property
    def expected(self) -> str:
        """How it begins."""
        *others, last = (f"{scheme}://" for scheme in self.schemes)
        return f"a URL with {', '.join(others)} or {last}"

    @property
    def secret(self) -> bool:
        """True: it may have a password in it."""
        return True

    def read(self, text: str) -> str:
        """Read the URL; its scheme comes back in lower case."""
        scheme, colon, rest = text.strip().partition(":")
        scheme = scheme.lower()
        if scheme not in self.schemes:
            bare = scheme.partition("+")[0]
            known = colon and bare in self.schemes
            raise ValueError(f"leave out the driver: {bare}://" if known else "use one of these")
        url = _parsed(f"{scheme}:{rest}")
        if scheme == "sqlite" and url.host:
            raise ValueError("write three slashes before a relative path, four before another")
        if scheme != "sqlite" and not url.database:
            raise ValueError("name the database: postgresql://user@host/database")
        return f"{scheme}:{rest}"

    def show(self, value: str) -> str:
        """Show the URL without its password, and without its query, which may have one too."""
        return make_url(value).set(query={}).render_as_string(hide_password=True)


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        # `from None`: the parser's text has the URL in it.
        raise ValueError(
            "write it like postgresql://user:password@host/database, other characters than letters "
            "and digits percent-encoded"
        ) from None


def is_loopback(url: str) -> bool:
    """Whether a URL is of this very machine: `localhost`, or a loopback address."""
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
        kind: How its text is read.
        meaning: What it is for.
        beyond: What happens beyond it, or without what it asks for; empty where nothing does.
        required: How to get one, where staging and production do not start without; else empty.
        in_file: Whether it may stand in a file that `file_env` names, as a secret should.
    """

    env: str
    kind: Kind
    meaning: str
    beyond: str = ""
    required: str = ""
    in_file: bool = False

    @property
    def file_env(self) -> str:
        """The name of the variable that names a file with it."""
        return f"{self.env}{FILE_SUFFIX}"

    def read(self, text: str) -> Any:
        """Return the value of a text that is not blank.

        Raises:
            ValueError: It is wrong; the text is the whole line that says so, without the value
                where that is a secret.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                fault(self.env, "bytes that are not UTF-8", self.kind.expected, "write it in UTF-8")
            ) from None
        try:
            return self.kind.read(text)
        except ValueError as error:
            # `from None`: a traceback must not lead to the value.
            raise ValueError(
                fault(self.env, self._came(text), self.kind.expected, str(error))
            ) from None

    def show(self, value: Any) -> str:
        """Return the value as people read it, or of a secret that it is there."""
        return "not set" if value is None else self.kind.show(value)

    @property
    def explanation(self) -> str:
        """The meaning and what happens beyond it, in one line."""
        if not self.beyond:
            return self.meaning
        when = "beyond it" if isinstance(self.kind, Whole) else "else"
        return f"{self.meaning}; {when}: {self.beyond}"

    def _came(self, text: str) -> str:
        if getattr(self.kind, "secret", False):
            return f"{len(text.encode())} bytes (kept secret)"
        return quoted(text)


def quoted(text: str) -> str:
    """Return `text` in quotes, in ASCII, without control characters and cut where it is long."""
    return ascii(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def fault(name: str, came: str, expected: str, mend: str) -> str:
    """Return the one line that tells of a wrong setting."""
    return f"{name}: got {came}, expected {expected}; {mend}"
