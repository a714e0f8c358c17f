"""The origin policy: origins are parsed and compared part by part, never matched as text.

>>> policy = OriginPolicy.parse("production", ["https://*.example.com"])
>>> policy.refusal("https://app.example.com") is None
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
"""Every environment, from the least to the most strict."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""The schemes an origin may have, with their default ports."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts whose http origins are allowed on any port, in development and staging."""

MAX_ORIGIN = 253  # characters: the longest name DNS allows; no browser on the internet sends more
MAX_PORT = 65_535
MAX_LABEL = 63  # characters: the longest label DNS allows
MAX_SHOWN = 80  # characters of an origin in a text: enough to recognise it, short enough to log

# The underscore is no host name by RFC 1123, but such names exist and browsers send them.
_LABEL_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "-_")


class OriginFault(Enum):
    """A fault of an origin or of a pattern: `(description, how to fix a pattern)`."""

    TOO_LONG = (f"has more than {MAX_ORIGIN} characters", "shorten it")
    CHARACTERS = (
        "has spaces, control or non-ASCII characters",
        "write the host in its ASCII form (xn--) and separate patterns with commas",
    )
    NULL = (
        "is null, which every sandboxed page sends",
        "serve the page from an origin of its own and configure that one",
    )
    SCHEME = ("does not begin with http:// or https://", "write it like https://app.example.com")
    USER_INFO = ("has user info", "leave out everything up to the @")
    QUERY = ("has a query or a fragment", "end it after the host or the port")
    PATH = ("has a path", "end it after the host or the port, without a slash")
    PORT = (
        "has a wrong port",
        f"write a number from 1 to {MAX_PORT}, or omit the default port of the scheme",
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
        "allows every page",
        "list the origins, like https://app.example.com or https://*.example.com",
    )
    STAR_TOO_WIDE = (
        "has its * directly above a single label or an address",
        "use your own domain, like https://*.example.com",
    )
    INSECURE = ("is http, and production requires https", "write it with https://")

    @property
    def description(self) -> str:
        """The fault, to follow the subject of a sentence."""
        return self.value[0]

    @property
    def fix(self) -> str:
        """The correction of a pattern that has it."""
        return self.value[1]


class InvalidOrigin(ValueError):
    """A text is not a valid origin or pattern.

    Attributes:
        fault: The reason.
    """

    def __init__(self, fault: OriginFault) -> None:
        super().__init__(fault.description)
        self.fault = fault


@frozen
class Origin:
    """A parsed and normalised origin: two are equal if they are the same origin for a browser.

    Attributes:
        scheme: `http` or `https`.
        host: In lower case; an IPv6 address compressed and in brackets.
        port: The default port of the scheme if none was written.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `text`.

        Raises:
            InvalidOrigin: A browser never sends this for an http or https page.
        """
        if len(text) > MAX_ORIGIN:
            raise InvalidOrigin(OriginFault.TOO_LONG)
        if not all("!" <= character <= "~" for character in text):
            raise InvalidOrigin(OriginFault.CHARACTERS)
        if text.lower() == "null":
            raise InvalidOrigin(OriginFault.NULL)
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        if scheme not in DEFAULT_PORTS:
            raise InvalidOrigin(OriginFault.SCHEME)
        for characters, fault in _NEVER_IN_AUTHORITY:
            if any(character in rest for character in characters):
                raise InvalidOrigin(fault)
        host, port = _split_port(rest)
        return cls(scheme, _host(host), DEFAULT_PORTS[scheme] if port is None else _port(port))


# Browsers read a backslash as a slash. The order decides which fault is reported first.
_NEVER_IN_AUTHORITY = (
    ("@", OriginFault.USER_INFO),
    ("?#", OriginFault.QUERY),
    ("/\\", OriginFault.PATH),
)


def _split_port(authority: str) -> tuple[str, str | None]:
    """Split host from port; only an IPv6 address, in its brackets, has colons of its own."""
    head, bracket, tail = authority.rpartition("]")
    host, colon, port = tail.partition(":")
    return head + bracket + host, port if colon else None


def _port(text: str) -> int:
    # No browser writes a leading zero, a sign or an empty port.
    if not text.isdigit() or text.startswith("0") or len(text) > len(str(MAX_PORT)):
        raise InvalidOrigin(OriginFault.PORT)
    port = int(text)
    if port > MAX_PORT:
        raise InvalidOrigin(OriginFault.PORT)
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text)
    text = text.lower()
    if text.endswith("."):
        raise InvalidOrigin(OriginFault.TRAILING_DOT)
    labels = text.split(".")
    if not all(0 < len(label) <= MAX_LABEL and set(label) <= _LABEL_CHARACTERS for label in labels):
        raise InvalidOrigin(OriginFault.HOST)
    if _is_number(labels[-1]):
        # Browsers normalise such a host to four decimal numbers and never send `127.1` or `0x7f.1`.
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise InvalidOrigin(OriginFault.HOST) from None
    return text


def _ipv6(text: str) -> str:
    # A zone (`%eth0`) names an interface of the sender and is meaningless here.
    if not text.endswith("]") or "%" in text:
        raise InvalidOrigin(OriginFault.HOST)
    try:
        return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
    except ValueError:
        raise InvalidOrigin(OriginFault.HOST) from None


def _is_number(label: str) -> bool:
    return label.isdigit() or (label.startswith("0x") and set(label[2:]) <= set(string.hexdigits))


@frozen
class Pattern:
    """One configured origin, or with `wildcard` every origin whose host is below it.

    Attributes:
        origin: The origin as written, without its `*.`.
        wildcard: Matches hosts with one or more further labels in front, and not the bare host.
    """

    origin: Origin
    wildcard: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one pattern.

        Raises:
            InvalidOrigin: It can never match, or is too wide to be intended.
        """
        if "*" not in text:
            return cls(Origin.parse(text), wildcard=False)
        if len(text) > MAX_ORIGIN:
            raise InvalidOrigin(OriginFault.TOO_LONG)
        if text in {"*", "http://*", "https://*"}:
            raise InvalidOrigin(OriginFault.STAR_ALONE)
        scheme, found, rest = text.partition("://*.")
        if not found or "*" in scheme or "*" in rest:
            raise InvalidOrigin(OriginFault.STAR)
        origin = Origin.parse(f"{scheme}://{rest}")
        parent, _, top = origin.host.rpartition(".")
        # Longer public suffixes, like co.uk, are a list that changes: they are not checked.
        if not parent or top.isdigit() or origin.host.startswith("["):
            raise InvalidOrigin(OriginFault.STAR_TOO_WIDE)
        return cls(origin, wildcard=True)

    def matches(self, origin: Origin) -> bool:
        """Return whether `origin` is this one, or for a wildcard, is below it."""
        if not self.wildcard:
            return origin == self.origin
        own = self.origin
        return (
            origin.scheme == own.scheme
            and origin.port == own.port
            # Labels are never empty, so a host that ends with ".example.com" has one before it.
            and origin.host.endswith(f".{own.host}")
        )


