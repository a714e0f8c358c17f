"""Listening sockets and TLS contexts, made from the command's options."""

import os
import socket
import ssl

from netra_trio.errors import SettingsError

BACKLOG = 1024  # connections that may wait to be accepted: after a restart all clients come at once


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `port` 0 takes a free one.

    Raises:
        CannotListen: If the address is taken, or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen on {host} port {port}: {reason}") from None


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
