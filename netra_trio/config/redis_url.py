"""The URL of the broker: a Valkey or Redis server, or the Sentinels that know one.

>>> address = parse("rediss://app:s%2Fecret@cache.example.com/2")
>>> address.user, address.hosts, address.is_tls, address.database
('app', (('cache.example.com', 6379),), True, 2)
>>> address.shown
'rediss://app:***@cache.example.com:6379/2'
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from attrs import evolve, field, frozen

from netra_trio.config.value_kinds import check_ends, is_loopback

REDIS_PORT = 6379
SENTINEL_PORT = 26379
MAX_DATABASE = 9999  # far above the default of 16 databases: a larger number is a typing error

_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_OTHER_NAMES = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}
_OPTIONS = {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_EXAMPLE = "redis://user:password@host:6379/0"
_ENCODE = "percent-encode characters other than letters and digits in user and password"


@frozen
class RedisAddress:
    """The address of the broker, and the credentials.

    Attributes:
        hosts: Names or addresses with ports: the server, or its Sentinels; empty with `path`.
        path: The path of a Unix socket.
        is_tls: Whether the connections are encrypted; with Sentinels, those to them too.
        ca_file: A file with the certificates to trust, instead of those of the system.
        cert_file: A file with the certificate of this client.
        key_file: A file with its key, if the key is not in `cert_file`.
        user: The user; None for `default`.
        database: The number of the database.
        service: The name that the Sentinels know the server by; None without Sentinels.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    is_tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    service: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, as far as the address shows."""
        return all(is_loopback(f"//{_shown_host(name)}") for name, _ in self.hosts)

    @property
    def place(self) -> str:
        """The server without user and password, as log lines and errors show it."""
        if self.path is not None:
            return self.path
        hosts = ",".join(f"{_shown_host(name)}:{port}" for name, port in self.hosts)
        return hosts if self.service is None else f"{self.service} of {hosts}"

    @property
    def shown(self) -> str:
        """The URL without the password."""
        secret = "" if self.password is None else ":***"
        user = "" if self.user is None else quote(self.user, safe="")
        login = f"{user}{secret}@" if user or secret else ""
        if self.path is not None:
            return f"unix://{login}{quote(self.path)}" + _shown_number("?db=", self.database)
        hosts = ",".join(f"{_shown_host(name)}:{port}" for name, port in self.hosts)
        scheme = ("redis" if self.service is None else "sentinel") + ("s" if self.is_tls else "")
        service = "" if self.service is None else f"/{quote(self.service, safe='')}"
        return f"{scheme}://{login}{hosts}{service}" + _shown_number("/", self.database)


def parse(text: str) -> RedisAddress:
    """Parse a URL.

    Raises:
        ValueError: It is invalid; the text says how to fix it, and contains nothing of the URL.
    """
    parts = _split(text)
    options = _options(parts)
    login, _, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    address = RedisAddress(
        user=_decoded(user) or None,
        password=_decoded(password) or None,
        is_tls=parts.scheme in {"rediss", "sentinels"},
    )
    if parts.scheme == "unix":
        return _with_path(address, place, parts.path, options)
    if "db" in options:
        raise ValueError(f"write the number of the database at the end, like {_EXAMPLE}")
    if options and not address.is_tls:
        raise ValueError(f"begin with {parts.scheme}s:// to use {next(iter(options))}")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("add ssl_certfile, which belongs to ssl_keyfile")
    address = evolve(
        address,
        ca_file=options.get("ssl_ca_certs"),
        cert_file=options.get("ssl_certfile"),
        key_file=options.get("ssl_keyfile"),
    )
    segments = [_decoded(each) for each in parts.path.removesuffix("/").split("/")[1:]]
    if parts.scheme.startswith("sentinel"):
        return _with_sentinels(address, place, segments)
    if len(segments) > 1:
        raise ValueError("write one number after the host, that of the database")
    if "," in place:
        raise ValueError("name one host; several are for sentinel://")
    return evolve(
        address,
        hosts=(_host(place, REDIS_PORT),),
        database=_number(segments[0]) if segments else 0,
    )


def _split(text: str) -> SplitResult:
    scheme, mark, rest = text.partition("://")
    _check_scheme(scheme.lower() if mark else "")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("percent-encode blanks, control and non-ASCII characters")
    # What begins a path ends the host, so that a password with such a character would be cut.
    authority, at, _ = rest.rpartition("@")
    if "#" in rest or (at and re.search("[/?]", authority)):
        raise ValueError(f"write it like {_EXAMPLE}, and {_ENCODE}")
    try:
        return urlsplit(text)
    except ValueError:
        # `from None`: the text of the parser's error contains the URL.
        raise ValueError(f"write it like {_EXAMPLE}, and {_ENCODE}") from None


def _check_scheme(scheme: str) -> None:
    if scheme in _SCHEMES:
        return
    if "cluster" in scheme:
        raise ValueError("Redis Cluster is not supported: use one server, or Sentinel")
    other = _OTHER_NAMES.get(scheme)
    raise ValueError("use one of these" if other is None else f"write it with {other}://")


def _with_path(
    address: RedisAddress, host: str, path: str, options: Mapping[str, str]
) -> RedisAddress:
    if host or path in {"", "/"}:
        raise ValueError("write three slashes before the path: unix:///run/valkey.sock")
    if set(options) - {"db"}:
        raise ValueError("leave out every option but db")
    number = _number(options["db"]) if "db" in options else 0
    return evolve(address, path=_decoded(path), database=number)


def _with_sentinels(address: RedisAddress, place: str, segments: Sequence[str]) -> RedisAddress:
    service, *numbers = segments or [""]
    if not service or len(numbers) > 1:
        raise ValueError("name the service: sentinel://host1:26379,host2:26379/service")
    return evolve(
        address,
        hosts=tuple(_host(each, SENTINEL_PORT) for each in place.split(",")),
        service=service,
        database=_number(numbers[0]) if numbers else 0,
    )


def _options(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs) or not all(options.values()) or set(options) - _OPTIONS:
        raise ValueError(f"after the ? write only {', '.join(sorted(_OPTIONS))}, each once")
    return options


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or text.endswith(":"):
        raise ValueError("write each host as name:port, [address]:port, or without the port")
    return host, port or default_port


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_DATABASE)):
        raise ValueError("write the database as a number, usually 0")
    return int(text)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("percent-encode in UTF-8") from None


def _shown_host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _shown_number(before: str, number: int) -> str:
    return f"{before}{number}" if number else ""


@frozen
class RedisUrl:
    """The kind of the setting; only `show` shows a URL, without its password."""

    @property
    def expected(self) -> str:
        """Its accepted beginnings."""
        *others, last = (f"{scheme}://" for scheme in _SCHEMES)
        return f"a URL with {', '.join(others)} or {last}"

    @property
    def secret(self) -> bool:
        """True: it may contain a password."""
        return True

    def read(self, text: str) -> str:
        """Read the URL; it is returned as it is written."""
        text = text.strip()
        check_ends(text)
        parse(text)
        return text

    def show(self, value: str) -> str:
        """Show the URL without its password."""
        return parse(value).shown
