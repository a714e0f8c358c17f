"""Opens connections: DNS, TLS, Sentinel, the handshake, and the check of the server.

Each call looks the name up again and asks the Sentinels again: after a fail-over, or in a cluster
that gives a server another address, the old address is useless.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import hiredis
import trio
from attrs import define, field, frozen

from netra_trio.broker.valkey.connection import (
    MORE,
    RECEIVE_BYTES,
    Command,
    Connection,
    new_reader,
    packed,
)
from netra_trio.broker.valkey.replies import code_of
from netra_trio.broker.valkey.scripts import SCRIPTS
from netra_trio.config.redis_url import RedisAddress
from netra_trio.errors import BrokerUnavailable, BrokerUnusable

DIAL_SECONDS = 2.0  # for a server: connect, TLS and handshake
SENTINEL_SECONDS = 0.7  # for a Sentinel: within ANSWER_SECONDS another one has its turn
SEND_BUFFER = 4 * 1024 * 1024  # bytes, of the kernel: with less, the sender waits in bursts
LOWEST_VERSION = (6, 2)  # SET with GET, XTRIM with MINID

_ADVICE = {
    "NOAUTH": "the server requires a password: write it into REDIS_URL, like "
    "redis://:password@host",
    "WRONGPASS": "the server refuses user and password: correct those in REDIS_URL",
    "NOPERM": "the user of REDIS_URL may not do what is needed: docs/settings.md lists it",
    "DENIED": "the server is in protected mode: give it a password, and write it into REDIS_URL",
    "NOPROTO": "the server does not know RESP3: use Valkey, or Redis 6.2 or later",
}
"""The advice for permanent error replies to the handshake, by their codes."""


@frozen
class Server:
    """The properties that a server reports.

    Attributes:
        name: Such as `Valkey 9.1.2`.
        policy: Its `maxmemory-policy`; None if the user may not ask for it.
    """

    name: str
    policy: str | None


@define(eq=False)
class Dialer:
    """Opens connections to one server.

    Attributes:
        address: Where it is.
        name: The name of this client, as `CLIENT LIST` shows it.
        rehearsal: Commands that are tried when a server is checked, to learn what the user may do.
    """

    address: RedisAddress
    name: str
    rehearsal: Sequence[Command] = ()
    _context: ssl.SSLContext | None = field(init=False)
    _sentinels: list[tuple[str, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._sentinels = list(self.address.hosts)
        self._context = tls_context(self.address) if self.address.is_tls else None

    async def dial(self, *, number: int, with_scripts: bool) -> tuple[Connection, Server | None]:
        """Connect, log in, and check that the server can be used.

        Args:
            number: The number of the connection.
            with_scripts: Whether the scripts are loaded, and the settings of the server checked.

        Raises:
            BrokerUnavailable: If it does not answer now.
            BrokerUnusable: If it can never work; the text says what to do.
        """
        path = self.address.path
        if path is not None:
            place, connect = path, partial(_connect_to_path, path)
        else:
            is_direct = self.address.service is None
            host = self.address.hosts[0] if is_direct else await self._primary()
            place, connect = "{}:{}".format(*host), partial(self._connect, host)
        with limited(place, DIAL_SECONDS):
            stream = await connect()
            reader = new_reader()
            try:
                await self._log_in(stream, reader)
                server = await self._prepare(stream, reader) if with_scripts else None
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return Connection(stream, reader, number), server

    async def _connect(self, host: tuple[str, int]) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(*host)
        _enlarge_buffer(stream)
        if self._context is None:
            return stream
        secured = trio.SSLStream(stream, self._context, server_hostname=host[0])
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured

    async def _log_in(self, stream: trio.abc.Stream, reader: hiredis.Reader) -> None:
        address = self.address
        hello: list[bytes | str | int] = ["HELLO", 3]
        if address.password is not None:
            hello += ["AUTH", address.user or "default", address.password]
        hello += ["SETNAME", self.name]
        (told,) = await exchange(stream, reader, [hello])
        if isinstance(told, Exception):
            raise _refusal(told, has_password=address.password is not None)
        _check(told, with_sentinel=address.service is not None)
        if address.database:
            (chosen,) = await exchange(stream, reader, [["SELECT", address.database]])
            if isinstance(chosen, Exception):
                code = code_of(chosen)
                raise BrokerUnusable(
                    f"the server has no database {address.database} for this user ({code}): write "
                    "another number at the end of REDIS_URL"
                )

    async def _prepare(self, stream: trio.abc.Stream, reader: hiredis.Reader) -> Server:
        """Load the scripts, and check what the user may do, and that no key is evicted."""
        loads: list[Command] = [["SCRIPT", "LOAD", script.text] for script in SCRIPTS]
        questions: list[Command] = [["INFO", "SERVER"], ["INFO", "MEMORY"]]
        server, memory, *loaded = await exchange(stream, reader, [*questions, *loads])
        for answer in loaded:
            if isinstance(answer, Exception):
                raise _refusal(answer, has_password=True)
        for answer in await exchange(stream, reader, self.rehearsal):
            if isinstance(answer, Exception) and code_of(answer) in _ADVICE:
                raise _refusal(answer, has_password=True)
        told = {**_figures(server), **_figures(memory)}
        policy = told.get("maxmemory_policy")
        if policy not in {None, "noeviction"}:
            raise BrokerUnusable(
                f"the server deletes keys when its memory is full (maxmemory-policy {policy}), and "
                "would lose sessions: set its maxmemory-policy to noeviction, or use another server"
            )
        valkey = told.get("valkey_version")
        name = f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', '')}".rstrip()
        return Server(name, policy)

    async def _primary(self) -> tuple[str, int]:
        """Ask the Sentinels for the address of the server; the first one that knows it counts.

        It is asked first the next time, so that dead ones do not cost their time limits again.
        """
        faults: list[str] = []
        unknown = 0
        for host in tuple(self._sentinels):
            place = "{}:{}".format(*host)
            try:
                with limited(place, SENTINEL_SECONDS):
                    found = await self._ask_sentinel(host)
            except BrokerUnavailable as error:
                faults.append(str(error))
                continue
            if found is not None:
                self._sentinels.remove(host)
                self._sentinels.insert(0, host)
                return found
            unknown += 1
        service = self.address.service
        if unknown == len(self.address.hosts):
            raise BrokerUnusable(
                f"no Sentinel knows the service {service!a}: write its name into REDIS_URL as the "
                "Sentinels have it (`sentinel monitor <name> …`)"
            )
        raise BrokerUnavailable(f"no Sentinel gives an address: {'; '.join(faults)}")

    async def _ask_sentinel(self, host: tuple[str, int]) -> tuple[str, int] | None:
        stream = await self._connect(host)
        try:
            reader = new_reader()
            address = self.address
            question: Command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""]
            (found,) = await exchange(stream, reader, [question])
            # Most Sentinels have no password, and would refuse the user of the server.
            if isinstance(found, Exception) and code_of(found) == "NOAUTH" and address.password:
                login = ["AUTH", *([address.user] if address.user else []), address.password]
                logged_in, found = await exchange(stream, reader, [login, question])
                if isinstance(logged_in, Exception):
                    raise _refusal(logged_in, has_password=True)
            if isinstance(found, Exception):
                raise _refusal(found, has_password=False)
        finally:
            await trio.aclose_forcefully(stream)
        return None if found is None else (found[0].decode(), int(found[1]))


async def _connect_to_path(path: str) -> trio.abc.Stream:
    stream = await trio.open_unix_socket(path)
    _enlarge_buffer(stream)
    return stream


def _enlarge_buffer(stream: trio.SocketStream) -> None:
    with suppress(OSError):  # some systems allow less
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


async def exchange(
    stream: trio.abc.Stream, reader: hiredis.Reader, commands: Sequence[Command]
) -> list[Any]:
    """Send commands and return their replies; errors are among them.

    Raises:
        BrokerUnavailable: If the connection ends first.
    """
    await stream.send_all(b"".join(map(packed, commands)))
    replies: list[Any] = []
    while len(replies) < len(commands):
        value = reader.gets()
        if value is not MORE:
            replies.append(value)
            continue
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise BrokerUnavailable("the server has closed the connection")
        reader.feed(bytes(data))
    return replies


def _figures(info: Any) -> dict[str, str]:
    """Return the lines of a section of INFO; none if the user may not ask for it."""
    if isinstance(info, Exception):
        return {}
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _check(told: Any, *, with_sentinel: bool) -> None:
    """Check what a server tells of itself in the handshake."""
    facts: Mapping[str, str] = {
        key.decode(): value.decode()
        for key, value in (told.items() if isinstance(told, dict) else ())
        if isinstance(key, bytes) and isinstance(value, bytes)
    }
    mode, version = facts.get("mode"), facts.get("version", "")
    if mode == "sentinel":
        raise BrokerUnusable(
            "the server is a Sentinel: write REDIS_URL like sentinel://host:26379/service"
        )
    if mode == "cluster":
        raise BrokerUnusable("Redis Cluster is not supported: use one server, or Sentinel")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < LOWEST_VERSION:
        raise BrokerUnusable(
            f"the server has version {version or 'unknown'}: use Valkey, or Redis 6.2 or later"
        )
    if facts.get("role") != "master":
        # With Sentinel a fail-over is under way; without it the address is that of a replica.
        if with_sentinel:
            raise BrokerUnavailable("the server is a replica, until the Sentinels have agreed")
        raise BrokerUnusable(
            "the server is a replica and takes no writes: write the primary into REDIS_URL, or "
            "the Sentinels"
        )


def _refusal(error: Exception, *, has_password: bool) -> Exception:
    """Return the exception for an error reply to the handshake; it has no text of the server.

    The text could quote the password.
    """
    code = code_of(error)
    advice = _ADVICE.get(code)
    if advice is not None:
        return BrokerUnusable(advice)
    if "unknown command" in str(error):
        return BrokerUnusable(_ADVICE["NOPROTO"])
    if "without any password configured" in str(error) and has_password:
        return BrokerUnusable("the server has no password: remove that in REDIS_URL")
    return BrokerUnavailable(f"the server refuses the connection ({code})")


@contextmanager
def limited(place: str, seconds: float) -> Iterator[None]:
    """Limit a connection attempt in time, and name the place in its error."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise BrokerUnavailable(f"{place} does not answer within {seconds:g} s") from None
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise BrokerUnusable(
                f"the certificate of {place} is not valid ({error.__cause__.verify_message}): name "
                "the file of its authority as ssl_ca_certs in REDIS_URL, or correct the host"
            ) from None
        why = "does not speak TLS" if isinstance(error.__cause__, ssl.SSLError) else "hung up"
        raise BrokerUnavailable(f"{place} {why}") from None
    except hiredis.ProtocolError:
        raise BrokerUnavailable(f"{place} does not speak RESP3") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BrokerUnavailable(f"{place} cannot be reached: {reason}") from None


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """Return the context for TLS.

    Raises:
        BrokerUnusable: If a file that the address names cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=address.ca_file)
        if address.cert_file is not None:
            context.load_cert_chain(address.cert_file, address.key_file)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise BrokerUnusable(
            f"ssl_ca_certs, ssl_certfile or ssl_keyfile in REDIS_URL names a bad file: {reason}"
        ) from None
    return context
