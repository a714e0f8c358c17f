"""Listening sockets and TLS contexts, made from the command's options."""

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from attrs import frozen

from netra_trio.errors import SettingsError

BACKLOG = 1024  # connections that may wait to be accepted: after a restart all clients come at once
PORT_TRIES = 10  # of a free port that has to be free on every address

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
    binds = _binds([hosts] if isinstance(hosts, str) else hosts, port)
    for tries_left in reversed(range(PORT_TRIES)):
        try:
            return _listen(binds, port)
        except CannotListen as fault:
            # A free port of the first address may be taken on another one.
            if not (fault.is_taken and port == 0 and len(binds) > 1 and tries_left):
                raise
    raise AssertionError("the last try returns or raises")


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


def _listen(binds: Sequence[_Bind], port: int) -> list[socket.socket]:
    socks: list[socket.socket] = []
    both = _has_both() and _IPV4_ANY not in {bind.address for bind in binds}
    try:
        for bind in binds:
            taken = socks[0].getsockname()[1] if socks else port
            try:
                sock = _listen_on(bind, taken, both=both)
            except OSError as error:
                raise CannotListen(bind.host, port, error) from None
            if sock is not None:
                socks.append(sock)
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    if not socks:
        raise CannotListen(binds[0].host, port, OSError(errno.EADDRNOTAVAIL, "no address"))
    return socks


def _listen_on(bind: _Bind, port: int, *, both: bool) -> socket.socket | None:
    """Return a listening socket; None for an address of a name that is not usable here."""
    ipv6 = isinstance(bind.address, IPv6Address)
    try:
        return socket.create_server(
            (str(bind.address), port),
            family=socket.AF_INET6 if ipv6 else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=both and bind.address == _IPV6_ANY,
        )
    except OSError as error:
        if error.errno in _NO_FAMILY and not bind.is_only:
            return None
        raise


def _has_both() -> bool:
    return socket.has_dualstack_ipv6()
