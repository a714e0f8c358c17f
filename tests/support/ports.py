"""A port that nobody else is given, while whoever it is for comes and goes.

    with kept_port() as port:
        with serving(folder, port=str(port)): ...
        with serving(folder, port=str(port)): ...  # nobody has taken it meanwhile

Other tests run at the same time and take ports, too: one that was free a moment ago need not be.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


@contextmanager
def kept_port(among: Iterable[int] = (0,)) -> Iterator[int]:
    """Keep a free port: the first of these that is, where 0 is any.

    It is bound and not listened on, so connections to it are refused. Whoever asks for it with
    SO_REUSEADDR gets it, which servers do; who asks for any port, or tries this, does not.

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
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from now on, not before
        yield int(keeper.getsockname()[1])
