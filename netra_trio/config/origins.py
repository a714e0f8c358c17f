"""Which browser origins may enter: parsed and compared part by part, never matched as text.

>>> policy = OriginPolicy.parse("production", ["https://*.example.com"])
>>> policy.allows("https://app.example.com")
True
>>> policy.refusal("https://example.com")
"the origin 'https://example.com' is not allowed"
"""

import ipaddress
import string
from collections.abc import Iterable
from enum import Enum
from typing import Self

from attrs import frozen

DEVELOPMENT = "development"
STAGING = "staging"
PRODUCTION = "production"
ENVIRONMENTS = (DEVELOPMENT, STAGING, PRODUCTION)
"""Every environment, from the most open to the strictest."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""The schemes an origin may have, with the port that is meant where none is written."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts whose http origins enter on any port, in development and staging."""

MAX_ORIGIN = 253  # characters: the longest name DNS allows; no browser on the internet sends more
MAX_PORT = 65_535
MAX_LABEL = 63  # characters: the longest label DNS allows
MAX_SHOWN = 80  # characters of an origin in a text: long enough to know it by, short enough to log

# The underscore is no host name by RFC 1123, but such names exist and browsers send them.
_LABEL_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "-_")


class Flaw(Enum):
    """What can be wrong with an origin or a pattern: `(what is wrong, how to mend a pattern)`."""

    TOO_LONG = (f"has more than {MAX_ORIGIN} characters", "shorten it")
    CHARACTERS = (
        "has spaces, control or non-ASCII characters",
        "write the host in its ASCII form (xn--) and separate patterns with commas",
    )
    NULL = (
        "is null, which every sandboxed page sends",
        "serve the page from an origin of its own and name that",
    )
    SCHEME = ("does not begin with http:// or https://", "write it like https://app.example.com")
    USER_INFO = ("has user info", "leave out everything up to the @")
    QUERY = ("has a query or a fragment", "end it behind the host or the port")
    PATH = ("has a path", "end it behind the host or the port, without a slash")
    PORT = (
        "has a wrong port",
        f"write a number from 1 to {MAX_PORT}, or none for the scheme's own",
    )
    TRAILING_DOT = ("has a host that ends with a dot", "leave out the last dot")
    HOST = (
        "has no host name or address that a browser would send",
        "write it like https://app.example.com, http://127.0.0.1:3000 or http://[::1]:3000",
    )
    STAR = (
        "has a * that is not the whole left-most label",
        "write it like https://*.example.com, and name hosts and ports that differ one by one",
    )
    STAR_ALONE = (
        "lets every page in",
        "name the origins, like https://app.example.com or https://*.example.com",
    )
    STAR_TOO_WIDE = (
        "has its * directly above a single label or an address",
        "name the domain that is yours, like https://*.example.com",
    )
    INSECURE = ("is http, and production takes https only", "write it with https://")

    @property
    def what(self) -> str:
        """What is wrong, to follow the name of the thing."""
        return self.value[0]

    @property
    def mend(self) -> str:
        """What to write into a pattern instead."""
        return self.value[1]


class FlawedOrigin(ValueError):
    """A text is no origin, or no pattern.

    Attributes:
        flaw: What is wrong with it.
    """

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.what)
        self.flaw = flaw


@frozen
class Origin:
    """An origin in its parts, normalised: two are equal where a browser would say so.

    Attributes:
        scheme: `http` or `https`.
        host: In lower case; an IPv6 address compressed and in brackets.
        port: Always a number, the scheme's own where none was written.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take `text` apart.

        Raises:
            FlawedOrigin: It is not what a browser sends for an http or https page.
        """
        if len(text) > MAX_ORIGIN:
            raise FlawedOrigin(Flaw.TOO_LONG)
        if not all("!" <= character <= "~" for character in text):
            raise FlawedOrigin(Flaw.CHARACTERS)
        if text.lower() == "null":
            raise FlawedOrigin(Flaw.NULL)
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        if scheme not in DEFAULT_PORTS:
            raise FlawedOrigin(Flaw.SCHEME)
        for characters, flaw in _NEVER_IN_AUTHORITY:
            if any(character in rest for character in characters):
                raise FlawedOrigin(flaw)
        host, port = _split_port(rest)
        return cls(scheme, _host(host), DEFAULT_PORTS[scheme] if port is None else _port(port))


# Browsers read a backslash as a slash. The order decides which flaw is named first.
_NEVER_IN_AUTHORITY = (("@", Flaw.USER_INFO), ("?#", Flaw.QUERY), ("/\\", Flaw.PATH))


def _split_port(authority: str) -> tuple[str, str | None]:
    """Split host from port; only an IPv6 address, in its brackets, has colons of its own."""
    head, bracket, tail = authority.rpartition("]")
    host, colon, port = tail.partition(":")
    return head + bracket + host, port if colon else None