def _pattern_for(environment: str, text: str) -> Pattern:
    pattern = Pattern.parse(text)
    if environment == PRODUCTION and pattern.origin.scheme != "https":
        raise InvalidOrigin(OriginFault.INSECURE)
    return pattern


def shown(text: str) -> str:
    """Return `text` shortened and cleaned for a log line or an error.

    User info, path, query and fragment are removed: an origin has none, and each may contain a
    credential. Characters other than printable ASCII become `?`.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "", text
    rest = rest.rpartition("@")[2]  # first, as a password may contain the characters below
    for end in "/\\?#":
        rest = rest.partition(end)[0]
    clean = "".join(c if " " <= c <= "~" else "?" for c in f"{scheme}{found}{rest}")
    return clean if len(clean) <= MAX_SHOWN else f"{clean[: MAX_SHOWN - 3]}..."


@frozen
class OriginPolicy:
    """Decides on the value of an Origin header; a missing header is decided elsewhere.

    Attributes:
        patterns: The configured patterns.
        loopback: Whether http pages on this machine are allowed too, on any port.
    """

    patterns: tuple[Pattern, ...]
    loopback: bool

    @classmethod
    def parse(cls, environment: str, configured: Iterable[str]) -> Self:
        """Parse the configured patterns for use in `environment`.

        Raises:
            ValueError: The environment is unknown, or patterns are invalid: one line for each,
                with the fault and how to fix it.
        """
        if environment not in ENVIRONMENTS:
            raise ValueError(f"expected one of {', '.join(ENVIRONMENTS)} as the environment")
        patterns: list[Pattern] = []
        faults: list[str] = []
        for text in configured:
            try:
                patterns.append(_pattern_for(environment, text))
            except InvalidOrigin as error:
                faults.append(
                    f"the pattern '{shown(text)}' {error.fault.description}; {error.fault.fix}"
                )
        if faults:
            raise ValueError("\n".join(faults))
        return cls(tuple(patterns), loopback=environment != PRODUCTION)

    def refusal(self, origin: str) -> str | None:
        """Return why `origin` is refused, in a short text that is safe to show; None if allowed."""
        try:
            parsed = Origin.parse(origin)
        except InvalidOrigin as error:
            return f"the origin '{shown(origin)}' {error.fault.description}"
        if self.loopback and parsed.scheme == "http" and parsed.host in LOOPBACK_HOSTS:
            return None
        if any(pattern.matches(parsed) for pattern in self.patterns):
            return None
        return f"the origin '{shown(origin)}' is not allowed"
