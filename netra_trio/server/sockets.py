"""Listening sockets and TLS contexts, made from the command's options."""

import errno
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from attrs import frozen

from netra_trio.errors import SettingsError

BACKLOG = 1024  # connections that may wait to be accepted: after a restart all clients come at once
PORT_TRIES = 10  # of a free port that has to be free on every address
# Whether the system spreads connections over the sockets of one port. macOS has SO_REUSEPORT too,
# and gives all connections to one of them.
IS_BALANCING = sys.platform.startswith("linux")

_IPV4_ANY, _IPV6_ANY = ip_address("0.0.0.0"), ip_address("::")  # noqa: S104 - only compared
_NO_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

_Address: TypeAlias = IPv4Address | IPv6Address


class CannotListen(Exception):
    """The address cannot be listened on; the text says why.

    Attributes:
        is_taken: Whether another socket listens on it.
    """

    def __init__(self, host: str, port: int, error: OSError) -> None:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error)
        super().__init__(f"cannot listen on {host} port {port}: {reason}")
        self.is_taken = number == errno.EADDRINUSE


@frozen
class _Bind:
    """An address to listen on.

    Attributes:
        host: What the caller asked for.
        address: One of its addresses.
        is_only: Whether the host has no other one.
    """

    host: str
    address: _Address
    is_only: bool


def listen(hosts: str | Sequence[str], port: int) -> list[socket.socket]:
    """Return listening sockets, all with the same port; `port` 0 takes a free one.

    Args:
        hosts: A host or several: addresses, or names, of which every address is listened on. `::`
            is every address of IPv6 and of IPv4.
        port: The port.

    Raises:
        CannotListen: If an address is taken, or not this machine's.
    """
    return [sock for (sock,) in _listen_groups(hosts, port, 1)]


def listen_for_workers(
    hosts: str | Sequence[str], port: int, workers: int
) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker, all with the same port; 0 takes a free one.

    Each worker has a socket of its own for each address, over which the system spreads the
    connections. Where it does not spread them, all workers have the same sockets.

    Args:
        hosts: As for `listen`.
        port: The port.
        workers: The number of workers.

    Raises:
        CannotListen: If an address is taken, or not this machine's.
    """
    groups = _listen_groups(hosts, port, workers if IS_BALANCING else 1)
    return [[group[worker % len(group)] for group in groups] for worker in range(workers)]


def address_of(sock: socket.socket) -> str:
    """Return the address of a listening socket, as `host:port`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family is socket.AF_INET6 else f"{host}:{port}"


def secure(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Return a TLS context for HTTP/1.1 and HTTP/2, with TLS 1.2 or later.

    Raises:
        SettingsError: If the files cannot be read, or do not belong together.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    try:
        tls.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        files = f"--certfile {certfile}" + (f", --keyfile {keyfile}" if keyfile else "")
        raise SettingsError(f"{files}: {reason}") from None
    return tls


def _listen_groups(hosts: str | Sequence[str], port: int, count: int) -> list[list[socket.socket]]:
    """Return `count` listening sockets for each address."""
    binds = _binds([hosts] if isinstance(hosts, str) else hosts, port)
    for tries_left in reversed(range(PORT_TRIES)):
        try:
            return _listen(binds, port, count)
        except CannotListen as fault:
            # A free port of the first address may be taken on another one.
            if not (fault.is_taken and port == 0 and len(binds) > 1 and tries_left):
                raise
    raise AssertionError("the last try returns or raises")


def _binds(hosts: Sequence[str], port: int) -> list[_Bind]:
    """Return the addresses of the hosts, without those that another one includes."""
    binds: dict[_Address, _Bind] = {}
    for host in hosts:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise CannotListen(host, port, error) from None
        addresses = list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))
        for address in addresses:
            binds.setdefault(address, _Bind(host, address, is_only=len(addresses) == 1))
    includes_all = _IPV6_ANY in binds and _IPV4_ANY not in binds and _has_both()
    return [
        bind
        for address, bind in binds.items()
        if address in {_IPV4_ANY, _IPV6_ANY}
        or not (includes_all or (_IPV4_ANY if address.version == 4 else _IPV6_ANY) in binds)  # noqa: PLR2004
    ]


def _listen(binds: Sequence[_Bind], port: int, count: int) -> list[list[socket.socket]]:
    groups: list[list[socket.socket]] = []
    both = _has_both() and _IPV4_ANY not in {bind.address for bind in binds}
    with ExitStack() as opened:
        for bind in binds:
            taken = groups[0][0].getsockname()[1] if groups else port
            try:
                group = _listen_on(bind, taken, count, both=both)
            except OSError as error:
                raise CannotListen(bind.host, port, error) from None
            if group:
                groups.append(group)
                for sock in group:
                    opened.enter_context(sock)
        opened.pop_all()
    if not groups:
        raise CannotListen(binds[0].host, port, OSError(errno.EADDRNOTAVAIL, "no address"))
    return groups


def _listen_on(bind: _Bind, port: int, count: int, *, both: bool) -> list[socket.socket]:
    """Return listening sockets; none for an address of a name that is not usable here."""
    socks: list[socket.socket] = []
    with ExitStack() as opened:
        try:
            for _ in range(count):
                sock = opened.enter_context(_bound(bind, port, is_shared=bool(socks), both=both))
                socks.append(sock)
                if count > 1:
                    # The first one shares its port only after its bind, which otherwise would
                    # succeed beside another server of the same user.
                    _share_port(sock)
                port = sock.getsockname()[1]
        except OSError as error:
            if error.errno in _NO_FAMILY and not bind.is_only:
                return []
            raise
        for sock in socks:  # after every bind: a port with a listener cannot be bound again
            sock.listen(BACKLOG)
        opened.pop_all()
    return socks


def _bound(bind: _Bind, port: int, *, is_shared: bool, both: bool) -> socket.socket:
    is_ipv6 = isinstance(bind.address, IPv6Address)
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if is_ipv6:
            is_only_ipv6 = not (both and bind.address == _IPV6_ANY)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_only_ipv6)
        if is_shared:
            _share_port(sock)
        sock.bind((str(bind.address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _share_port(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)


def _has_both() -> bool:
    return socket.has_dualstack_ipv6()