def _port(text: str) -> int:
    # A leading zero, a sign or an empty port is something no browser writes.
    if not text.isdigit() or text.startswith("0") or len(text) > len(str(MAX_PORT)):
        raise FlawedOrigin(Flaw.PORT)
    port = int(text)
    if port > MAX_PORT:
        raise FlawedOrigin(Flaw.PORT)
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text)
    text = text.lower()
    if text.endswith("."):
        raise FlawedOrigin(Flaw.TRAILING_DOT)
    labels = text.split(".")
    if not all(0 < len(label) <= MAX_LABEL and set(label) <= _LABEL_CHARACTERS for label in labels):
        raise FlawedOrigin(Flaw.HOST)
    if _is_number(labels[-1]):
        # Browsers write every such host as four decimal numbers; `127.1` or `0x7f.1` is a disguise.
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise FlawedOrigin(Flaw.HOST) from None
    return text


def _ipv6(text: str) -> str:
    # A zone (`%eth0`) names an interface of the sender: it means nothing here.
    if not text.endswith("]") or "%" in text:
        raise FlawedOrigin(Flaw.HOST)
    try:
        return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
    except ValueError:
        raise FlawedOrigin(Flaw.HOST) from None


def _is_number(label: str) -> bool:
    return label.isdigit() or (label.startswith("0x") and set(label[2:]) <= set(string.hexdigits))


@frozen
class Pattern:
    """One configured origin, or with `wildcard` everything below it.

    Attributes:
        origin: The origin as written, without its `*.`.
        wildcard: One or more labels must stand in front of the host; the bare host is not meant.
    """

    origin: Origin
    wildcard: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one pattern.

        Raises:
            FlawedOrigin: It could never match, or would let in more than anyone can mean.
        """
        if "*" not in text:
            return cls(Origin.parse(text), wildcard=False)
        if len(text) > MAX_ORIGIN:
            raise FlawedOrigin(Flaw.TOO_LONG)
        if text in {"*", "http://*", "https://*"}:
            raise FlawedOrigin(Flaw.STAR_ALONE)
        scheme, found, rest = text.partition("://*.")
        if not found or "*" in scheme or "*" in rest:
            raise FlawedOrigin(Flaw.STAR)
        origin = Origin.parse(f"{scheme}://{rest}")
        parent, _, top = origin.host.rpartition(".")
        # Which longer suffixes are shared, like co.uk, is a list that changes: the operator knows.
        if not parent or top.isdigit() or origin.host.startswith("["):
            raise FlawedOrigin(Flaw.STAR_TOO_WIDE)
        return cls(origin, wildcard=True)

    def matches(self, origin: Origin) -> bool:
        """Return whether `origin` is this one, or below it where it is a wildcard."""
        if not self.wildcard:
            return origin == self.origin
        mine = self.origin
        return (
            origin.scheme == mine.scheme
            and origin.port == mine.port
            # Labels are never empty: what ends with ".example.com" has one or more before it.
            and origin.host.endswith(f".{mine.host}")
        )


def _pattern_for(environment: str, text: str) -> Pattern:
    pattern = Pattern.parse(text)
    if environment == PRODUCTION and pattern.origin.scheme != "https":
        raise FlawedOrigin(Flaw.INSECURE)
    return pattern


def shown(text: str) -> str:
    """Return `text` fit for a log line or an error: no credential, no control character, short.

    User info, path, query and fragment are left out, as an origin has none and each may hold a
    secret; what is not printable ASCII becomes `?`.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "", text
    rest = rest.rpartition("@")[2]  # first of all, as a password may hold any of the next
    for end in "/\\?#":
        rest = rest.partition(end)[0]
    clean = "".join(c if " " <= c <= "~" else "?" for c in f"{scheme}{found}{rest}")
    return clean if len(clean) <= MAX_SHOWN else f"{clean[: MAX_SHOWN - 3]}..."


@frozen
class OriginPolicy:
    """Decides on the Origin header; a missing one is not its business.

    Attributes:
        patterns: What is configured.
        loopback: Whether http pages on this machine enter too, on any port.
    """

    patterns: tuple[Pattern, ...]
    loopback: bool

    @classmethod
    def parse(cls, environment: str, configured: Iterable[str]) -> Self:
        """Read the configured patterns, to be used in `environment`.

        Raises:
            ValueError: The environment is unknown, or patterns are wrong: one line for each, with
                what is wrong and how to mend it.
        """
        if environment not in ENVIRONMENTS:
            raise ValueError(f"expected one of {', '.join(ENVIRONMENTS)} as the environment")
        patterns: list[Pattern] = []
        faults: list[str] = []
        for text in configured:
            try:
                patterns.append(_pattern_for(environment, text))
            except FlawedOrigin as error:
                faults.append(f"the pattern '{shown(text)}' {error.flaw.what}; {error.flaw.mend}")
        if faults:
            raise ValueError("\n".join(faults))
        return cls(tuple(patterns), loopback=environment != PRODUCTION)

    def allows(self, origin: str) -> bool:
        """Return whether a page of this origin may enter."""
        return self.refusal(origin) is None

    def refusal(self, origin: str) -> str | None:
        """Return why `origin` may not enter, in a short text safe to show; None where it may."""
        try:
            parsed = Origin.parse(origin)
        except FlawedOrigin as error:
            return f"the origin '{shown(origin)}' {error.flaw.what}"
        if self.loopback and parsed.scheme == "http" and parsed.host in LOOPBACK_HOSTS:
            return None
        if any(pattern.matches(parsed) for pattern in self.patterns):
            return None
        return f"the origin '{shown(origin)}' is not allowed"
