"""A port that is reserved while servers of a test start and stop on it.

    with kept_port() as port:
        with serving(folder, port=str(port)): ...
        with serving(folder, port=str(port)): ...  # no other process has taken it

Other tests run at the same time and use ports too, so a free port may not stay free.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def kept_port(among: Iterable[int] = (0,)) -> Iterator[int]:
    """Reserve the first free port of these; 0 means any port.

    A socket is bound to it and does not listen, so connections are refused. A server that binds it
    with SO_REUSEADDR succeeds; a process that asks for any port, or binds it without, does not.

    Raises:
        OSError: If none is free.
    """
    with socket.socket() as keeper:
        for port in among:
            try:
                keeper.bind((HOST, port))
            except OSError:
                continue
            break
        else:
            raise OSError("no free port")
        keeper.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # after the bind, so that only a free port is bound
        yield int(keeper.getsockname()[1])
